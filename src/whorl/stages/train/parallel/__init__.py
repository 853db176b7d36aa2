"""How processes share a training, one file each."""

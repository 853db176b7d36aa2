"""How weights move, one file each."""

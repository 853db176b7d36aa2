"""Where the states of a run are saved, one file each."""

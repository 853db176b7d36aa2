"""What is learned, one file each."""

"""What a cluster plan looks like."""

"""What is asked of the planner: flags, and the words of other training tools read into them."""

"""What is on disk: runs, their identity, the code and the machine that made them."""

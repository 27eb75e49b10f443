"""One run in a process of its own, and many beside each other."""

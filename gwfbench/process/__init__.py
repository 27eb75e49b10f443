"""One run in a process of its own, and many of them at once."""

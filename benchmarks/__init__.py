"""Speed of our own code, per commit: `make bench`."""

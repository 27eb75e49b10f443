"""From names to classes: which tasks and methods there are, and how they are configured."""

"""From names to classes: the available tasks and methods, and how they are configured."""

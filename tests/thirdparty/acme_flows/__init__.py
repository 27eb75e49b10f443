"""A task and a method for gwfbench."""

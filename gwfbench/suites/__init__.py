"""Suites: a fixed set of tasks, methods, seeds and budget, whose board can be quoted. One TOML file each."""

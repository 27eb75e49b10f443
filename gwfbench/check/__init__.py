"""The conformance kit: what every task and every method must pass, over any plug-in, with no exception by name.

`outcome` says what a check is, `trial` runs a method under a magnifying glass, `plugin`, `task` and `method` hold the
checks, `kit` applies them.
"""

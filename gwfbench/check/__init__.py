"""The conformance kit: checks that every task and every method must pass, without exceptions for any of them.

`outcome` defines a check and its result, `trial` runs a method step by step, `plugin`, `task`, `method` and `laws` hold
the checks, and `kit` applies them.
"""

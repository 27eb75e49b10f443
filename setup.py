"""Finds the packages; all else is in pyproject.toml.

tasks/ and baselines/ stand at the top of the checkout and are imported as gwfbench.tasks and gwfbench.baselines, which
the search for packages can't know.
"""

from setuptools import find_packages, setup

TOP = {"gwfbench.tasks": "tasks", "gwfbench.baselines": "baselines"}
setup(packages=[*find_packages(include=["gwfbench", "gwfbench.*"]), *TOP], package_dir=TOP)

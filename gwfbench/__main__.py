"""`python -m gwfbench`."""

from gwfbench.cli import main

main()

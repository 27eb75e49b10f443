"""One file, one method. `gwfbench.registry` finds them; nothing imports them by name."""

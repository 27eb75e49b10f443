"""One file, one task. `gwfbench.registry` finds them; nothing imports them by name."""

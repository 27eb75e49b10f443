"""One file, one task. `gwfbench.plugins.registry` finds them; nothing imports them by name."""

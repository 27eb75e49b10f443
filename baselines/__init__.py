"""One file, one method. `gwfbench.plugins.registry` finds them; nothing imports them by name."""

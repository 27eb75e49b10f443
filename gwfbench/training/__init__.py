"""Training loops: min-max, a JKO step, generator against critic, proposals."""

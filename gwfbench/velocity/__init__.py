"""Velocity fields estimated from samples: v(x; q, p), one file per family."""

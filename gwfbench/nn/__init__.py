"""Networks for S seeds at once: parameters carry a leading S, inputs are (S, n, d)."""

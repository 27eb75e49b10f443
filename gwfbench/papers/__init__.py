"""Published numbers, and ours next to them."""

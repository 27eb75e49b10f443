"""One page with everything, as HTML."""

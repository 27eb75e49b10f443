"""Many runs: what was ordered, in which order it runs, plans and clusters."""

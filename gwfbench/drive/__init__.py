"""One run: drives a method, draws the judged points, judges them, keeps checkpoints."""

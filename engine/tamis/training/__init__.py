"""Training loops, their recipes, checkpoints and run records."""

"""Networks that score and are retrained."""

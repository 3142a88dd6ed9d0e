"""Loaders: bundle → batches with images, labels and example ids."""

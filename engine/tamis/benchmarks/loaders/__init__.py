"""Loaders against each other and against what others use, each in a process of its own."""

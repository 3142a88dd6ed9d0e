"""Metrics: what makes an example hard.

``registry`` lists them; ``dynamics`` watches training runs; ``campaign`` computes any set of them
from the fewest trainings.
"""

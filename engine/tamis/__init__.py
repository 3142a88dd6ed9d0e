"""tamis: score the examples of an image dataset, keep the ones worth keeping, retrain, report.

The straight line, one module per stage, in the order in which data passes through them::

    sources → bundles.convert → loaders → inference → metrics / prototypes → score_table
            → selection → bundles.cut → training → sweep → report

Importing this package imports nothing heavy; each stage is imported from its own module.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]

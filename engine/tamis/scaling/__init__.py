"""Error against the number of kept examples: laws, envelopes, verdicts and plans.

``docs/scaling.md`` says what is computed, and why so.

::

    points      runs of a sweep, or of anybody's CSV file
    curves      runs of one metric, side and keep fraction, by size
    noise       how far runs of one cell scatter
    laws        power laws, exponentials, and what lies between
    fitting     least squares, for all resamples side by side
    resampling  what other seeds might have given
    estimates   a number with its interval
    analysis    one curve: laws compared, slopes, held-out sizes
    envelope    the best keep fraction for each number of kept examples
    verdict     better than a power law? in words
    studies     all of it for a set of points
    costs       what trainings and scores take
    planning    which side to keep, and how much
    tables      for files and JSON; figures: pictures
"""

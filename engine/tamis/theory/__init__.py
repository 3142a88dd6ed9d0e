"""The teacher–student perceptron with pruning: solved, simulated, and used to plan.

The analytic part of Sorscher et al., *Beyond neural scaling laws: beating power law scaling via
data pruning* (NeurIPS 2022, arXiv:2206.14486). ``docs/theory.md`` derives the equations.

::

    gaussian      its density
    domain        what may be asked for; who is kept
    plane_moments Gaussian moments of a wedge, in closed form
    kept_law      the same, averaged over what is kept
    solver        error, overlaps and margin of the max-margin student
    margin        the exact max-margin student of a finite training set
    simulation    trials with it, in parallel
    curves        error against size, the best a limited stock allows, the best fraction
    phases        where keeping the hardest wins
    information   what an example tells
    noisy         wrong labels and least squares (noisy_law, noisy_simulation)
    planning      which side, and how much to keep
    points        one point of either student; tables: many
    panels        what is drawn; figures: the paper's figures 1 and 2
"""

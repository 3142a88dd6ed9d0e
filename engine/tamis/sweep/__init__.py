"""Sweeps: metrics × sides × keep fractions × seeds → one record per trial.

``spec`` is what people write, ``grid`` the trials that follow from it, ``records`` what is kept of
them, ``execution`` runs what is missing.
"""

"""Sweeps: metrics × sides × keep fractions × sizes × recipes × seeds → one record per trial.

``spec`` is what people write and ``reading`` reads it, ``grid`` the trials that follow from it,
``planning`` counts and estimates them, ``scoring`` computes scores that no table gives, ``running``
runs what is missing: ``runner`` one trial, ``local`` and ``on_ray`` many; ``records`` is what is
kept, ``results`` finds what of it belongs to a sweep, ``exporting`` and ``tracking`` hand it on.
"""

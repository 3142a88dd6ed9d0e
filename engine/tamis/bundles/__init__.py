"""Bundles: FFCV .beton files that describe themselves.

``layout`` is the format, ``beton`` opens and checks, ``trailer`` holds ids and provenance,
``writer`` lays out pages, ``convert`` and ``cut`` write bundles, ``verify`` proves them.
"""

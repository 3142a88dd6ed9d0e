"""Sources: where images come from.

A source lists its images once, in a fixed order, and hands each out on demand. Adding one is one
file that satisfies :class:`tamis.sources.base.Source` and one line in :mod:`tamis.sources.opening`.
"""

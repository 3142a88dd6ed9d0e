"""Selections: score table → kept ids.

``settings`` says how examples are chosen and ``selecting`` chooses them; ``quotas`` is what every
side keeps to, ``strata``, ``moderate`` and ``message_passing`` (on the graph of ``neighbours``) are
a side each, ``files`` reads and writes.
"""

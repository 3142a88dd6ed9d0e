"""Scores that people already have: read into score tables, and written from them.

In the order that an import takes: ``formats`` opens a file (``array_files``, ``tensor_pickle``,
``csv_files``, ``list_files``) as ``raw_scores``; ``settings`` is what its owner says about it;
``matching`` and ``path_matching`` say which row belongs to which example, ``gaps`` what is missing;
``importing`` makes the table. ``exporting`` goes the other way.
"""

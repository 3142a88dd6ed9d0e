"""What this machine does: rates of tamis against named peers, measured in one run.

``measuring`` holds the protocol; each other file one subject of ``tamis bench``.
"""

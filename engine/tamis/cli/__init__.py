"""The command line: parse, call, print. Nothing heavy is imported before a command runs."""

from tamis.cli.app import main

__all__ = ["main"]

"""The command line, called as people and scripts do."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tamis.cli import main

__all__ = ["Done", "answer", "process_command", "refused", "tamis", "tamis_process"]


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def tamis(*arguments: object) -> Done:
    """Run a command in this process: a new one takes seconds to import torch."""
    out, err = io.StringIO(), io.StringIO()
    before, on_term = sys.argv, signal.getsignal(signal.SIGTERM)
    sys.argv = ["tamis", *map(str, arguments)]
    code: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
        signal.signal(signal.SIGTERM, on_term)
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())


def process_command(*arguments: object) -> list[str]:
    """What starts the command in a process of its own."""
    code = "from tamis.cli import main; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def tamis_process(*arguments: object) -> Done:
    """Run a command in a process of its own."""
    done = subprocess.run(
        process_command(*arguments), capture_output=True, text=True, timeout=300, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def answer(*arguments: object) -> dict[str, Any]:
    """The one JSON object that a command with --json prints."""
    done = tamis(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def refused(*arguments: object) -> str:
    """The one line of a command that ends with exit code 2 and prints nothing else."""
    done = tamis(*arguments)
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, len(lines), done.stdout) == (2, 1, ""), done.stderr
    assert lines[0].startswith("tamis: ")
    return lines[0]

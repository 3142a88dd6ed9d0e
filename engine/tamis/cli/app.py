"""The application: its commands, and how an error ends it."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import traceback
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from tamis import __version__
from tamis.cli import (
    agreement,
    bench,
    bundles,
    conversion,
    exchange,
    runs,
    scaling,
    scores,
    scoring,
    theory,
    training,
)
from tamis.cli.options import help_without_command
from tamis.errors import TamisError, WorkFailedError, first_line

__all__ = ["app", "main"]

_INTERRUPTED = 130

_EPILOG = (
    "Every command: --help. Errors are one line: expected, found, what to do; --debug anywhere"
    " shows the traceback. Exit codes: 0 done, 1 the work failed or damage was found, 2 wrong"
    " usage or unusable input."
)
app = typer.Typer(
    name="tamis",
    help="Score the images of a dataset, keep the ones worth keeping, retrain, report.",
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode=None,  # plain help: typer imports twice as long for help in boxes
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    help_without_command(context)


for command in (
    conversion.convert,
    bundles.inspect,
    bundles.verify,
    scoring.score,
    scoring.metrics,
    scores.embed,
    scores.select,
    exchange.import_scores,
    exchange.export_scores,
    agreement.agreement,
    bundles.cut,
    bundles.merge,
    bundles.shard,
    training.train,
    training.recipes,
    runs.sweep,
    runs.export_records,
    runs.report,
    scaling.fit,
    scaling.plan,
    bench.bench,
    runs.demo,
):
    app.command()(command)
app.add_typer(theory.theory, short_help=theory.theory.info.help)
for registered in (*app.registered_commands, *theory.theory.registered_commands):
    # In the lists of commands the first paragraph, which would be cut off otherwise.
    registered.short_help = inspect.cleandoc(registered.callback.__doc__ or "").partition("\n\n")[0]


def main() -> NoReturn:
    """Run the command line and exit."""
    # Arrow's own pool keeps what was freed; set before anything imports it.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    # A polite end cleans up as Ctrl-C does: no temporary file stays.
    signal.signal(signal.SIGTERM, _terminated)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(arguments, prog_name="tamis", standalone_mode=False)
    except TyperException as error:
        message = error.format_message().replace("\n", " ")
        context = getattr(error, "ctx", None)  # usage errors know the command that they are about
        _end(message, 2, f"see: {context.command_path if context else 'tamis'} --help")
    except TamisError as error:
        if debug:
            traceback.print_exc()
        _end(str(error), error.exit_code)
    except OSError as error:
        if debug:
            traceback.print_exc()
        failed = WorkFailedError(
            error.filename or "a file",
            expected="to read or write it",
            found=error.strerror or str(error),
            do="check permissions and free space",
        )
        _end(str(failed), failed.exit_code)
    except Exception as error:
        if debug:
            traceback.print_exc()
        _end(
            f"an error that tamis does not know: {type(error).__name__}: {first_line(error)}",
            1,
            "please report it with the output of the same command and --debug",
        )
    if code == _INTERRUPTED:  # typer's word for Ctrl-C
        _end("interrupted; nothing is half-written", _INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _terminated(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _end(message: str, code: int, hint: str | None = None) -> NoReturn:
    print(f"tamis: {message}" + (f" ({hint})" if hint else ""), file=sys.stderr, flush=True)
    # Worker threads may still decode; the interpreter would wait for them.
    if code == _INTERRUPTED:
        os._exit(code)
    sys.exit(code)

"""The command line: one verb a public function, same name, same options.

Results go to stdout and progress to stderr. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import Annotated, TextIO

import typer

from repalign.cli import (
    agents,
    autoencoder,
    data,
    designs,
    dynamics,
    instruments,
    maps,
    networks,
    pages,
    scores,
    studies,
    training,
)

VERBS = (
    pages.demo,
    data.cards,
    data.fetch,
    data.ingest,
    data.inspect,
    data.verify_store,
    data.copy_store,
    data.export,
    networks.layers,
    networks.record,
    agents.rollout,
    autoencoder.autoencoder,
    scores.compare,
    dynamics.dynamics,
    maps.searchlight,
    designs.map_layers,
    designs.power,
    scores.recipe,
    pages.report,
    training.finetune,
    instruments.metrics,
    instruments.validity,
    instruments.verify,
    instruments.job_script,
)

INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    help="Compare brains with neural networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Errors are one line; --debug, anywhere, shows the traceback.",
)
for verb in VERBS:
    app.command()(verb)
app.add_typer(studies.app, name="study")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from repalign import __version__

        print(__version__)
        raise typer.Exit


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as one line, as errors are."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def main() -> None:
    """Run the command line; an error is one line on stderr and a non-zero exit code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    sys.argv[1:] = arguments
    if not debug:
        warnings.showwarning = _say
    try:
        app()
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("stopped; a second run goes on where this one was", file=sys.stderr)
        raise
    except Exception as error:  # the one place where every error ends
        if debug:
            traceback.print_exc()
        message = " ".join(str(error).split())
        if not isinstance(error, ValueError | OSError | TypeError | ImportError) or not message:
            message = f"{type(error).__name__}: {message}"  # not one of our own
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)

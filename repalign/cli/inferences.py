"""What `compare --inference` prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def check_options(over: str | None, settings: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    """Raise a ValueError where an option is given that would have no effect."""
    if over is None and settings:
        raise ValueError(
            f"--{next(iter(settings))} applies with --inference only: add --inference stimuli,"
            " subjects or both"
        )
    unused = [name for name, value in others.items() if value is not None]
    if over is not None and unused:
        raise ValueError(
            f"{unused[0]} does not apply with --inference: ceilings and tests come from its own"
            " resamples; leave it out"
        )


def print_inferences(
    recording: Any,
    models: Mapping[str, Any],
    metrics: Sequence[Any],
    settings: Mapping[str, Any],
    *,
    out: Path | None,
    as_json: bool,
) -> None:
    """Infer with each metric, print a table and the claim, and write what is to be kept."""
    from repalign.evidence import infer
    from repalign.inputs import with_patterns

    found = [
        infer(recording, with_patterns(models, metric), metric, progress=True, **settings)
        for metric in metrics
    ]
    if as_json:
        print(json.dumps([one.to_json() for one in found], indent=1, allow_nan=False))
    else:
        print("\n\n".join(one.summary() for one in found))
    if out is not None:
        from repalign.local_files import write_file
        from repalign.reporting.figures import save_figure
        from repalign.reporting.model_comparison import plot_models

        for number, one in enumerate(found):
            folder = out if len(found) == 1 else out / f"{number + 1}-{one.settings['metric']}"
            print(f"inference: {one.save(folder, overwrite=True)}", file=sys.stderr)
            write_file(folder / "summary.txt", one.summary() + "\n")
            print(
                f"figure: {save_figure(plot_models(one), folder / 'models.png')}", file=sys.stderr
            )

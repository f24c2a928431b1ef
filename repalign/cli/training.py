"""Verbs that train."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from repalign.cli.options import Json


def complete_changes(incomplete: str) -> list[str]:
    """Return the keys of a fine-tuning configuration that begin so, each with its ``=``."""
    from repalign.experiments.configuration import ExperimentConfig
    from repalign.training.configuration import known_keys

    keys = known_keys(ExperimentConfig)
    return [f"{key}=" for key in keys if key.startswith(incomplete)]


def complete_controls(incomplete: str) -> list[str]:
    """Return the names of controls that begin so."""
    from repalign.regularize.controls import CONTROLS

    return [name for name in ("all", *CONTROLS) if name.startswith(incomplete)]


def finetune(
    config: Annotated[Path, typer.Argument(help="Configuration of the run, a TOML file.")],
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change one key: SECTION.KEY=VALUE, such as neural.weight=0.5; relative paths are"
            " taken from the configuration's folder. May be repeated.",
            autocompletion=complete_changes,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of checkpoints, log, weights and card.")
    ] = None,
    controls: Annotated[
        str | None,
        typer.Option(
            help="Controls to train beside the aligned network, with the same seeds: 'all', or"
            " names parted by commas; an unknown name lists them.",
            autocompletion=complete_controls,
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="One paired run of every condition a seed: 0,1,2.")
    ] = None,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report",
            help="Train the baseline too, test robustness, audit the alignment and write a page.",
        ),
    ] = True,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--fresh", help="Go on from the last checkpoint in the folder, or start over."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Train a network on a task and toward a recording, and report what it buys; resumes."""
    from repalign.experiments.verdicts import conclusion, verdict
    from repalign.finetuning import finetune as run
    from repalign.inputs import split_words

    given = [*(changes or []), *([] if out is None else [f"out={json.dumps(str(out.absolute()))}"])]
    done = run(
        config,
        changes=given,
        controls=split_words(controls),
        seeds=None if seeds is None else [int(seed) for seed in split_words(seeds) or ()],
        report=report,
        resume=resume,
    )
    if not done.is_first_process:  # of several, one speaks
        return
    last = done.history[-1] if done.history else {}
    summary = {
        "name": done.network.name,
        "ended": done.ended,
        "steps": last.get("step"),
        "val_task": last.get("val_task"),
        "val_alignment": last.get("val_alignment"),
        "best": dict(done.best),
        "weights": str(done.weights),
        "card": None if done.card is None else str(done.card),
        "log": str(done.folder / "log.csv"),
        "report": None if done.report is None else str(done.report),
    }
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    print(f"{summary['name']}: {summary['steps']} steps ({summary['ended']})")
    for key, words in (
        ("val_task", "validation of the task (accuracy)"),
        ("val_alignment", "alignment on held-out stimuli"),
    ):
        if summary[key] is not None:
            print(f"{words}: {summary[key]:.3f}")
    if done.record is not None:
        print(conclusion(verdict(done.record)))
    for key in ("card", "weights", "log", "report"):
        if summary[key] is not None:
            print(f"{key}: {summary[key]}")
    if done.card is not None:
        print(
            f"next: repalign record {done.card} --stimuli DATASET (on stimuli that it was aligned"
            " to, its scores are inflated)",
            file=sys.stderr,
        )

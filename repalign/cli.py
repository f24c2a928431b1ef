"""The command line: one verb a public function, same name, same options.

Results go to stdout and progress to stderr. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import difflib
import json
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class CeilingChoice(StrEnum):
    """Which noise ceiling."""

    auto = "auto"
    split_half = "split-half"
    nili = "nili"
    none = "none"


app = typer.Typer(
    help="Compare brains with neural networks.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Errors are one line; --debug, anywhere, shows the traceback.",
)


# ---- arguments and options that several verbs share ----


def _complete_datasets(incomplete: str) -> list[str]:
    from repalign.cards import list_cards

    return [name for name in list_cards("dataset") if name.startswith(incomplete)]


def _complete_models(incomplete: str) -> list[str]:
    from repalign.cards import list_cards

    return [name for name in list_cards("model") if name.startswith(incomplete)]


def _complete_metrics(incomplete: str) -> list[str]:
    from repalign.metrics import METRICS

    return [name for name in METRICS if name.startswith(incomplete)]


Dataset = Annotated[
    str,
    typer.Argument(
        help="Name of a dataset card, path of a card (.toml), a store (.zarr)"
        " or an array (.npy, .npz, .csv).",
        autocompletion=_complete_datasets,
    ),
]
DatasetCardName = Annotated[
    str,
    typer.Argument(
        help="Name of a dataset card, or path of one (.toml).", autocompletion=_complete_datasets
    ),
]
To = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the stores; by default $REPALIGN_CACHE, else the user's cache folder."
    ),
]
Mirror = Annotated[
    Path | None,
    typer.Option(help="Folder searched for files before the network; by default $REPALIGN_MIRROR."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never use the network; also by $REPALIGN_OFFLINE=1.")
]
Layers = Annotated[
    str | None,
    typer.Option(help="Layers, separated by commas; * matches, 'all' is every leaf module."),
]
Device = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Degrees = Annotated[
    float | None,
    typer.Option(help="Width of the network's input in degrees of visual angle."),
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from repalign import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def demo(
    data: Annotated[
        str,
        typer.Option(
            help="'simulated' (offline, planted truth), or a dataset such as kriegeskorte2008.",
            autocompletion=_complete_datasets,
        ),
    ] = "simulated",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report; by default repalign-demo, with the data's name."),
    ] = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run the whole path once: recording to Zarr, three models, metrics, figure and report."""
    from repalign.demonstration import demonstrate
    from repalign.tables import print_rows

    done = demonstrate(
        data,
        out=out or Path("repalign-demo" if data == "simulated" else f"repalign-demo-{data}"),
        to=to,
        mirror=mirror,
        offline=offline or None,
        device=device,
        say=lambda line: print(line, file=sys.stderr),
    )
    print_rows(done.rows, as_json=as_json, only_best=True)
    if not as_json:
        print(f"{done.verdict}\nreport: {done.report}   ({done.seconds:.0f} s)")


@app.command()
def cards(
    name: Annotated[str | None, typer.Argument(help="Show one card in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the datasets and models that have a card, or show one."""
    from repalign.cards import KINDS, kind_of_file, list_cards, load_card
    from repalign.tables import print_records

    if name is not None:
        kinds = [kind for kind in KINDS if name in list_cards(kind)]
        if not kinds and not name.endswith(".toml"):
            known = [card for kind in KINDS for card in list_cards(kind)]
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            raise ValueError(f"no card is called {name!r}; near: {', '.join(near) or 'none'}")
        kind = kinds[0] if kinds else kind_of_file(Path(name))
        card = load_card(name, kind)
        shown = {"kind": kind, **card.model_dump(mode="json", exclude_none=True)}
        if as_json:
            print(json.dumps(shown, indent=1))
        else:
            print(f"# {card.path}\n{card.path.read_text(encoding='utf-8')}", end="")
        return
    rows = []
    for kind in KINDS:
        for card_name in list_cards(kind):
            try:
                card = load_card(card_name, kind)
            except ValueError as error:
                print(f"error: {error}", file=sys.stderr)
                continue
            rows.append(
                {
                    "kind": kind,
                    "name": card_name,
                    "title": card.title,
                    "access": getattr(card, "access", None) or getattr(card, "weights", None),
                    "licence": card.licence,
                    "path": str(card.path),
                }
            )
    print_records(rows, ("kind", "name", "title", "access", "licence"), as_json=as_json)


@app.command()
def fetch(
    dataset: DatasetCardName,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Download the raw files of a dataset and check their hashes."""
    from repalign.cards import load_dataset_card
    from repalign.fetch import fetch_files
    from repalign.tables import print_records

    files = fetch_files(load_dataset_card(dataset), to=to, mirror=mirror, offline=offline or None)
    rows = [{"role": role, "path": str(path)} for role, path in files.items()]
    print_records(rows, ("role", "path"), as_json=as_json)


@app.command()
def ingest(
    dataset: DatasetCardName,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Read the raw files again in any case.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Read the raw files of a dataset into a chunked Zarr store."""
    from repalign.inputs import recording_rows
    from repalign.loaders import ingest as run
    from repalign.tables import print_records

    recording = run(dataset, to=to, mirror=mirror, offline=offline or None, overwrite=overwrite)
    rows = recording_rows(recording)
    print_records(rows, tuple(rows[0]), as_json=as_json)


@app.command()
def record(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model card or path of one (.toml); NAME@random is the untrained twin.",
            autocompletion=_complete_models,
        ),
    ],
    stimuli: Annotated[
        str,
        typer.Option(
            help="Dataset whose images are shown: a card's name or path, or a store.",
            autocompletion=_complete_datasets,
        ),
    ],
    layers: Layers = None,
    to: To = None,
    batch_size: Annotated[int, typer.Option(help="Stimuli a forward pass.")] = 32,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    mirror: Mirror = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Show the stimuli of a dataset to a network and keep its activations; resumes."""
    from repalign.activations import record as run
    from repalign.inputs import open_recording, split_words
    from repalign.tables import print_records

    where: dict[str, Any] = {"to": to, "mirror": mirror, "offline": offline or None}
    recording = open_recording(stimuli, where)
    found = run(
        model,
        stimuli=recording,
        layers=split_words(layers),
        batch_size=batch_size,
        device=device,
        visual_degrees=visual_degrees,
        **where,
    )
    rows: list[dict[str, Any]] = [
        {
            "layer": name,
            "stimuli": ds.sizes["presentation"],
            "units": ds.sizes["neuroid"],
            "shape": "×".join(map(str, ds.attrs["shape"])),
            "store": str(ds.attrs.get("store", "")),
        }
        for name, ds in found.items()
    ]
    print_records(rows, ("layer", "stimuli", "units", "shape"), as_json=as_json)
    if not as_json:
        print(f"store: {Path(rows[0]['store']).parent}")


@app.command()
def compare(
    dataset: Dataset,
    models: Annotated[
        list[str],
        typer.Argument(
            help="What to compare it with: model cards (NAME@random: the untrained twin), other"
            " datasets, stores, or arrays.",
            autocompletion=_complete_models,
        ),
    ],
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="rsa, cka or ridge; parameters follow a colon: rsa:rdm=euclidean,"
            "comparator=pearson  cka:debiased=false  ridge:folds=10. May be repeated; rsa by"
            " default.",
            autocompletion=_complete_metrics,
        ),
    ] = None,
    layers: Layers = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Part of the recording, such as region=IT or subject=BE,KO."),
    ] = None,
    ceiling: Annotated[
        CeilingChoice,
        typer.Option(
            help="Noise ceiling: over repetitions (split-half), over subjects (nili), or none."
        ),
    ] = CeilingChoice.auto,
    resamples: Annotated[
        int | None,
        typer.Option(
            help="Bootstrap samples of stimuli; 0: no intervals. By default 1000, and fewer (100 or"
            " more) where there are more than 630 stimuli."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of resamples and split halves.")] = 0,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for report.html, profile.png, results.csv and results.json."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a recording with models, layer by layer; ingests and records what is missing."""
    from repalign.comparison import compare as run
    from repalign.inputs import (
        is_model_card,
        layers_for,
        open_model,
        open_population,
        parse_metric,
        select_by_text,
        split_words,
    )
    from repalign.tables import print_rows

    where: dict[str, Any] = {"to": to, "mirror": mirror, "offline": offline or None}
    chosen = [parse_metric(text) for text in metric or ["rsa"]]
    first = open_population(dataset, where)
    for condition in select or []:
        first = select_by_text(first, condition)
    seconds: dict[str, Any] = {}
    for model in models:
        wanted = layers_for(model, split_words(layers), alone=len(models) == 1)
        found = open_model(model, first, wanted, device, visual_degrees, where)
        seconds |= {f"{model} {name}": layer for name, layer in found.items()}
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = {}  # each once, in order
    for one in chosen:
        results = run(
            first,
            seconds,
            one,
            ceiling=ceiling.value,
            n_resamples=resamples,
            seed=seed,
            device=device,
            progress=True,
        )
        rows += results.rows()
        notes[f"{one.name}: {results.note}"] = None
    print("\n".join(notes), file=sys.stderr)
    drawn = {row["metric_parameters"].get("interval", "").rpartition(", ")[2] for row in rows}
    fewer = sorted(words for words in drawn - {"1000 resamples"} if words.endswith("resamples"))
    if resamples is None and fewer:
        print(
            f"intervals from {', '.join(fewer)}, to stay quick; --resamples 1000 takes more",
            file=sys.stderr,
        )
    print_rows(rows, as_json=as_json)
    if out is not None:
        from repalign.reporting import write_report
        from repalign.reporting.sources import citations, software

        cards = [model for model in models if is_model_card(model)]
        report_path = write_report(
            rows,
            out,
            title=f"{Path(dataset).stem} and {', '.join(Path(m).stem for m in models)}",
            provenance={
                "command": ["repalign", *sys.argv[1:]],
                "recording": str(first.attrs.get("fingerprint", "an array")),
                "matching": " | ".join(notes),
                **software(),
            },
            citations=citations(first, cards),
        )
        print(f"report: {report_path}", file=sys.stderr)


@app.command()
def report(
    results: Annotated[
        list[Path], typer.Argument(help="results.json files, or folders that hold them.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("repalign-report"),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Brain and network",
) -> None:
    """Write one page, one figure and one table from the results of earlier runs."""
    from repalign.reporting import read_rows, read_sources, write_report

    rows = read_rows(results)
    provenance, citations = read_sources(results)
    commands = " | ".join(dict.fromkeys(filter(None, provenance)))
    path = write_report(
        rows,
        out,
        title=title,
        provenance={
            "command": ["repalign", *sys.argv[1:]],
            **({"made from": commands} if commands else {}),
        },
        citations=citations,
    )
    print(path)


def main() -> None:
    """Run the command line; an error is one line on stderr and a non-zero exit code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    sys.argv[1:] = arguments
    try:
        app()
    except KeyboardInterrupt:
        print("stopped; a second run goes on where this one was", file=sys.stderr)
        sys.exit(130)
    except Exception as error:  # the one place where every error ends
        if debug:
            traceback.print_exc()
        message = " ".join(str(error).split())
        if not isinstance(error, ValueError | OSError | TypeError | ImportError) or not message:
            message = f"{type(error).__name__}: {message}"  # not one of our own
        print(f"error: {message}", file=sys.stderr)
        sys.exit(1)

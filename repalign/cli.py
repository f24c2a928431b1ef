"""The command line: one verb a public function, same name, same options.

Results go to stdout and progress to stderr. Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import xarray as xr

    from repalign.metrics import Metric

app = typer.Typer(
    help="Compare brains with neural networks.",
    no_args_is_help=True,
    rich_markup_mode="rich",
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
    typer.Option(help="Folder of the stores [default: $REPALIGN_CACHE, else the user's cache]."),
]
Mirror = Annotated[
    Path | None,
    typer.Option(help="Folder searched for raw files before the network [$REPALIGN_MIRROR]."),
]
Offline = Annotated[
    bool, typer.Option("--offline", help="Never use the network [$REPALIGN_OFFLINE].")
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
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("repalign-demo"),
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run the whole path once: recording to Zarr, three models, metrics, figure and report."""
    from repalign.demonstration import demonstrate

    done = demonstrate(
        data,
        out=out,
        to=to,
        mirror=mirror,
        offline=offline or None,
        device=device,
        say=lambda line: print(line, file=sys.stderr),
    )
    _print_rows(done.rows, as_json=as_json, only_best=True)
    if not as_json:
        print(f"{done.verdict}\nreport: {done.report}   ({done.seconds:.0f} s)")


@app.command()
def cards(
    name: Annotated[str | None, typer.Argument(help="Show one card in full.")] = None,
    as_json: Json = False,
) -> None:
    """List the datasets and models that have a card, or show one."""
    from repalign.cards import list_cards, load_card

    if name is not None:
        kinds = [kind for kind in ("dataset", "model") if name in list_cards(kind)]
        kind = kinds[0] if kinds else _kind_by_content(name)
        card = load_card(name, kind)  # type: ignore[arg-type]
        shown = {"kind": kind, **card.model_dump(mode="json", exclude_none=True)}
        if as_json:
            print(json.dumps(shown, indent=1))
        else:
            print(f"# {card.path}\n{card.path.read_text(encoding='utf-8')}", end="")
        return
    rows = []
    for kind in ("dataset", "model"):
        for card_name in list_cards(kind):  # type: ignore[arg-type]
            try:
                card = load_card(card_name, kind)  # type: ignore[arg-type]
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
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(rows, ("kind", "name", "title", "access", "licence"))


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

    files = fetch_files(load_dataset_card(dataset), to=to, mirror=mirror, offline=offline or None)
    rows = [{"role": role, "path": str(path)} for role, path in files.items()]
    print(json.dumps(rows, indent=1)) if as_json else _print_table(rows, ("role", "path"))


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
    from repalign.loaders import ingest as run

    recording = run(dataset, to=to, mirror=mirror, offline=offline or None, overwrite=overwrite)
    rows = _describe_recording(recording)
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(rows, tuple(rows[0]))


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

    where: dict[str, Any] = {"to": to, "mirror": mirror, "offline": offline or None}
    recording = _open_recording(stimuli, where)
    found = run(
        model,
        stimuli=recording,
        layers=_split(layers),
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
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        _print_table(rows, ("layer", "stimuli", "units", "shape"))
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
            "comparator=pearson  cka:debiased=false  ridge:folds=10. May be repeated."
            " [default: rsa]",
            autocompletion=_complete_metrics,
        ),
    ] = None,
    layers: Layers = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Part of the recording, such as region=IT or subject=BE,KO."),
    ] = None,
    ceiling: Annotated[str, typer.Option(help="auto, split-half, nili or none.")] = "auto",
    resamples: Annotated[
        int | None,
        typer.Option(help="Bootstrap samples of stimuli; 0: no intervals [default: up to 1000]."),
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

    where: dict[str, Any] = {"to": to, "mirror": mirror, "offline": offline or None}
    chosen = [_parse_metric(text) for text in metric or ["rsa"]]
    first = _open_population(dataset, where)
    for condition in select or []:
        first = _select(first, condition)
    seconds: dict[str, Any] = {}
    for model in models:
        wanted = _layers_for(model, _split(layers), alone=len(models) == 1)
        found = _open_model(model, first, wanted, device, visual_degrees, where)
        seconds |= {f"{model} {name}": layer for name, layer in found.items()}
    rows: list[dict[str, Any]] = []
    for one in chosen:
        results = run(
            first,
            seconds,
            one,
            ceiling=ceiling,  # type: ignore[arg-type]
            n_resamples=resamples,
            seed=seed,
            device=device,
            progress=True,
        )
        rows += results.rows()
    print(results.note, file=sys.stderr)
    _print_rows(rows, as_json=as_json)
    if out is not None:
        from repalign.demonstration import citations
        from repalign.reporting import write_report

        cards = [model for model in models if _is_model_card(model)]
        report_path = write_report(
            rows,
            out,
            title=f"{Path(dataset).stem} and {', '.join(Path(m).stem for m in models)}",
            provenance={
                "command": ["repalign", *sys.argv[1:]],
                "recording": str(first.attrs.get("fingerprint", "an array")),
                "matching": results.note,
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
    from repalign.reporting import read_rows, write_report

    rows = read_rows(results)
    path = write_report(rows, out, title=title, provenance={"command": ["repalign", *sys.argv[1:]]})
    print(path)


# ---- from words to objects ----


def _split(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _is_array(name: str) -> bool:
    return name.lower().endswith((".npy", ".npz", ".csv"))


def _is_store(name: str) -> bool:
    return name.rstrip("/").endswith(".zarr") or (Path(name) / "manifest.json").is_file()


def _kind_by_content(name: str) -> str:
    """The kind of a card that is given by path, or 'dataset' for a name that no card has."""
    import tomllib

    path = Path(name).expanduser()
    if not name.endswith(".toml") or not path.is_file():
        return "dataset"
    try:
        return "model" if "source" in tomllib.loads(path.read_text("utf-8")) else "dataset"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return "dataset"  # reading the card says what is wrong with it


def _is_model_card(name: str) -> bool:
    from repalign.cards import list_cards, split_twin

    if _is_array(name) or _is_store(name):
        return False
    base = split_twin(name)[0]
    return (
        _kind_by_content(base) == "model" if base.endswith(".toml") else base in list_cards("model")
    )


def _open_recording(name: str, where: Mapping[str, Any]) -> xr.Dataset:
    from repalign.activations import open_layers
    from repalign.loaders import ingest as run

    if not _is_store(name):
        return run(name, **where)
    layers = open_layers(Path(name))
    if len(layers) > 1:
        raise ValueError(f"{name} holds {', '.join(layers)}; give one of them: {name}/LAYER")
    return next(iter(layers.values()))


def _open_population(name: str, where: Mapping[str, Any]) -> xr.Dataset:
    """A recording, or an array file of (repetition ×) stimulus × neuroid."""
    if not _is_array(name):
        return _open_recording(name, where)
    from repalign.comparison import as_population
    from repalign.loaders.arrays import read_array

    path = Path(name).expanduser()
    array, ids = read_array(path, None)
    return as_population(array, path.name, ids)


def _read_layers(name: str) -> dict[str, xr.Dataset]:
    """The arrays of a file as layers of one model."""
    from repalign.activations import features_from_file

    return features_from_file(Path(name).expanduser())


def _layers_for(model: str, layers: list[str] | None, *, alone: bool) -> list[str] | None:
    """The layers asked for; among several models a baseline of one layer keeps its own."""
    if layers is None or alone or not _is_model_card(model):
        return layers
    from repalign.cards import load_model_card, split_twin

    own = load_model_card(split_twin(model)[0]).layers
    if len(own) == 1 and "all" not in layers and not set(own) & set(layers):
        print(f"{model} has one layer, {own[0]}: --layers is for the others", file=sys.stderr)
        return None
    return layers


def _open_model(
    name: str,
    first: xr.Dataset,
    layers: Sequence[str] | None,
    device: str,
    visual_degrees: float | None,
    where: Mapping[str, Any],
) -> dict[str, xr.Dataset]:
    from repalign.activations import open_layers
    from repalign.activations import record as run
    from repalign.cards import list_cards

    if _is_model_card(name):
        return run(
            name,
            stimuli=first,
            layers=layers,
            device=device,
            visual_degrees=visual_degrees,
            **where,
        )
    if visual_degrees is not None:
        raise ValueError(f"--visual-degrees applies to networks, and {name} is none")
    found: dict[str, xr.Dataset]
    if _is_array(name) and first.attrs.get("kind") == "array" and not name.endswith(".npz"):
        found = {"": _open_population(name, where)}
    elif _is_array(name):
        found = _read_layers(name)
    elif _is_store(name):
        found = open_layers(Path(name))
    elif name in list_cards("dataset") or name.endswith(".toml"):
        found = {"": _open_recording(name, where)}
    else:
        from repalign.cards import load_model_card, split_twin

        load_model_card(split_twin(name)[0])  # raises, naming near matches
        raise ValueError(f"no model, dataset or file is called {name!r}")
    if layers is not None:
        missing = [layer for layer in layers if layer not in found]
        if missing:
            raise ValueError(f"no layer {missing[0]!r} in {name}; there are {', '.join(found)}")
        found = {layer: found[layer] for layer in layers}
    return found


def _select(recording: xr.Dataset, condition: str) -> xr.Dataset:
    from repalign.recording import select as run

    name, equals, values = condition.partition("=")
    if not equals:
        raise ValueError(f"--select {condition!r}: expected NAME=VALUE, such as region=IT")
    return run(recording, **{name: values.split(",")})


def _parse_metric(text: str) -> Metric:
    """``rsa:rdm=euclidean,comparator=pearson`` → ``RSA(rdm="euclidean", comparator="pearson")``."""
    import dataclasses

    from repalign.metrics import METRICS

    name, _, options = text.partition(":")
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; there are {', '.join(sorted(METRICS))}")
    kind: Any = METRICS[name]
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    parameters: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if key not in fields or not equals:
            raise ValueError(
                f"metric {text!r}: {option!r} is no parameter of {name};"
                f" there are {', '.join(f'{k}={v}' for k, v in fields.items() if k != 'alphas')}"
            )
        parameters[key] = _parse_value(value, fields[key], f"metric {text!r}: {option!r}")
    metric: Metric = kind(**parameters)
    return metric


def _parse_value(text: str, default: Any, context: str) -> Any:
    """A parameter in the type of its default."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{context}: expected true or false")
        return text.lower() == "true"
    try:
        if isinstance(default, tuple):
            return tuple(float(part) for part in text.split("/"))
        return type(default)(text)
    except ValueError as error:
        expected = type(default).__name__
        raise ValueError(f"{context}: expected a value of type {expected}") from error


# ---- printing ----


def _describe_recording(recording: xr.Dataset) -> list[dict[str, Any]]:
    """One row a (species, region, subject)."""
    from repalign.recording import is_rdm_only, stimulus_ids, targets

    rows = []
    for target, part in targets(recording):
        rdm_only = is_rdm_only(recording)
        rows.append(
            {
                **target._asdict(),
                "stimuli": len(stimulus_ids(part)),
                "presentations": None if rdm_only else part.sizes["presentation"],
                "neuroids": None if rdm_only else part.sizes["neuroid"],
                "store": str(recording.attrs["store"]),
            }
        )
    return rows


def _print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = list(rows)
    for column in columns:
        numeric = all(isinstance(row.get(column), int | float | None) for row in rows)
        # names are never cut; only titles may wrap
        table.add_column(
            column.replace("_", " "),
            justify="right" if numeric and rows else "left",
            no_wrap=column != "title",
        )
    for row in rows:
        table.add_row(
            *("" if row.get(c) is None else str(row[c]) for c in columns), style=row.get("_style")
        )
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=1000)
    console.print(table)


def _print_rows(
    rows: Sequence[Mapping[str, Any]], *, as_json: bool, only_best: bool = False
) -> None:
    """The result table; the best layer of each model and target is bold and marked."""
    if as_json:
        print(json.dumps(rows, indent=1, allow_nan=False))
        return
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = tuple(row[k] for k in ("dataset", "species", "region", "subject", "metric", "model"))
        groups.setdefault(key, []).append(row)
    shown = []
    for group in groups.values():
        best = max(group, key=lambda row: -9.0 if row["value"] is None else row["value"])
        for row in group:
            if only_best and row is not best:
                continue
            marked = row is best and len(group) > 1 and not only_best
            shown.append(
                {
                    "dataset": row["dataset"],
                    "species": row["species"],
                    "region": row["region"],
                    "subject": row["subject"],
                    "model": row["model"],
                    "best layer" if only_best else "layer": row["layer"],
                    "metric": row["metric"],
                    "value": _number(row["value"]) + (" *" if marked else "  "),
                    "95 % interval": _range(row["ci_low"], row["ci_high"]),
                    "noise ceiling": _range(row["ceiling_low"], row["ceiling_high"]),
                    "stimuli": row["n_stimuli"],
                    "neuroids": row["n_neuroids"],
                    "_style": "bold" if marked else None,
                }
            )
    columns = [c for c in shown[0] if c != "_style" and any(row.get(c) for row in shown)]
    _print_table(shown, columns)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


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

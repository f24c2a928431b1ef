"""The main job, from raw files to a report: what `repalign demo` runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from repalign.activations import record
from repalign.comparison import compare
from repalign.loaders import ingest
from repalign.metrics import CKA, RSA, Metric, Ridge
from repalign.recording import is_rdm_only
from repalign.reporting import write_report
from repalign.reporting.sources import citations, software
from repalign.results import Comparison, similarity
from repalign.simulation import write_simulated_dataset
from repalign.store import local_folder

SIMULATED = "simulated"
NETWORK = "efficientnet_lite0"
MODELS = (NETWORK, f"{NETWORK}@random", "pixels")


@dataclass(frozen=True)
class Demonstration:
    """What a demonstration found and where its report is."""

    rows: list[dict[str, Any]]
    verdict: str
    report: Path
    seconds: float


def demonstrate(
    data: str = SIMULATED,
    *,
    out: str | Path = "repalign-demo",
    to: str | Path | None = None,
    mirror: str | Path | None = None,
    offline: bool | None = None,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Demonstration:
    """Ingest a recording, record three models on its stimuli, compare all layers, report.

    Args:
        data: ``simulated``, a population that is read out of a known layer of a trained
            network over procedural scenes (needs no download), or the name of a dataset card.
        out: folder of the report.
        to, mirror, offline, device: as in `repalign.ingest` and `repalign.record`.
        say: told what happens, one line at a time.
    """
    begin = time.perf_counter()
    folder = local_folder(to)
    truth: dict[str, Any] | None = None
    dataset: str | Path = data
    if data == SIMULATED:
        say("simulating an IT population read out of one layer of a trained network")
        dataset = write_simulated_dataset(folder / "demo" / "simulated_it")
        truth = json.loads((dataset.parent / "truth.json").read_text(encoding="utf-8"))
    say(f"ingesting {Path(dataset).stem} into {folder.resolve()}")
    recording = ingest(dataset, to=folder, mirror=mirror, offline=offline)
    metrics: list[Metric] = [RSA()] if is_rdm_only(recording) else [RSA(), CKA(), Ridge()]
    networks: dict[str, dict[str, xr.Dataset]] = {}
    for model in MODELS:
        say(f"recording {model}")
        networks[model] = record(
            model, stimuli=recording, to=folder, mirror=mirror, offline=offline, device=device
        )
    results: list[Comparison] = []
    for metric in metrics:
        say(f"comparing all layers by {metric.name}")
        layers = {f"{m} {name}": ds for m, found in networks.items() for name, ds in found.items()}
        results += compare(recording, layers, metric, device=device, progress=True)
    verdict = _verdict(results, truth)
    rows = [result.row() for result in results]
    report = write_report(
        rows,
        out,
        title=str(recording.attrs.get("title") or data),
        summary=None,
        provenance={
            "command": ["repalign", "demo", "--data", data],
            "verdict": verdict,
            "recording": recording.attrs["fingerprint"],
            **software(),
            "seconds": f"{time.perf_counter() - begin:.0f}",
        },
        citations=citations(recording, MODELS),
    )
    return Demonstration(rows, verdict, report, time.perf_counter() - begin)


def _verdict(results: Sequence[Comparison], truth: dict[str, Any] | None) -> str:
    """Which layer of the trained network each metric finds, and whether it was the planted one."""
    found = {}
    for metric in dict.fromkeys(result.metric for result in results):
        mine = [r for r in results if r.metric == metric and r.model == NETWORK]
        for subject in dict.fromkeys((r.species, r.region, r.subject) for r in mine):
            of_subject = [r for r in mine if (r.species, r.region, r.subject) == subject]
            best = max(of_subject, key=lambda r: similarity(r.value, r.is_distance))
            found[(metric, *subject)] = str(best.layer)
    if truth is None:
        parts = [
            f"{species} {region} {subject}: {layer}"
            for (_, species, region, subject), layer in found.items()
        ]
        return f"best layer of {NETWORK} by rsa: {'; '.join(parts)}"
    planted = truth["layer"]
    right = [key[0] for key, layer in found.items() if layer == planted]
    wrong = [f"{key[0]} found {layer}" for key, layer in found.items() if layer != planted]
    text = f"planted layer {planted}: recovered by {', '.join(right) or 'no metric'}"
    return text + (f"; {'; '.join(wrong)}" if wrong else "")

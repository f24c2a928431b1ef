"""What an alignment is worth over a whole set of stimuli: values beside ceilings and nulls."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from repalign.recording import PRESENTATION, STIMULUS, response_array
from repalign.regularize.alignment_terms import BoundTerm, Pair
from repalign.regularize.neural_batches import NeuralBatches
from repalign.regularize.neural_pass import PassOutput
from repalign.split_half import MINIMUM_REPEATED, has_split_half, split_half_ceiling


def pairs_over_stimuli(
    terms: Sequence[BoundTerm],
    batches: NeuralBatches,
    ids: Sequence[str],
    run: Callable[[Tensor], PassOutput],
) -> list[list[Pair]]:
    """Return each term's pairs of responses to all of these stimuli, gathered batch by batch.

    A layer's responses are kept once, however many terms and time bins they are compared with.
    """
    layers: dict[str, list[list[Tensor]]] = {}
    responses: list[list[Tensor]] = []
    for start in range(0, len(ids), batches.batch_size):
        batch = batches.read(ids[start : start + batches.batch_size])
        responses.append(list(batch.responses))
        for name, outputs in run(batch.images).layers.items():
            layers.setdefault(name, []).append(outputs)
    whole = {name: _joined(parts) for name, parts in layers.items()}
    targets = _joined(responses)
    return [
        term.pairs(whole[term.layer], targets[term.source].to(whole[term.layer][-1].device))
        for term in terms
    ]


def _joined(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Several tensors a batch → each over all batches."""
    return [torch.cat(one) for one in zip(*parts, strict=True)]


def ceiling_of(
    term: BoundTerm, recording: xr.Dataset, ids: Sequence[str], *, seed: int = 0
) -> float | None:
    """Return the split-half ceiling of a term's metric, the mean over time bins.

    None for an objective that is no metric or has no such ceiling, and for recordings with fewer
    than 4 stimuli that were repeated. Only the presentations of ``ids`` are read.
    """
    metric = getattr(term.objectives[0], "metric", None)
    if metric is None or not has_split_half(metric):
        return None
    names = recording[STIMULUS].values.astype(str)
    wanted = set(ids)
    keep = [row for row, name in enumerate(names) if name in wanted]
    counts: dict[str, int] = {}
    for row in keep:
        counts[names[row]] = counts.get(names[row], 0) + 1
    if sum(count > 1 for count in counts.values()) < MINIMUM_REPEATED:
        return None
    repeats = torch.from_numpy(response_array(recording.isel({PRESENTATION: keep}), list(ids)))
    bins = [repeats] if term.bins is None else list(repeats.unbind(-1))
    values = [split_half_ceiling(one, metric, seed=seed).value for one in bins]
    known = [value for value in values if value is not None and value == value]
    return sum(known) / len(known) if known else None


def row_of_term(term: BoundTerm, pairs: Sequence[Pair], *, ceiling: float | None) -> dict[str, Any]:
    """Return a term's row: its value beside ceiling and null.

    Raises:
        ValueError: fewer stimuli than the metric needs.
    """
    x, y = pairs[0]
    needed = term.objectives[0].minimum_stimuli
    if len(x) < needed:
        raise ValueError(
            f"term {term.name!r}: {len(x)} stimuli; {term.objectives[0].name} needs {needed} or "
            "more. Evaluate on more stimuli."
        )
    value = term.value(pairs)
    return {
        "name": term.name,
        "layer": term.layer,
        "metric": term.objectives[0].name.removeprefix("log-"),
        "objective": term.objectives[0].name,
        "value": value,
        "higher_is_more_similar": bool(getattr(term.objectives[0], "higher_is_more_similar", True)),
        "ceiling": ceiling,
        "ceiled_value": None if not ceiling else value / ceiling,
        "null": term.null(pairs),
        "n_stimuli": len(x),
        "n_neuroids": int(y.shape[1]),
    }

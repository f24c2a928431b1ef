"""What a report says of its rows: the summary, the table of best layers and the figure's words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repalign.reporting.profiles import Ceiling, Profile, interval_name, number
from repalign.reporting.shell import number_text, table_html
from repalign.results import similarity

RIVALS = 4  # models named in a sentence of the summary beside the best one


@dataclass(frozen=True)
class Naming:
    """How metrics, targets and intervals are called in one report: briefly, unless ambiguous."""

    metrics: Mapping[str, str]
    interval: str
    with_dataset: bool

    def target(self, profile: Profile) -> str:
        """As in "macaque IT", with the dataset if there are several."""
        return profile.target.name + f" ({profile.target.dataset})" * self.with_dataset


def choose_names(every: Sequence[Profile]) -> Naming:
    """The shortest names that tell the profiles of a report apart."""
    labels = {profile.metric for profile in every}
    return Naming(
        metrics=_without_brackets(labels),
        interval=interval_name(every),
        with_dataset=len({profile.target.dataset for profile in every}) > 1,
    )


def _without_brackets(labels: Iterable[str]) -> dict[str, str]:
    """Labels without their brackets, as far as they then still differ."""
    heads = {label: label.partition(" (")[0] for label in labels}
    every = list(heads.values())
    return {label: head if every.count(head) == 1 else label for label, head in heads.items()}


def summary_text(every: Sequence[Profile], naming: Naming) -> str:
    """The main results as sentences, for `text_html`: one item a target and metric."""
    lines = []
    for target, metric in dict.fromkeys((p.target, p.metric) for p in every):
        rivals = [p for p in every if (p.target, p.metric) == (target, metric)]
        first, *others = sorted(
            rivals,
            key=lambda p: similarity(p.best[1] if p.best else None, p.is_distance),
            reverse=True,
        )
        line = f"- {_sentence(first, naming)}"
        if others:
            named = [_brief(p) for p in others[:RIVALS]]
            named += [f"{len(others) - RIVALS} more below these"] * (len(others) > RIVALS)
            line += f" Next: {'; '.join(named)}."
        lines.append(line)
    rows = [row for profile in every for row in profile.cells.values()]
    undefined = sum(not math.isfinite(number(row["value"])) for row in rows)
    notes = ["Each best layer was chosen by the value given for it, which is therefore optimistic."]
    if undefined:
        notes.append(f"{undefined} of {len(rows)} comparisons have no defined value.")
    if all(row["p"] is None for row in rows):
        notes.append("No differences were tested.")
    if any(p.has_intervals for p in every):
        notes.append(
            "Intervals hold for one layer at a time and are not corrected for the number of layers."
        )
    return "\n".join([*lines, "", " ".join(notes)])


def _sentence(profile: Profile, naming: Naming) -> str:
    """As in "Best layer of alexnet for macaque IT by RSA: conv5 (0.447, …; no ceiling)."."""
    several = len(profile.subjects) > 1 or profile.target.is_group
    who = f", {profile.whose}," if several else ""
    where = f"{profile.model} for {naming.target(profile)}{who} by {naming.metrics[profile.metric]}"
    if profile.best is None:
        return f"No defined value of {where}."
    layer, value = profile.best
    facts = number_text(value)
    if spread := profile.spread(layer):
        facts = f"mean {facts}, subjects {_range(*spread)}"
    elif bar := profile.interval(layer):
        facts += f", {naming.interval} {_range(*bar)}"
    ceiling = profile.ceiling
    facts += f"; noise ceiling {_ends(ceiling)}, {ceiling.kind}" if ceiling else "; no ceiling"
    if len(profile.layers) == 1:
        return f"Value of {where}: {facts}."
    return f"Best layer of {where}: {layer} ({facts})."


def _brief(profile: Profile) -> str:
    """A model's best layer and value, where target and metric are known."""
    if profile.best is None:
        return f"{profile.model}, no defined value"
    layer, value = profile.best
    at = "" if len(profile.layers) == 1 else f" {layer}"
    extent = profile.spread(layer) or profile.interval(layer)
    return f"{profile.model}{at} ({number_text(value)}{f', {_range(*extent)}' if extent else ''})"


def _range(low: float, high: float) -> str:
    """A range with two decimals; "to" keeps a minus sign from meeting a dash.

    A small negative end stays "−0.00", which tells that the range holds zero.
    """
    ends = [f"{end:.2f}".replace("-", "−") for end in (low, high)]
    return (" to " if min(low, high) < 0 else "–").join(ends)


def _ends(ceiling: Ceiling) -> str:
    low, high = (f"{end:.2f}" for end in (ceiling.low, ceiling.high))
    return low.replace("-", "−") if low == high else _range(ceiling.low, ceiling.high)


def best_layers_html(every: Sequence[Profile], naming: Naming) -> str:
    """A table with one row a profile: its best layer, and how sure that value is."""
    kinds = list(dict.fromkeys(p.ceiling.kind for p in every if p.ceiling))
    caption = (
        "The layer of the most similar value for each target, metric and model. It was chosen by "
        "the very values shown, which are therefore optimistic."
    )
    if len(kinds) == 1:
        caption += f" Noise ceiling: {kinds[0]}."
    columns = {
        "target": "Target", "subjects": "Subjects", "metric": "Metric", "model": "Model",
        "layer": "Best layer", "value": "Value", "interval": naming.interval.capitalize(),
        "range": "Subject range", "ceiling": "Noise ceiling",
    }  # fmt: skip
    rows = [_best_row(profile, naming, with_kind=len(kinds) > 1) for profile in every]
    return table_html(rows, columns, caption, once=("metric",))


def _best_row(profile: Profile, naming: Naming, *, with_kind: bool) -> dict[str, Any]:
    layer, value = profile.best or (None, None)
    bar = profile.interval(layer) if layer is not None else None
    spread = profile.spread(layer) if layer is not None else None
    ceiling = profile.ceiling
    return {
        "target": naming.target(profile),
        "subjects": profile.whose,
        "metric": naming.metrics[profile.metric],
        "model": profile.model,
        "layer": layer,
        "value": value,
        "interval": _range(*bar) if bar else None,
        "range": _range(*spread) if spread else None,
        "ceiling": _ends(ceiling) + f" ({ceiling.kind})" * with_kind if ceiling else None,
    }


def figure_words(every: Sequence[Profile]) -> tuple[str, str]:
    """Alt text and caption of the figure, naming only what it shows."""

    def listed(names: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(names))

    targets = listed(", ".join(filter(None, (p.target.name, p.whose))) for p in every)
    alt = (
        f"Line charts of score against layer: a column for each of {targets}; a row for each of "
        f"{listed(p.metric for p in every)}; models {listed(p.model for p in every)}. "
        "The tables below hold every value."
    )
    caption = ["Score of each layer in order of depth, for each target (column) and metric (row)."]
    if any(len(p.subjects) > 1 for p in every):
        caption.append("Thin lines are single subjects and the strong line is their mean.")
    if any(p.has_intervals for p in every):
        given = (
            row["metric_parameters"].get("interval") for p in every for row in p.cells.values()
        )
        made = listed(str(how) for how in given if how)
        caption.append(f"Vertical bars: {interval_name(every)}{f' ({made})' if made else ''}.")
    if {len(p.layers) == 1 for p in every} == {True, False}:
        caption.append("Dashed lines across are models of one layer.")
    if any(p.ceiling for p in every):
        caption.append(
            "Grey: noise ceiling, from the mean over subjects of its lower end to that of its "
            "upper end."
        )
    return alt, " ".join(caption)

"""Metric cards: what every metric is, states and needs, from the metrics themselves."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repalign.metrics import COMPARATORS, METRICS, RDM_METHODS, Metric

COLUMNS = (
    *("metric", "kind", "range", "invariances", "differentiable", "needs"),
    *("formula", "reference"),
)


def _needs(metric: Metric) -> str:
    needs = [f"{metric.minimum_stimuli} stimuli"]
    if metric.needs_repeats:
        needs.append("repetitions")
    if not metric.needs_responses:
        needs.append("RDMs suffice")
    return ", ".join(needs)


def _range(bounds: tuple[float, float]) -> str:
    low, high = (f"{bound:.4g}" if math.isfinite(bound) else "∞" for bound in bounds)
    return f"{'-' if bounds[0] == -math.inf else ''}{low} to {high}"


def _title(metric: Metric) -> str:
    first, _, _ = (type(metric).__doc__ or "").partition("\n")
    return first.strip().rstrip(".")


def card_of(metric: Metric) -> dict[str, Any]:
    """Return the card of a metric: its title, formula, properties, parameters and paper.

    Example:
        >>> from repalign.metrics import CKA
        >>> card_of(CKA())["range"]
        '-1 to 1'
    """
    return {
        "metric": metric.name,
        "title": _title(metric),
        "formula": metric.formula,
        "kind": "similarity" if metric.higher_is_more_similar else "distance",
        "range": _range(metric.range),
        "symmetric": metric.symmetric,
        "invariances": ", ".join(metric.invariances),
        "differentiable": metric.differentiable,
        "needs": _needs(metric),
        "parameters": dict(vars(metric)),
        "reference": metric.reference,
    }


def metric_cards() -> list[dict[str, Any]]:
    """Return the card of every metric in ``METRICS``, with its default parameters."""
    return [card_of(METRICS[name]()) for name in sorted(METRICS)]


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("|", "\\|")


def markdown_of(card: Mapping[str, Any]) -> str:
    """Return a card as a section of Markdown."""
    parameters = ", ".join(
        f"`{name}={_short(value)}`" for name, value in card["parameters"].items()
    )
    lines = [f"## {card['metric']}", "", f"{card['title']}.", "", f"    {card['formula']}", ""]
    shown = {**card, "parameters": parameters or "none"}
    for name in ("kind", "range", "symmetric", "invariances", "differentiable", "needs"):
        lines.append(f"- {name}: {_cell(shown[name]) or 'none'}")
    return "\n".join([*lines, f"- parameters: {shown['parameters']}", f"- {card['reference']}"])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:36]}…)"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table in Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def cards_page() -> str:
    """Return docs/metrics.md: every card, and the RDM methods and comparators that RSA takes."""
    cards = metric_cards()
    overview = markdown_table(COLUMNS, ([card[column] for column in COLUMNS] for card in cards))
    methods = markdown_table(
        ("`rdm=`", "dissimilarity of the patterns x and y of p neuroids", "invariances"),
        ((f"`{name}`", m.formula, ", ".join(m.invariances)) for name, m in RDM_METHODS.items()),
    )
    comparators = markdown_table(
        ("`comparator=`", "similarity of the RDMs a and b", "range", "differentiable", "reference"),
        (
            (f"`{name}`", one.formula, _range(one.range), one.differentiable, one.reference)
            for name, one in COMPARATORS.items()
        ),
    )
    parts = [
        "# Metrics",
        "Written by `python scripts/metric_cards.py` from the metrics themselves; `repalign"
        " metrics` prints them too. Invariances are what may be done to the responses of one side"
        " (of a predictive metric: of the predictor) without changing the value.",
        overview,
        "# RDMs",
        methods,
        "# RDM comparators",
        comparators,
        "# Cards",
        *map(markdown_of, cards),
    ]
    return "\n\n".join(parts) + "\n"

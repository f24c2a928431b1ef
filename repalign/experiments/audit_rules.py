"""The rules of the Goodhart audit, stated beforehand, and how each is judged."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repalign.experiments.audit_changes import (
    CONFIDENCE,
    SMALLEST_GAIN,
    Change,
    Row,
    change_between,
    pooled,
)

LEAST_SHARE = 1 / 3  # of the gain on trained stimuli, below which held-out ones have not gained
CLEAR_SHARE = 1 / 2  # from which on they have
CLEAR_METRICS = 1 / 2  # of the other metrics, which must rise on held-out stimuli

RULES: dict[str, str] = {
    "counts": (
        f"A change counts where it exceeds {SMALLEST_GAIN:g} and its {CONFIDENCE:.0%} interval (t,"
        " of its errors over seeds and over stimuli). Changes are of the value above its null, the"
        " value with stimuli shuffled, and positive where the network became more similar."
    ),
    "gain": "There is something to audit only where the trained metric rose on trained stimuli.",
    "stimuli": (
        "Held-out stimuli must keep half of that gain; with less than a third of it, and no room"
        " for half within its interval, the trained stimuli were memorised."
    ),
    "metrics": (
        "Of the metrics of other families at least half must rise on held-out stimuli and none"
        " fall; where none rises, or more fall than rise, the metric was gamed."
    ),
    "subjects": (
        "Held-out subjects or neuroids of the trained regions must gain too; where there is no"
        " room for a third of the gain, the network is not cleared."
    ),
    "regions": "Other regions and recordings are reported, and decide nothing.",
}


@dataclass(frozen=True)
class RuleResult:
    """What came of one of the ``RULES``: True, False, or None where it is open; and in words."""

    rule: str
    passed: bool | None
    text: str


Pair = dict[tuple[Any, ...], tuple[list[Row], list[Row]]]


@dataclass(frozen=True)
class Evidence:
    """The paired rows of one condition, asked for by what the rules speak of."""

    pairs: Pair

    def rows(self) -> list[tuple[Row, Change | None]]:
        """Return each measurement and its change, None where it is undefined."""
        return [(after[0], change_between(before, after)) for before, after in self.pairs.values()]

    def own(self) -> list[Row]:
        """Return the rows that training optimised."""
        return [
            row
            for row, _ in self.rows()
            if row["trained_metric"] and row["neuroids"] == row["stimuli"] == "trained"
        ]

    def chosen(self, stimuli: str, neuroids: str, regions: set[str] | None) -> Any:
        """Return rows of the trained layers; ``regions`` None: those that were not trained."""
        own = self.own()
        layers, trained = ({row[name] for row in own} for name in ("layer", "region"))
        return [
            (row, change)
            for row, change in self.rows()
            if row["layer"] in layers
            and row["stimuli"] == stimuli
            and row["neuroids"] == neuroids
            and (row["region"] not in trained if regions is None else row["region"] in regions)
        ]

    def trained(self, stimuli: str, neuroids: str = "trained") -> Change | None:
        """Return the change of the trained metric in the trained regions."""
        regions = {row["region"] for row in self.own()}
        found = self.chosen(stimuli, neuroids, regions)
        return pooled(change for row, change in found if row["trained_metric"])

    def elsewhere(self, stimuli: str) -> Change | None:
        """Return the change of the trained metric in regions that were not trained on."""
        found = self.chosen(stimuli, "held out", None)
        return pooled(change for row, change in found if row["trained_metric"])

    def others(self) -> dict[str, Change]:
        """Return the changes, on held-out stimuli, by each metric of another family."""
        own = {row["metric"] for row in self.own()}
        families = {name.partition(":")[0] for name in own}
        by_metric: dict[str, list[Change | None]] = {}
        for row, change in self.chosen("held out", "trained", {r["region"] for r in self.own()}):
            if row["metric"].partition(":")[0] not in families:
                by_metric.setdefault(row["metric"], []).append(change)
        means = {name: pooled(changes) for name, changes in by_metric.items()}
        return {name: change for name, change in means.items() if change is not None}


def judge(found: Evidence, gain: Change) -> tuple[RuleResult, ...]:
    """Return what comes of each rule, given a gain."""
    stimuli = _judge_stimuli(found.trained("held out"), gain)
    metrics = _judge_metrics(found.others(), stimuli_open=stimuli.passed is None)
    name = "held out" if found.trained("held out") is not None else "trained"
    subjects = _judge_subjects(found.trained(name, "held out"), gain, name)
    elsewhere = found.elsewhere(name)
    text = (
        "No other region or recording was measured."
        if elsewhere is None
        else f"In regions or recordings not trained on it changed by {change_text(elsewhere)}"
        f" ({name} stimuli)."
    )
    return (stimuli, metrics, subjects, RuleResult("regions", None, text))


def _judge_stimuli(held_out: Change | None, gain: Change) -> RuleResult:
    if held_out is None:
        text = "No held-out stimuli were measured, so memorising cannot be ruled out."
        return RuleResult("stimuli", None, text)
    share = held_out.mean / gain.mean
    passed: bool | None = None
    if share >= CLEAR_SHARE and held_out.rose:
        passed = True
    elif share < LEAST_SHARE and not held_out.may_reach(CLEAR_SHARE * gain.mean):
        passed = False
    words = {True: "generalises", False: "does not generalise", None: "may or may not generalise"}
    text = (
        f"The gain {words[passed]} to other stimuli: {change_text(gain)} on trained ones,"
        f" {change_text(held_out)} on held-out ones ({share:.0%} of it)."
    )
    return RuleResult("stimuli", passed, text)


def _judge_metrics(others: Mapping[str, Change], *, stimuli_open: bool) -> RuleResult:
    if not others:
        text = "No other metric was measured on held-out stimuli, so the gain stands alone."
        return RuleResult("metrics", None, text)
    rose = [name for name, change in others.items() if change.rose]
    fell = [name for name, change in others.items() if change.fell]
    passed: bool | None = None
    if rose and len(rose) >= CLEAR_METRICS * len(others) and not fell:
        passed = True
    elif (not rose or len(fell) > len(rose)) and not stimuli_open:
        passed = False
    each = ", ".join(f"{name} {change_text(change)}" for name, change in others.items())
    text = (
        f"Of {len(others)} metrics of other families {len(rose)} rose and {len(fell)} fell on"
        f" held-out stimuli: {each}."
    )
    return RuleResult("metrics", passed, text)


def _judge_subjects(held_out: Change | None, gain: Change, stimuli: str) -> RuleResult:
    if held_out is None:
        return RuleResult("subjects", None, "No subject or neuroid was held out.")
    passed: bool | None = None
    if held_out.rose:
        passed = True
    elif not held_out.may_reach(LEAST_SHARE * gain.mean):
        passed = False
    words = {True: "reaches", False: "does not reach", None: "may or may not reach"}
    text = (
        f"The gain {words[passed]} held-out subjects or neuroids: {change_text(held_out)}"
        f" ({stimuli} stimuli)."
    )
    return RuleResult("subjects", passed, text)


def change_text(change: Change) -> str:
    """Return a change in words, with its standard error where that is known."""
    error = change.error
    return f"{change.mean:+.3f}" if math.isnan(error) else f"{change.mean:+.3f} ± {error:.3f}"

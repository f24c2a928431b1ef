"""The Goodhart audit: a measure that is optimised stops measuring.

What training raised is asked for again where training did not look: other metrics, held-out
stimuli, held-out subjects and neuroids, other regions, and the same for every control.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repalign.experiments.audit_changes import KEYS, Change, Row, rows_by_key, table_row
from repalign.experiments.audit_rules import RULES, Evidence, Pair, RuleResult, change_text, judge


@dataclass(frozen=True)
class GoodhartAudit:
    """The audit of one experiment.

    Args:
        outcome: ``clear``, ``gamed``, ``undecided`` or ``nothing to audit``.
        verdict: the same in one sentence, which never names the trained metric's gain alone.
        reasons: a sentence a rule, and one on the controls where there are some.
        rules: what came of each rule.
        rows: the table: per condition and measurement the change from the baseline, its spread and
            t interval over seeds, its standard error over seeds and stimuli with the half width
            of its 95 % interval (``reach``), and its sign-flip p with the smallest one that so
            many seeds can give. Rows of trained and of held-out
            stimuli stand together, and all metrics beside the trained one.
    """

    outcome: str
    verdict: str
    reasons: tuple[str, ...]
    rules: tuple[RuleResult, ...]
    rows: tuple[Mapping[str, Any], ...]

    @property
    def passed(self) -> bool | None:
        """True where it is clear, False where it was gamed, else None."""
        return {"clear": True, "gamed": False}.get(self.outcome)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, for a report."""
        return {
            "outcome": self.outcome,
            "verdict": self.verdict,
            "passed": self.passed,
            "reasons": list(self.reasons),
            "rules": [
                {"rule": one.rule, "says": RULES[one.rule], "passed": one.passed, "text": one.text}
                for one in self.rules
            ],
            "rows": [dict(row) for row in self.rows],
        }


def goodhart_audit(
    runs: Sequence[Row], *, aligned: str = "aligned", baseline: str = "baseline"
) -> GoodhartAudit:
    """Judge by rules stated beforehand whether an optimised alignment measures anything else.

    All changes are paired by seed: aligned − baseline, or control − baseline. The rules are
    ``RULES``:

    - *gain*: the trained metric must have risen on trained stimuli and neuroids, else there is
      ``nothing to audit``.
    - *stimuli*: passes where held-out stimuli rose by half of that or more; fails below a third,
      if half lies outside its 95 % interval.
    - *metrics*: passes where at least half of the metrics of other families (rsa, ridge …, where
      cka was trained) rose on held-out stimuli and none fell; fails where none rose, or more fell
      than rose. While *stimuli* is open it cannot fail.
    - *subjects*: held-out subjects and neuroids of the trained regions, if there are any.

    ``gamed``: *stimuli* or *metrics* fails. ``clear``: both pass, and *subjects* does not fail.
    ``undecided``: anything else.

    Args:
        runs: one mapping a run, with ``condition``, ``seed`` and ``alignment``, the rows of
            `AlignmentPanel.rows`. Only seeds that the baseline has too are used.
        aligned, baseline: the conditions compared; all others are controls.

    Raises:
        ValueError: a condition is missing or stands twice for a seed, no seed is shared, or no row
            was trained on.

    Note:
        With one seed the standard error is that of the stimuli alone, from a jackknife that leaves
        out a tenth of them at a time: the verdict is then on these two networks, not on the method.

    Example:
        >>> def run(condition, values):
        ...     rows = [
        ...         {"layer": "top", "region": "IT", "subject": "a", "neuroids": "trained",
        ...          "metric": metric, "stimuli": stimuli, "trained_metric": metric == "cka",
        ...          "value": value}
        ...         for (metric, stimuli), value in values.items()]
        ...     return [{"condition": condition, "seed": s, "alignment": rows} for s in range(3)]
        >>> before = {("cka", "trained"): 0.2, ("cka", "held out"): 0.2, ("rsa", "held out"): 0.1}
        >>> after = {("cka", "trained"): 0.9, ("cka", "held out"): 0.2, ("rsa", "held out"): 0.1}
        >>> goodhart_audit(run("baseline", before) + run("aligned", after)).outcome
        'gamed'

    Reference:
        Strathern 1997, https://doi.org/10.1002/(SICI)1234-981X(199707)5:3<305::AID-EURO184>3.0.CO;2-4
    """
    by_condition = _by_condition(runs)
    for name in (aligned, baseline):
        if name not in by_condition:
            raise ValueError(f"no run has condition {name!r}; there are {', '.join(by_condition)}")
    pairs = {
        name: _paired(name, by_condition[baseline], by_condition[name])
        for name in by_condition
        if name != baseline
    }
    found = Evidence(pairs[aligned])
    gain = found.trained("trained")
    rows = [
        table_row(name, before, after)
        for name in sorted(pairs, key=lambda one: one != aligned)
        for before, after in _in_order(pairs[name])
    ]
    if gain is None or not gain.rose:
        change = "is undefined" if gain is None else f"changed by {change_text(gain)}"
        text = f"The trained metric {change} on trained stimuli, which does not count as a gain."
        result = RuleResult("gain", None, text)
        return GoodhartAudit("nothing to audit", text, (text,), (result,), tuple(rows))
    rules = judge(found, gain)
    outcome = _outcome({one.rule: one.passed for one in rules})
    reasons = [one.text for one in rules]
    others = {name: Evidence(pair) for name, pair in pairs.items() if name != aligned}
    if others:
        reasons.append(_on_controls(found, others))
    verdict = _verdict(outcome, found, gain, rules)
    return GoodhartAudit(outcome, verdict, tuple(reasons), rules, tuple(rows))


def _outcome(passed: Mapping[str, bool | None]) -> str:
    if passed["stimuli"] is False or passed["metrics"] is False:
        return "gamed"
    clear = passed["stimuli"] and passed["metrics"] and passed["subjects"] is not False
    return "clear" if clear else "undecided"


def _verdict(outcome: str, found: Evidence, gain: Change, rules: tuple[RuleResult, ...]) -> str:
    held_out, others = found.trained("held out"), found.others()
    rose = sum(change.rose for change in others.values())
    trained = ", ".join(sorted({row["metric"] for row in found.own()}))
    beside = "nothing is known of held-out ones"
    if held_out is not None:
        beside = f"by {change_text(held_out)} on held-out ones"
    beside += f", where {rose} of {len(others)} other metrics rose" if others else ""
    text = (
        f"{outcome}: the trained metric ({trained}) rose by {change_text(gain)} on trained stimuli"
    )
    text += f", {beside}."
    failed = [one.rule for one in rules if one.passed is False]
    return text + (f" It fails to generalise over {' and '.join(failed)}." if failed else "")


def _on_controls(found: Evidence, controls: Mapping[str, Evidence]) -> str:
    """Which controls gain as much on the real responses to held-out stimuli as the aligned did."""
    mine = found.trained("held out")
    stimuli = "trained" if mine is None else "held out"
    mine = found.trained("trained") if mine is None else mine
    assert mine is not None
    alike: list[str] = []
    less: list[str] = []
    for name, evidence in controls.items():
        its = evidence.trained(stimuli)
        if its is None:
            continue
        said = f"{name} {change_text(its)}"
        (less if not its.may_reach(mine.mean) else alike).append(said)
    text = f"Gains of the controls on the recording itself, {stimuli} stimuli: "
    text += f"less than the aligned network: {', '.join(less) or 'none'}; "
    return text + f"as much, within their 95 % interval: {', '.join(alike) or 'none'}."


def _by_condition(runs: Sequence[Row]) -> dict[str, dict[Any, dict[tuple[Any, ...], Row]]]:
    found: dict[str, dict[Any, dict[tuple[Any, ...], Row]]] = {}
    for run in runs:
        for name in ("condition", "seed"):
            if name not in run:
                raise ValueError(f"a run has no {name!r}; it has {', '.join(run)}")
        seeds = found.setdefault(run["condition"], {})
        if run["seed"] in seeds:
            raise ValueError(
                f"condition {run['condition']!r} has seed {run['seed']} twice; give one run a seed"
                " (of a dose-response, those of one lambda)"
            )
        seeds[run["seed"]] = rows_by_key(run)
    return found


def _paired(name: str, before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Pair:
    seeds = [seed for seed in after if seed in before]
    if not seeds:
        raise ValueError(f"{name!r} and the baseline share no seed; changes are paired by seed")
    keys = [
        key
        for key in after[seeds[0]]
        if all(key in runs[seed] for runs in (before, after) for seed in seeds)
    ]
    if not any(after[seeds[0]][key]["trained_metric"] for key in keys):
        raise ValueError(f"no row of {name!r} and the baseline has trained_metric=True")
    return {
        key: ([before[seed][key] for seed in seeds], [after[seed][key] for seed in seeds])
        for key in keys
    }


def _in_order(pairs: Pair) -> list[tuple[list[Row], list[Row]]]:
    """Trained neuroids first, the trained metric first among metrics, its held-out stimuli next."""

    def place(key: tuple[Any, ...]) -> tuple[Any, ...]:
        row = dict(zip(KEYS, key, strict=True))
        part = (str(row["layer"]), row["neuroids"] != "trained", row["region"], row["subject"])
        other = not pairs[key][1][0]["trained_metric"]
        return (*part, other, row["metric"], row["stimuli"] != "trained")

    return [pairs[key] for key in sorted(pairs, key=place)]

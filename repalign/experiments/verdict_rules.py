"""The rules that the verdict on an experiment follows, stated beforehand, and their judges."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from repalign.experiments.dose import dose_response
from repalign.experiments.outcomes import (
    CONSISTENT,
    NOT_SIGNIFICANT,
    NOT_TESTED,
    NOT_TRUSTWORTHY,
    ONE_SEED,
    OPPOSITE,
    PASSED,
    SIGNIFICANT,
    counted,
    decimal,
    gain_sentence,
    listed,
    numbers_of,
    outcome_of,
    phrase,
    signed,
)
from repalign.experiments.paired_tests import ALPHA
from repalign.experiments.run_records import (
    Experiment,
    auc_of,
    curve_label,
    masking_by_condition,
    moments,
    runs_of,
)
from repalign.experiments.run_statistics import Difference, robustness_differences

CLEAN_TOLERANCE = 0.02  # two points of accuracy

RULES = {
    "R1": "The aligned network is more robust than the baseline: a larger area under the curve of "
    "accuracy over ε, paired by seed, two-sided exact sign-flip p ≤ .05.",
    "R2": "The gain is specific to the brain's stimulus structure: the aligned network beats, each "
    "by the test of R1, every control with shuffled or random responses that applies.",
    "R3": "The gain is more than label geometry: the aligned network beats the one whose target "
    "was the one-hot labels.",
    "R4": "The gain is specific to this recording: the aligned network beats those aligned to a "
    "non-robust teacher and to another region.",
    "R5": "The gain is not paid for: mean clean accuracy falls by no more than 0.020. Controls "
    "whose clean accuracy is further than that from the aligned network's are named.",
    "R6": "The attacks can be trusted: every condition passes the gradient-masking audit in each "
    "run that was audited. If one fails, this comes first and no comparison with its condition "
    "counts.",
    "R7": "The measure was not gamed: the Goodhart audit clears the aligned network.",
    "R8": "More alignment gives more robustness: over independent runs the partial rank "
    "correlation of λ with the area under the curve, clean accuracy held constant, is positive "
    "with a permutation p ≤ .05, in 2 or more seeds.",
    "R9": "Adversarial training bounds the gain from above: its area under the curve is no "
    "smaller than the aligned network's.",
    "R10": "The gain is more than augmentation: the aligned network beats one that was trained "
    "with jittered images and no alignment.",
    "R11": "The gain needs more than a few dimensions: the aligned network beats the one aligned "
    "to the first principal components of the responses.",
}

SHUFFLES = ("row-shuffle", "within-class-shuffle", "gaussian", "spectrum-matched")


@dataclass(frozen=True)
class Finding:
    """What one rule says of an experiment.

    Args:
        rule: its name in ``RULES``.
        passed: whether it is met; None where these data cannot tell.
        text: one or more sentences.
        outcome: in a word or two, such as "significant", "consistent" or "not tested".
    """

    rule: str
    passed: bool | None
    text: str
    outcome: str


@dataclass(frozen=True)
class Evidence:
    """What several rules look at."""

    experiment: Experiment
    attack: tuple[str, str] | None
    masked: tuple[str, ...]

    def difference(self, against: str, measure: str = "AUC") -> Difference | None:
        """The paired difference of the aligned network and another, by the judged attack."""
        curve = self.attack if measure == "AUC" else (None, None)
        return next(
            (
                one
                for one in robustness_differences(self.experiment, against=against)
                if one.measure == measure and (one.attack, one.norm) == curve
            ),
            None,
        )

    def area(self, condition: str) -> float:
        """Mean area under the judged curve over the seeds of a condition."""
        if self.attack is None:
            return math.nan
        runs = runs_of(self.experiment, condition).values()
        return moments(auc_of(run, *self.attack) for run in runs)[0]

    def is_not_run(self, condition: str) -> bool:
        """Whether a condition has no run, though nothing says that it does not apply."""
        given = {one["name"]: one for one in self.experiment.get("conditions") or ()}
        is_applicable = bool(given.get(condition, {}).get("applicable", True))
        return is_applicable and not runs_of(self.experiment, condition)

    def absence(self, condition: str) -> str:
        """Why a condition cannot be compared."""
        name = phrase(condition)
        for one in self.experiment.get("conditions") or ():
            if one["name"] == condition and not one.get("applicable", True):
                said = str(one.get("reason") or "no reason was given")
                reason = _end(said.removeprefix("not applicable: "))
                return f"{_capital(name)} did not apply: {reason}"
        if self.is_not_run(condition):
            return f"{_capital(name)} was not run."
        return f"{_capital(name)} shares no seed and curve with the aligned network."


def _beats(*controls: str) -> Callable[[str, Evidence], Finding]:
    """A rule that asks for a gain over each of some conditions."""

    def judge(rule: str, evidence: Evidence) -> Finding:
        sentences, outcomes, not_run = [], [], []
        for name in controls:
            difference = evidence.difference(name)
            if difference is None and evidence.is_not_run(name):
                not_run.append(phrase(name))
                continue
            if difference is None:
                sentences.append(evidence.absence(name))
                continue
            sentences.append(gain_sentence(difference))
            if doubtful := [one for one in ("aligned", name) if one in evidence.masked]:
                names = listed(phrase(one) for one in doubtful)
                sentences.append(f"It does not count: {names} failed the masking audit.")
                outcomes.append(NOT_TRUSTWORTHY)
            else:
                outcomes.append(outcome_of(difference))
        if not_run:
            verb = "was" if len(not_run) == 1 else "were"
            sentences.append(f"{_capital(listed(not_run))} {verb} not run.")
        outcome = min(outcomes, key=_SEVERITY.index, default=NOT_TESTED)
        return Finding(rule, PASSED[outcome], " ".join(sentences), outcome)

    return judge


# Of several controls the least favourable one decides.
_SEVERITY = (
    NOT_TRUSTWORTHY, OPPOSITE, NOT_SIGNIFICANT, ONE_SEED, CONSISTENT, SIGNIFICANT, NOT_TESTED,
)  # fmt: skip


def _judge_baseline(rule: str, evidence: Evidence) -> Finding:
    first = _beats("baseline")(rule, evidence)
    if evidence.attack is None or first.outcome == NOT_TESTED:
        return first
    text = f"{first.text} Judged by the area under the curve of {curve_label(*evidence.attack)}."
    every = robustness_differences(evidence.experiment, against="baseline")
    areas = [one for one in every if one.measure == "AUC"]
    others = [
        f"{signed(one.mean)} ({curve_label(one.attack, one.norm)})"
        for one in areas
        if (one.attack, one.norm) != evidence.attack
    ]
    if not others:
        return Finding(rule, first.passed, text, first.outcome)
    text += f" By the other attacks the difference is {listed(others)}."
    if len({one.mean > 0 for one in areas}) > 1:  # then no single attack may carry the claim
        return Finding(rule, None, f"{text} The attacks disagree on its sign.", first.outcome)
    return Finding(rule, first.passed, text, first.outcome)


def _judge_clean(rule: str, evidence: Evidence) -> Finding:
    difference = evidence.difference("baseline", "clean")
    if difference is None:
        return Finding(rule, None, "Clean accuracy cannot be compared.", NOT_TESTED)
    is_kept = difference.mean >= -CLEAN_TOLERANCE
    text = (
        f"Clean accuracy changed by {numbers_of(difference)}: "
        f"{'within' if is_kept else 'more than'} the {decimal(CLEAN_TOLERANCE)} allowed."
    )
    experiment = evidence.experiment
    means = {
        one: moments(run.get("clean") for run in runs_of(experiment, one).values())[0]
        for one in dict.fromkeys(run["condition"] for run in experiment["runs"])
    }
    apart = [
        f"{phrase(name)} ({decimal(mean)})"
        for name, mean in means.items()
        if name not in ("aligned", "baseline") and abs(mean - means["aligned"]) > CLEAN_TOLERANCE
    ]
    if apart:
        text += (
            f" Not matched in clean accuracy to the aligned network ({decimal(means['aligned'])}): "
            f"{listed(apart)}; differences from them are confounded with it."
        )
    return Finding(rule, is_kept, text, "kept" if is_kept else "lost")


def _judge_masking(rule: str, evidence: Evidence) -> Finding:
    audits = masking_by_condition(evidence.experiment)
    unaudited = [phrase(name) for name, passed in audits.items() if passed is None]
    rest = f" Not audited: {listed(unaudited)}." if unaudited else ""
    if evidence.masked:
        names = listed(phrase(name) for name in evidence.masked)
        text = f"The robustness numbers of {names} are not trustworthy: the masking audit failed."
        return Finding(rule, False, text + rest, NOT_TRUSTWORTHY)
    if unaudited or not audits:
        text = "The masking audit is incomplete." if unaudited else "No run was audited."
        return Finding(rule, None, text + rest, NOT_TESTED)
    runs = evidence.experiment["runs"]
    n = sum((run.get("masking") or {}).get("passed") is True for run in runs)
    text = f"Every condition passed the masking audit, in {n} of {len(runs)} runs."
    if n < len(runs):
        text = f"{text[:-1]}; the others were not audited."
    return Finding(rule, True, text, "passed")


def _judge_goodhart(rule: str, evidence: Evidence) -> Finding:
    audit = evidence.experiment.get("audit") or {}
    if not audit:
        return Finding(rule, None, "The Goodhart audit was not run.", NOT_TESTED)
    passed = audit.get("passed")
    said = str(audit.get("outcome") or "")
    word, outcome = "is undecided", said or "undecided"
    if isinstance(passed, bool):
        outcome = "clear" if passed else "not clear"
        word = f"{'clears' if passed else 'does not clear'} the aligned network"
    elif said == "nothing to audit":
        word = "had nothing to audit"
    text = str(audit.get("verdict") or "no verdict was recorded").removeprefix(f"{said}: ")
    text = _end(f"The Goodhart audit {word}: {text}")
    return Finding(rule, passed if isinstance(passed, bool) else None, text, outcome)


def _judge_dose(rule: str, evidence: Evidence) -> Finding:
    if not evidence.experiment.get("dose"):
        return Finding(rule, None, "Only one λ was trained.", NOT_TESTED)
    found = dose_response(evidence.experiment)
    if math.isnan(found.spearman):
        reason = found.reason or "robustness is the same in all runs"
        return Finding(rule, None, f"There is no dose–response: {reason}.", NOT_TESTED)
    text = (
        f"Over {found.n_runs} runs ({counted(found.n_seeds)}, {len(found.doses)} values of λ) the "
        f"rank correlation of λ with robustness is {signed(found.spearman)} (p {decimal(found.p)})"
    )
    if math.isnan(found.partial):
        text += f"; clean accuracy could not be held constant: {found.reason}."
        return Finding(rule, None, text, NOT_TESTED)
    text += (
        f", and {signed(found.partial)} (p {decimal(found.p_partial)}) with clean accuracy held "
        f"constant; smallest attainable p {decimal(found.p_smallest)}."
    )
    if "aligned" in evidence.masked:
        return Finding(
            rule, None, text + " It does not count: the masking audit failed.", NOT_TRUSTWORTHY
        )
    if found.n_seeds < 2:
        return Finding(rule, None, f"{text} It rests on one seed.", ONE_SEED)
    outcome = NOT_SIGNIFICANT
    if found.p_partial <= ALPHA:
        outcome = SIGNIFICANT if found.partial > 0 else OPPOSITE
    said = {SIGNIFICANT: "rises", OPPOSITE: "falls", NOT_SIGNIFICANT: "does not rise significantly"}
    lead = f"Robustness {said[outcome]} with λ beyond what clean accuracy explains."
    return Finding(rule, PASSED[outcome], f"{lead} {text}", outcome)


def _judge_bound(rule: str, evidence: Evidence) -> Finding:
    bound, ours, base = map(evidence.area, ("adversarial-training", "aligned", "baseline"))
    if math.isnan(bound) or math.isnan(ours):
        return Finding(rule, None, evidence.absence("adversarial-training"), NOT_TESTED)
    areas = f"area under the curve {decimal(ours)} aligned, {decimal(bound)} adversarially trained"
    if doubtful := [one for one in ("aligned", "adversarial-training") if one in evidence.masked]:
        names = listed(phrase(one) for one in doubtful)
        text = f"The bound does not count: {names} failed the masking audit ({areas})."
        return Finding(rule, None, text, NOT_TRUSTWORTHY)
    if bound < ours:
        text = f"Adversarial training is no upper bound here: {areas}. Check how it was trained."
        return Finding(rule, False, text, "not a bound")
    text = f"Adversarial training bounds the gain from above: {areas}."
    if bound > base and ours > base:
        share = (ours - base) / (bound - base)
        text += f" Alignment reaches {100 * share:.0f} % of its gain over the baseline."
    return Finding(rule, True, text, "bounded")


def _end(text: Any) -> str:
    text = str(text).strip()
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


JUDGES: dict[str, Callable[[str, Evidence], Finding]] = {
    "R1": _judge_baseline,
    "R2": _beats(*SHUFFLES),
    "R3": _beats("one-hot"),
    "R4": _beats("non-robust-teacher", "other-region"),
    "R5": _judge_clean,
    "R6": _judge_masking,
    "R7": _judge_goodhart,
    "R8": _judge_dose,
    "R9": _judge_bound,
    "R10": _beats("jitter"),
    "R11": _beats("rank-k"),
}

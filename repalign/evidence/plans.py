"""What was asked for, checked: which units are resampled, how, and what that metric allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from repalign.inference import (
    RESAMPLED,
    Draws,
    bootstrap_draws,
    check_interval,
    jackknife_draws,
    subsample_draws,
)
from repalign.inference.draws import OVER, Over
from repalign.inference.flexible_models import FITS, Fit
from repalign.inference.intervals import IntervalChoice, check_confidence
from repalign.inference.significance import Alternative, check_alternative
from repalign.metrics import CKA, RSA, Metric
from repalign.metrics.comparators import comparator_named
from repalign.metrics.pairs import MINIMUM_STIMULI
from repalign.metrics.predictivity import Predictivity

Method = Literal["auto", "bootstrap", "jackknife", "subsampling", "heldout"]
METHODS: tuple[str, ...] = get_args(Method)
Test = Literal["auto", "t", "sign-flip", "resamples"]
TESTS: tuple[str, ...] = get_args(Test)
Correction = Literal["holm", "benjamini-hochberg", "max-t", "none"]
CHOSEN_CORRECTIONS: tuple[str, ...] = get_args(Correction)
ALLOWED = {  # of each kind of metric, how stimuli may be resampled; the first is the usual one
    "rsa": ("bootstrap", "jackknife", "subsampling"),
    "cka": ("jackknife", "subsampling"),
    "predictivity": ("heldout",),
    "other": (),
}
REASONS = {
    "cka": "resampling stimuli with replacement is wrong for CKA: each duplicate puts a"
    " self-product among the pairs, where debiasing does not remove it, and unrelated responses"
    " score up to .89",
    "predictivity": "a stimulus drawn twice would stand in a training and a test set; it is the"
    " held-out predictions that are resampled",
    "rsa": "of RSA it is the stimuli's RDMs that are resampled",
}


@dataclass(frozen=True)
class Plan:
    """The settings of one inference, as `infer` documents them."""

    over: Over
    method: str
    fit: Fit
    interval: IntervalChoice
    confidence: float
    test: Test
    alternative: Alternative
    correction: Correction
    n_resamples: int
    n_permutations: int | None
    n_folds: int | None
    n_repeats: int
    seed: int
    workers: int
    device: torch.device

    @property
    def alpha(self) -> float:
        """The level of the tests."""
        return round(1 - self.confidence, 12)


def kind_of(metric: Metric) -> str:
    """``rsa``, ``cka``, ``predictivity``, or ``other``: which engine resamples it."""
    if isinstance(metric, RSA):
        return "rsa" if comparator_named(metric.comparator).name in RESAMPLED else "other"
    if isinstance(metric, CKA):
        return "cka" if metric.kernel == "linear" else "other"
    return "predictivity" if isinstance(metric, Predictivity) else "other"


def chosen_method(metric: Metric, method: str, *, over: str, fit: str) -> str:
    """How stimuli are resampled for this metric, or a ValueError that says why not so."""
    _check("over", over, OVER)
    _check("method", method, METHODS)
    _check("fit", fit, FITS)
    kind = kind_of(metric)
    if over == "subjects":
        if method not in ("auto", "bootstrap"):
            raise ValueError(
                f"method={method!r} resamples stimuli, and over='subjects' resamples subjects, by a"
                " bootstrap. Leave method out."
            )
        chosen = "bootstrap"
    else:
        chosen = _of_stimuli(metric, kind, method)
    if fit != "fixed" and kind != "rsa":
        raise ValueError(
            f"fit={fit!r} blends RDMs and needs RSA; {metric.name} as it is set fits nothing of the"
            " kind. Use fit='fixed'."
        )
    if (over == "both" or fit != "fixed") and kind == "rsa" and chosen != "bootstrap":
        raise ValueError(
            f"method={chosen!r} does not apply to over={over!r} and fit={fit!r}: the two-factor"
            " correction and cross-validation are made for a bootstrap. Use method='bootstrap'."
        )
    return chosen


def _of_stimuli(metric: Metric, kind: str, method: str) -> str:
    allowed = ALLOWED[kind]
    if not allowed:
        raise ValueError(
            f"{metric.name} as it is set has no resampling of stimuli here; RSA"
            f" ({', '.join(RESAMPLED)}), linear CKA and predictivity have. Use over='subjects'."
        )
    if method != "auto" and method not in allowed:
        raise ValueError(
            f"method={method!r} does not suit {metric.name}: {REASONS[kind]}. Use method="
            f"{' or '.join(repr(one) for one in allowed)}."
        )
    if kind == "predictivity" and getattr(metric, "score", "") != "pearson":
        raise ValueError(
            f"Held-out predictions are resampled under score='pearson'; {metric.name} has"
            f" score={getattr(metric, 'score', '')!r}. Use that, or over='subjects'."
        )
    return allowed[0] if method == "auto" else method


def check_plan(plan: Plan) -> None:
    """Raise a ValueError where settings are unknown or do not go together."""
    check_confidence(plan.confidence)
    check_interval(plan.interval, over=plan.over)
    check_alternative(plan.alternative)
    _check("test", plan.test, TESTS)
    _check("correction", plan.correction, CHOSEN_CORRECTIONS)
    if plan.interval != "t" and (plan.method in ("jackknife", "subsampling")):
        raise ValueError(
            f"interval={plan.interval!r} takes the spread of resampled values as it is, which that"
            f" of a {plan.method} is not: its variance is scaled. Use interval='t'."
        )
    if plan.interval == "bca" and plan.method == "heldout":
        raise ValueError(
            "interval='bca' leaves out one stimulus at a time, which held-out predictions of the"
            " same fit do not tell. Use interval='t' or 'percentile'."
        )
    if plan.interval != "t" and plan.fit != "fixed":
        raise ValueError(
            f"interval={plan.interval!r} would hold what the choice of folds adds; the variance of"
            " cross-validated values is corrected for it. Use interval='t'."
        )
    if plan.test == "sign-flip" and (plan.over != "subjects" or plan.fit != "fixed"):
        raise ValueError(
            "test='sign-flip' flips the signs of whole subjects, whose models are as they are: it"
            " needs over='subjects' and fit='fixed'. Use test='t'."
        )
    if plan.test == "resamples" and (
        plan.over == "both" or plan.method != "bootstrap" or plan.fit != "fixed"
    ):
        raise ValueError(
            "test='resamples' takes the share of bootstrap resamples beyond 0, of stimuli or of"
            " subjects; over both, without replacement, or of held-out predictions whose training"
            " sets overlap, it is no p value. Use test='t'."
        )
    if plan.correction == "max-t" and plan.test == "resamples":
        raise ValueError(
            "correction='max-t' needs a joint null, which shares of resamples have not. Use"
            " correction='holm', or test='t'."
        )
    if plan.n_resamples < 100:
        raise ValueError(
            f"n_resamples is {plan.n_resamples}; expected 100 or more, for a variance that is"
            " worth a test. Use 1000."
        )


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


def folds_for(n_stimuli: int, n_folds: int | None) -> int:
    """Folds for the cross-validation of resampled stimuli, each of 3 distinct ones or more."""
    if n_folds is not None:
        return n_folds
    return 5 if n_stimuli >= 40 else 3 if n_stimuli >= 20 else 2


def make_draws(plan: Plan, n_stimuli: int, n_subjects: int) -> Draws:
    """The resamples of stimuli and subjects, which follow from the seed alone."""
    if plan.method == "jackknife" and plan.over == "stimuli":
        return jackknife_draws(n_stimuli, n_subjects, over="stimuli")
    if plan.method == "subsampling" and plan.over == "stimuli":
        return subsample_draws(n_stimuli, n_subjects, n_resamples=plan.n_resamples, seed=plan.seed)
    least = MINIMUM_STIMULI
    if plan.fit != "fixed":
        least *= folds_for(n_stimuli, plan.n_folds)
        most = math.floor(max(0.75 * n_stimuli, MINIMUM_STIMULI))
        if least > (n_stimuli if plan.over == "subjects" else most):
            raise ValueError(
                f"There are {n_stimuli} stimuli; {folds_for(n_stimuli, plan.n_folds)} folds of 3"
                f" distinct ones in a resample need {math.ceil(least / 0.75)} or more. Use fewer"
                " folds (n_folds=2), or fit='fixed'."
            )
    return bootstrap_draws(
        n_stimuli,
        n_subjects,
        over=plan.over,
        n_resamples=plan.n_resamples,
        seed=plan.seed,
        at_least_stimuli=least if plan.over != "subjects" else MINIMUM_STIMULI,
    )

"""The single checks of the masking audit, each against one reference attack."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from itertools import combinations

from scipy.stats import binom

from repalign.robustness.gradient_attacks import FGSM, NoGradientError
from repalign.robustness.masking_trials import Check, Right, Trial, advantage
from repalign.robustness.square_attack import Square

POINTS = 0.02  # of accuracy that another attack may be stronger by
LOSS_WORDS = {"margin": "margin", "ce": "cross-entropy"}
LOSS_POINTS = 0.05  # CE and margin are different aims: on honest models they differ a little
SHARE = 0.02  # of images that may keep a zero gradient, or outlive an unbounded attack
ALPHA = 0.01  # of the tests that a difference beyond these is no accident of the images
NOISE = 1e-4  # relative difference of two passes that is not rounding on a GPU
GRID = (0.25, 0.5, 1.0, 2.0)  # of eps, for the curve


def _compare(
    trial: Trial, name: str, attack: str, right: Right, *, meaning: str, points: float = POINTS
) -> Check:
    gain, p = advantage(trial.right, right)
    passed = not (gain > points and p < ALPHA)
    found = (
        f"{attack} leaves {right.mean():.1%} of the images right, the reference "
        f"{trial.right.mean():.1%}"
    )
    detail = f"{found}." if passed else f"{found} (p = {p:.1g}). {meaning}"
    values = {"reference": float(trial.right.mean()), "other": float(right.mean())}
    return Check(name=name, passed=passed, detail=detail, values=values | {"p": p})


def _few(name: str, what: str, n_of: int, n: int, meaning: str) -> Check:
    """Check that a share of images is at most 2 %, up to the chance of the sample."""
    p = float(binom.sf(n_of - 1, n, SHARE))
    passed = not (n_of / n > SHARE and p < ALPHA)
    detail = f"{n_of} of {n} images {what}." + ("" if passed else f" {meaning}")
    return Check(name=name, passed=passed, detail=detail, values={"share": n_of / n, "p": p})


def iterations_help(trial: Trial) -> Check:
    """Many steps are no weaker than one."""
    one = trial.right_under(FGSM(norm=trial.reference.norm))
    meaning = "Gradients mislead beyond the first step; look for steep or noisy parts of the model."
    return _compare(trial, "iterations help", "FGSM", one, meaning=meaning)


def steps_suffice(trial: Trial) -> Check:
    """Five times the steps are not stronger."""
    attack = dataclasses.replace(trial.reference, steps=5 * trial.reference.steps)
    meaning = "The attack had not converged; raise steps until this passes."
    name = f"PGD-{attack.steps}"
    return _compare(trial, "steps suffice", name, trial.right_under(attack), meaning=meaning)


def restarts_suffice(trial: Trial) -> Check:
    """Five restarts are not stronger."""
    attack = dataclasses.replace(trial.reference, restarts=5 * trial.reference.restarts)
    meaning = "The loss has many bad maxima; use restarts, and APGD."
    name = f"PGD with {attack.restarts} restarts"
    return _compare(trial, "restarts suffice", name, trial.right_under(attack), meaning=meaning)


def black_box(trial: Trial) -> Check:
    """An attack that sees no gradient is not stronger."""
    attack = Square(norm=trial.reference.norm, queries=trial.queries)
    meaning = "An attack without gradients does better, so the gradients hide what is there."
    name = f"Square with {trial.queries} queries"
    return _compare(trial, "black box", name, trial.right_under(attack), meaning=meaning)


def transfer(trial: Trial) -> Check:
    """Images made on another model are not stronger."""
    if trial.surrogate is None:
        reason = "Skipped: no surrogate was given. Give another model of the same classes."
        return Check(name="transfer", passed=None, detail=reason)
    right = trial.right_after_transfer(trial.surrogate)
    meaning = "Another model's gradients do better than the model's own, which hide what is there."
    return _compare(trial, "transfer", "The attack on the surrogate", right, meaning=meaning)


def losses_agree(trial: Trial) -> Check:
    """The other loss is not stronger by more than 5 points: the margin, or the cross-entropy."""
    other = "margin" if trial.reference.loss == "ce" else "ce"
    right = trial.right_under(dataclasses.replace(trial.reference, loss=other))
    meaning = (
        "Cross-entropy misses what the margin finds; report attacks on the margin or DLR."
        if other == "margin"
        else "The loss of the reference misleads; report attacks on the cross-entropy too."
    )
    return _compare(
        trial,
        "losses agree",
        f"PGD on the {LOSS_WORDS[other]}",
        right,
        meaning=meaning,
        points=LOSS_POINTS,
    )


def unbounded(trial: Trial) -> Check:
    """A ball as large as the range of pixels leaves no accuracy."""
    span = trial.bounds[1] - trial.bounds[0]
    size = {"Linf": span, "L2": span * math.sqrt(trial.images[0].numel())}[trial.reference.norm]
    if bool((trial.labels == trial.labels[0]).all()):
        reason = "Skipped: all these images are of one class, so none need be within reach."
        return Check(name="unbounded attack", passed=None, detail=reason)
    left = int(trial.right_under(trial.reference, size).sum())
    meaning = "Images of other classes are within reach, so a working attack leaves none."
    what = f"are right at eps = {size:g}, where every image is allowed"
    return _few("unbounded attack", what, left, len(trial.images), meaning)


def monotone(trial: Trial) -> Check:
    """Accuracy does not rise with eps."""
    curve = {
        share: trial.right if share == 1 else trial.right_under(trial.reference, share * trial.eps)
        for share in GRID
    }
    worst, worst_p, passed = 0.0, 1.0, True
    for small, large in combinations(GRID, 2):
        rise, p = advantage(curve[large], curve[small])
        passed = passed and not (rise > POINTS and p < ALPHA)
        if rise > worst:
            worst, worst_p = rise, p
    shown = ", ".join(f"{right.mean():.1%} at {share:g} eps" for share, right in curve.items())
    meaning = "" if passed else " A larger ball holds the smaller one: the attack gets lost in it."
    return Check(
        name="monotone curve",
        passed=passed,
        detail=f"{shown}; it rises by {worst:.1%} at most.{meaning}",
        values={"rise": worst, "p": worst_p},
    )


def zero_gradients(trial: Trial) -> Check:
    """Few images have a gradient that is exactly zero."""
    gradients = trial.gradients()[1].flatten(1)
    none = int((gradients == 0).all(1).sum())
    entries = float((gradients == 0).float().mean())
    meaning = "The model rounds or cuts what it computes, or cross-entropy underflows."
    what = f"have no gradient at all; {entries:.1%} of all its entries are zero"
    check = _few("zero gradients", what, none, len(gradients), meaning)
    return dataclasses.replace(check, values=check.values | {"entries": entries})


def deterministic(trial: Trial) -> Check:
    """One image gives the same logits and gradient twice, or enough gradients are averaged."""
    first, second = trial.gradients(), trial.gradients()
    noise = max(
        float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
        for a, b in zip(first, second, strict=True)
    )
    found = f"two passes differ by {noise:.1g} of the largest value"
    samples = trial.reference.gradient_samples
    if noise <= NOISE:
        return Check(
            name="deterministic",
            passed=True,
            detail=f"The model is deterministic: {found}.",
            values={"noise": noise},
        )
    if samples == 1:
        return Check(
            name="deterministic",
            passed=False,
            detail=f"The model is stochastic: {found}, so single gradients are noise. Average "
            "them: gradient_samples=20, here and in the attack.",
            values={"noise": noise},
        )
    single = trial.right_under(dataclasses.replace(trial.reference, gradient_samples=1))
    more = trial.right_under(dataclasses.replace(trial.reference, gradient_samples=4 * samples))
    meaning = "More averaging is stronger; raise gradient_samples until this passes."
    check = _compare(
        trial, "deterministic", f"Averaging {4 * samples} gradients", more, meaning=meaning
    )
    detail = (
        f"The model is stochastic ({found}); {samples} gradients are averaged. {check.detail} A "
        f"single gradient leaves {single.mean():.1%}."
    )
    values = check.values | {"noise": noise, "single": float(single.mean())}
    return dataclasses.replace(check, detail=detail, values=values)


CHECKS: dict[str, Callable[[Trial], Check]] = {
    "iterations help": iterations_help,
    "steps suffice": steps_suffice,
    "restarts suffice": restarts_suffice,
    "black box": black_box,
    "transfer": transfer,
    "losses agree": losses_agree,
    "unbounded attack": unbounded,
    "monotone curve": monotone,
    "zero gradients": zero_gradients,
    "deterministic": deterministic,
}


def run_check(name: str, trial: Trial) -> Check:
    """Run one check; a model without any gradient fails it."""
    try:
        return CHECKS[name](trial)
    except NoGradientError as error:
        return Check(name=name, passed=False, detail=str(error))

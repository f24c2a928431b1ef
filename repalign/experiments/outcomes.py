"""From a difference to words that claim no more than its seeds can carry."""

from __future__ import annotations

import math
from collections.abc import Iterable

from repalign.experiments.paired_tests import ALPHA
from repalign.experiments.run_statistics import Difference

SIGNIFICANT = "significant"
CONSISTENT = "consistent"
NOT_SIGNIFICANT = "not significant"
OPPOSITE = "opposite"
ONE_SEED = "one seed"
NOT_TESTED = "not tested"
NOT_TRUSTWORTHY = "not trustworthy"

# What an outcome does to a rule that asks for a gain: met, broken, or left open.
PASSED: dict[str, bool | None] = {
    SIGNIFICANT: True,
    CONSISTENT: None,
    NOT_SIGNIFICANT: False,
    OPPOSITE: False,
    ONE_SEED: None,
    NOT_TESTED: None,
    NOT_TRUSTWORTHY: None,
}

PHRASES = {
    "aligned": "the aligned network",
    "baseline": "the baseline",
    "row-shuffle": "the row-shuffled control",
    "within-class-shuffle": "the control shuffled within classes",
    "gaussian": "the Gaussian control",
    "spectrum-matched": "the spectrum-matched random control",
    "rank-k": "the low-rank control",
    "one-hot": "the label-geometry control",
    "non-robust-teacher": "the non-robust teacher",
    "other-region": "the other region",
    "jitter": "augmentation alone",
    "adversarial-training": "adversarial training",
}


def phrase(condition: str) -> str:
    """How a sentence calls a condition."""
    return PHRASES.get(condition, f"the condition {condition!r}")


def outcome_of(difference: Difference) -> str:
    """Return what a difference shows: one of the outcomes that this module names.

    "consistent" is a gain in every seed where no number of agreeing seeds of this count could be
    significant; "opposite" is a loss that is significant or found in every seed.

    Example:
        >>> from repalign.experiments.run_statistics import robustness_differences
        >>> runs = [{"condition": name, "seed": seed, "clean": value} for seed in range(3)
        ...         for name, value in (("aligned", 0.9 + seed / 100), ("baseline", 0.8))]
        >>> outcome_of(robustness_differences({"runs": runs}, against="baseline")[0])
        'consistent'
    """
    values = difference.values
    if len(values) < 2:
        return ONE_SEED if values else NOT_TESTED
    is_significant = difference.p_holm <= ALPHA
    if difference.mean < 0:
        return OPPOSITE if is_significant or max(values) < 0 else NOT_SIGNIFICANT
    if is_significant:
        return SIGNIFICANT
    return CONSISTENT if min(values) > 0 and not difference.can_be_significant else NOT_SIGNIFICANT


def gain_sentence(difference: Difference) -> str:
    """Return one sentence on the gain over the other condition, with the numbers behind it."""
    n = difference.n_seeds
    said = {
        SIGNIFICANT: "is significant",
        CONSISTENT: f"is positive in all {n} seeds, but {n} seeds cannot make it significant",
        NOT_SIGNIFICANT: "is not significant"
        + ("" if difference.can_be_significant else f", which {n} seeds could not make it"),
        OPPOSITE: "is a loss" + ("" if difference.p_holm <= ALPHA else f" in all {n} seeds"),
        ONE_SEED: "rests on one seed, so it cannot be tested",
    }[outcome_of(difference)]
    return f"The gain over {phrase(difference.against)} {said} ({numbers_of(difference)})."


def numbers_of(difference: Difference) -> str:
    """Return mean, interval, seeds and p of a difference, and its interval over images."""
    n = difference.n_seeds
    parts = [signed(difference.mean)]
    if n > 1:
        parts[0] += f", {n} seeds"
        parts.append(f"95 % interval over seeds {span(difference.low, difference.high)}")
        p, least = decimal(difference.p_holm), decimal(difference.p_holm_smallest)
        parts.append(f"p {p}, smallest attainable p {least}")
    if n == 1 and math.isfinite(difference.images_low):
        ends = span(difference.images_low, difference.images_high)
        parts.append(f"95 % interval over images, for these two networks only, {ends}")
    return "; ".join(parts)


def decimal(value: float) -> str:
    """A number with three decimals, or two digits where three decimals would read as zero."""
    text = f"{value:.1e}" if 0 < abs(value) < 0.0005 else f"{value:.3f}"
    return "0.000" if text == "-0.000" else text.replace("-", "−")


def signed(value: float) -> str:
    """A number with its sign, as in +0.030."""
    text = decimal(value)
    return text if text.startswith(("−", "nan")) or float(value) == 0 else f"+{text}"


def span(low: float, high: float) -> str:
    """Two ends with their signs, as in −0.010 to +0.080."""
    return f"{signed(low)} to {signed(high)}"


def counted(n_seeds: int) -> str:
    """As in "1 seed" and "3 seeds"."""
    return f"{n_seeds} seed{'' if n_seeds == 1 else 's'}"


def listed(names: Iterable[str]) -> str:
    """Names as English lists them.

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last

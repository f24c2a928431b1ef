"""Error patterns: whether a model finds the same images hard as people do."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import ndtri
from torch import Tensor

from repalign.metrics.calls import Array, as_tensor

LIMIT = 5.0  # of d′, as published

Shares = Float[Tensor, "image class"]
Labels = Int[Tensor, "image"]
Pattern = Float[Tensor, "image *distractor"]


@dataclass(frozen=True, kw_only=True)
class ErrorConsistency:
    """How alike the error patterns of two observers are.

    Args:
        kind: name in ``ERROR_PATTERNS``.
        value: Pearson correlation of both patterns, mean over splits into halves.
        human_reliability, model_reliability: correlation of an observer's pattern between halves
            of its responses; 1 for an observer given as one table of probabilities.
        corrected: value / √(human_reliability · model_reliability); NaN where a reliability is
            not positive, for then there is no pattern to agree on.
        n_images: number of images.
        n_splits: number of splits into halves.
    """

    kind: str
    value: float
    human_reliability: float
    model_reliability: float
    corrected: float
    n_images: int
    n_splits: int


def sensitivity(
    hit_rate: Float[Tensor, "*shape"], false_alarm_rate: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """Return d′ = Z(hit rate) − Z(false-alarm rate), each Z the normal quantile, within ±5.

    Example:
        >>> hits, false_alarms = torch.tensor([0.84134475, 1.0]), torch.tensor([0.5, 0.5])
        >>> sensitivity(hits, false_alarms).round(decimals=4).tolist()
        [1.0, 5.0]
    """
    z = torch.from_numpy(ndtri(torch.stack([hit_rate, false_alarm_rate]).double().cpu().numpy()))
    z = z.clamp(-2 * LIMIT, 2 * LIMIT)  # a rate of 0 or 1, without ∞ − ∞
    return (z[0] - z[1]).clamp(-LIMIT, LIMIT)


def error_pattern(
    probabilities: Float[Array, "image class"], labels: Int[Array, "image"], *, kind: str = "i2n"
) -> Pattern:
    """Return an observer's error pattern: how well it tells each image from other objects, in d′.

    For image i of object o, with p the share of responses:

    - i1, one versus all: Z(p_i(o)) − Z(mean over images j of other objects of p_j(o));
    - i2, one versus other, for each distractor d: Z(p_i(o) / (p_i(o) + p_i(d))) −
      Z(mean over images j of d of p_j(o) / (p_j(o) + p_j(d)));
    - i1n and i2n: the same minus its mean over the images of an object, for each distractor, so
      that what remains is between images and not between objects.

    Args:
        probabilities: (image, class), an observer's probabilities, or its counts of choices; each
            row is divided by its sum.
        labels: object of each image, a column of ``probabilities``.
        kind: name in ``ERROR_PATTERNS``.

    Returns:
        One value an image, or image × distractor with NaN for the object itself. NaN where an
        image has no responses, or none for either object of a pair. Every d′ is within ±5.

    Raises:
        ValueError: an unknown kind, negative shares, or labels that do not fit.

    Notes:
        People in the published task chose between two objects in each trial. Here all classes may
        be open at once, and the pairs follow from the ratio of shares (Luce's choice).

    Example:
        >>> shares = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.5, 0.5]])
        >>> error_pattern(shares, torch.tensor([0, 0, 1]), kind="i1").round(decimals=3).tolist()
        [0.842, 0.253, 0.524]

    Reference: Rajalingham et al. 2018, https://doi.org/10.1523/JNEUROSCI.0388-18.2018.
    """
    if kind not in ERROR_PATTERNS:
        raise ValueError(
            f"{kind!r} is no error pattern; choose one of {', '.join(ERROR_PATTERNS)}."
        )
    shares = as_tensor(probabilities, name="probabilities", device="cpu").double()
    classes = torch.as_tensor(labels).cpu()
    _check(shares, classes)
    return ERROR_PATTERNS[kind](shares / shares.sum(1, keepdim=True), classes.long())


def _check(shares: Tensor, labels: Tensor) -> None:
    if shares.ndim != 2 or shares.shape[1] < 2:
        raise ValueError(
            f"probabilities have shape {tuple(shares.shape)}; expected (image, class) with 2 or "
            "more classes."
        )
    if bool((shares < 0).any()) or bool(shares.isinf().any()):
        raise ValueError("probabilities are negative or infinite; expected shares, not logits.")
    if labels.is_floating_point() or labels.shape != shares.shape[:1]:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)} for {len(shares)} images; "
            "expected one integer an image."
        )
    if not bool(((labels >= 0) & (labels < shares.shape[1])).all()):
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())}; expected columns of the "
            f"probabilities, 0 to {shares.shape[1] - 1}."
        )


def _one_versus_all(shares: Shares, labels: Labels) -> Pattern:
    other = labels[:, None] != torch.arange(shares.shape[1])
    false_alarms = torch.where(other, shares, math.nan).nanmean(0)
    hits = shares.gather(1, labels[:, None])[:, 0]
    return sensitivity(hits, false_alarms[labels])


def _one_versus_other(shares: Shares, labels: Labels) -> Pattern:
    n_classes = shares.shape[1]
    of_object = shares.gather(1, labels[:, None])
    hits = of_object / (of_object + shares)
    own = labels[:, None] == torch.arange(n_classes)
    hits = hits.masked_fill(own, math.nan)
    # by the distractor's own images: how often they are taken for the object
    taken = torch.stack([(1 - hits)[labels == c].nanmean(0) for c in range(n_classes)], dim=1)
    return sensitivity(hits, taken[labels])


def _within_objects(pattern: Pattern, labels: Labels) -> Pattern:
    means = torch.stack([pattern[labels == c].nanmean(0) for c in range(int(labels.max()) + 1)])
    return pattern - means[labels]


ERROR_PATTERNS: dict[str, Callable[[Shares, Labels], Pattern]] = {
    "i1": _one_versus_all,
    "i1n": lambda shares, labels: _within_objects(_one_versus_all(shares, labels), labels),
    "i2": _one_versus_other,
    "i2n": lambda shares, labels: _within_objects(_one_versus_other(shares, labels), labels),
}


def error_consistency(
    model: Float[Array, "*half image class"],
    human: Float[Array, "*half image class"],
    labels: Int[Array, "image"],
    *,
    kind: str = "i2n",
    n_splits: int | None = None,
    seed: int = 0,
) -> ErrorConsistency:
    """Return how well a model's error pattern agrees with that of people, corrected for noise.

    ρ̃ = ρ(model, human) / √(ρ(model, model) · ρ(human, human)), all on halves of the responses, so
    that no reliability needs to be extrapolated.

    Args:
        model: probabilities (image, class), taken to be free of noise, or two halves of choices
            (2, image, class) of a model that is not.
        human: counts of choices (image, class), split at random into halves, or two halves.
        labels: object of each image.
        kind: name in ``ERROR_PATTERNS``.
        n_splits: random splits of the counts, 20 if None.
        seed: of the splits.

    Raises:
        ValueError: counts that are no whole numbers, ``n_splits`` for halves that are given, or
            inputs that do not fit `error_pattern`.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> shares, labels = rng.dirichlet(np.ones(4), 40), np.arange(40) % 4
        >>> counts = rng.multinomial(400, shares)
        >>> round(error_consistency(shares, counts, labels).corrected, 1)
        1.0

    Reference: Rajalingham et al. 2018, https://doi.org/10.1523/JNEUROSCI.0388-18.2018.
    """
    people = np.asarray(human)
    if people.ndim == 3 and n_splits is not None:
        raise ValueError(f"n_splits is {n_splits}, but human holds two halves. Leave it out.")
    count = 20 if n_splits is None and people.ndim == 2 else n_splits or 1
    rng = np.random.default_rng(seed)
    own = [
        error_pattern(part, labels, kind=kind)
        for part in (np.asarray(model)[None] if np.ndim(model) == 2 else _two(model, "model"))
    ]
    values, between = [], []
    for _ in range(count):
        halves = _two(people, "human") if people.ndim == 3 else _split(people, rng)
        first, second = (error_pattern(half, labels, kind=kind) for half in halves)
        between.append(_correlation(first, second))
        values += [_correlation(mine, theirs) for mine in own for theirs in (first, second)]
    model_reliability = 1.0 if len(own) == 1 else _correlation(*own)
    value, human_reliability = float(np.mean(values)), float(np.mean(between))
    ceiling = human_reliability * model_reliability
    defined = human_reliability > 0 and model_reliability > 0
    return ErrorConsistency(
        kind=kind,
        value=value,
        human_reliability=human_reliability,
        model_reliability=model_reliability,
        corrected=value / math.sqrt(ceiling) if defined else math.nan,
        n_images=len(own[0]),
        n_splits=count,
    )


def _two(halves: Array, name: str) -> Array:
    if np.ndim(halves) != 3 or len(halves) != 2:
        raise ValueError(
            f"{name} has shape {np.shape(halves)}; expected (image, class), or two halves as "
            "(2, image, class)."
        )
    return halves


def _split(
    counts: np.ndarray[tuple[int, ...], np.dtype[np.float64]], rng: np.random.Generator
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    """Draw half of each image's trials without replacement; an odd trial goes to the second."""
    if counts.ndim != 2 or not np.array_equal(counts, np.round(counts)) or (counts < 0).any():
        raise ValueError(
            f"human has shape {counts.shape} and is to be split: expected whole counts of choices "
            "(image, class). Give shares as two halves, (2, image, class)."
        )
    rest = counts.astype(np.int64)
    wanted, left = rest.sum(1) // 2, rest.sum(1)
    first = np.zeros_like(rest)
    for column in range(rest.shape[1]):
        left = left - rest[:, column]
        first[:, column] = rng.hypergeometric(rest[:, column], left, wanted)
        wanted = wanted - first[:, column]
    return [first.astype(np.float64), (rest - first).astype(np.float64)]


def _correlation(x: Pattern, y: Pattern) -> float:
    """Pearson's correlation over the entries that both have; NaN for fewer than 3 or constants."""
    both = x.isfinite() & y.isfinite()
    if int(both.sum()) < 3:
        return math.nan
    a, b = x[both] - x[both].mean(), y[both] - y[both].mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else math.nan


def error_kappa(correct: Array, other: Array) -> float:
    """Return Cohen's kappa of who is right on which image: 1 alike, 0 by chance.

    (c_observed − c_expected) / (1 − c_expected), c_observed the share of images on which both are
    right or both wrong, c_expected = p·q + (1 − p)·(1 − q) of two accuracies. NaN where both are
    always right, or both always wrong.

    Args:
        correct, other: whether each observer is right, (image,), of booleans.

    Raises:
        ValueError: no booleans, or different numbers of images.

    Example:
        >>> error_kappa(torch.tensor([True, True, False, False]), torch.tensor([True, False] * 2))
        0.0

    Reference: Geirhos et al. 2020, https://doi.org/10.48550/arXiv.2006.16736.
    """
    a, b = np.asarray(correct), np.asarray(other)
    if a.dtype != bool or b.dtype != bool or a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(
            f"got {a.dtype} of shape {a.shape} and {b.dtype} of shape {b.shape}; expected for both "
            "observers one boolean an image."
        )
    p, q = a.mean(), b.mean()
    expected = p * q + (1 - p) * (1 - q)
    return float((np.mean(a == b) - expected) / (1 - expected)) if expected < 1 else math.nan

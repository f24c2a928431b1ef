"""Flexible model RDMs: weighted sums, choices and blends of RDMs, fitted to measured ones."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.metrics.calls import Array
from repalign.metrics.comparators import (
    Comparator,
    check_choice,
    comparator_named,
    comparator_or_distance,
    compare_rdms,
)
from repalign.metrics.gram import in_working_precision
from repalign.metrics.pairs import (
    MINIMUM_STIMULI,
    check_same_pairs,
    condensed,
    shared_pairs,
    square_form,
    stacked_rdms,
    stimulus_count,
)
from repalign.metrics.whitened import whiten

FITTED_METHODS = ("corr", "corr_cov", "cosine", "cosine_cov", "pearson")  # products, linear in RDMs


def _batch_of(x: Array, *, name: str, like: Tensor | None = None) -> Float[Tensor, "rdm pair"]:
    """Return RDMs as rdm × pair, in float64; one RDM is a batch of one."""
    device = None if like is None else like.device
    return in_working_precision(stacked_rdms(x, name=name, device=device)).detach()


def _fit_inputs(models: Array, data: Array) -> tuple[Tensor, Tensor]:
    data = _batch_of(data, name="data")
    models = _batch_of(models, name="models", like=data)
    check_same_pairs(models, data)
    return models, data


def _fit_features(
    models: Float[Tensor, "model pair"], data: Float[Tensor, "subject pair"], *, method: str
) -> tuple[Float[Tensor, "model feature"], Float[Tensor, "feature"]]:
    """Return the models, and the mean of the subjects at unit length, as the comparator sees them.

    The mean over subjects of the comparator's value is the product of the model, at unit length,
    with that mean.
    """
    check_choice(method, FITTED_METHODS, "method of fitting weights")
    kept = shared_pairs(models, data)
    compare = comparator_named(method)
    if compare.embed is whiten:
        compare = replace(compare, embed=partial(whiten, kept=kept))
    features, targets = (compare.embedded(x[:, kept]) for x in (models, data))
    return features, (targets / targets.norm(dim=1, keepdim=True)).mean(0)


def _least_squares(
    features: Float[Tensor, "model feature"],
    target: Float[Tensor, "feature"],
    *,
    nonnegative: bool,
    ridge: float,
) -> Float[Tensor, "model"]:
    """Return the weights of least |Σ wᵢzᵢ − y|² + ridge Σ wᵢ²|zᵢ|², of unit norm."""
    from scipy.optimize import nnls

    lengths = features.norm(dim=1)
    scaled = features / lengths.where(lengths > 0, 1)[:, None]  # the models' unit is arbitrary
    penalty = ridge**0.5 * torch.eye(len(scaled), dtype=scaled.dtype, device=scaled.device)
    system = torch.cat([scaled.T, penalty])
    target = torch.cat([target, target.new_zeros(len(scaled))])
    if not bool(system.isfinite().all() & target.isfinite().all()):
        return target.new_full((len(scaled),), torch.nan)
    weights: Tensor
    if nonnegative:
        weights = torch.from_numpy(nnls(system.cpu().numpy(), target.cpu().numpy())[0]).to(target)
    else:
        weights = torch.linalg.pinv(system, rtol=1e-12) @ target
    weights = (weights / lengths).where(lengths > 0, 0)
    norm = weights.norm()
    return weights / norm if norm > 0 else weights


def fit_weights(
    models: Array,
    data: Array,
    *,
    method: str = "cosine",
    nonnegative: bool = True,
    ridge: float = 0.0,
) -> Float[Tensor, "model"]:
    """Return the weights with which a sum of model RDMs is most similar to measured ones.

    ``argmax_w meanₛ compare(Σ wᵢ modelᵢ, dataₛ)``. It is the direction of (non-negative) least
    squares on the mean of the subjects' RDMs at unit length, on the comparator's scale.

    Args:
        models: condensed RDMs, (model, pair), or square ones, (model, stimulus, stimulus).
        data: one RDM, (pair,), or one a subject: (subject, pair) or (subject, stimulus, stimulus).
            Pairs that are NaN in models and data are left out.
        method: the comparator: ``cosine``, ``corr``, ``cosine_cov`` or ``corr_cov``.
        nonnegative: forbid negative weights: squared distances of joint features are such sums.
        ridge: strength of the penalty Σ wᵢ²|modelᵢ|², for data of unit length; 0 is none.

    Returns:
        One weight a model, of unit norm, since the similarity ignores their scale. All zero where
        no model is similar at all; NaN where an RDM is constant under ``corr``, or all zero.

    Raises:
        ValueError: a comparator without a least-squares form, a negative ridge, RDMs of different
            sizes or with different pairs missing.

    Note:
        rsatoolbox's ``ridge_weight`` penalises Σ wᵢ², which depends on the unit of each model;
        they agree for models of unit length.

    Example:
        >>> models = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
        >>> fit_weights(models, 3 * models[0] + 4 * models[1])
        tensor([0.6000, 0.8000], dtype=torch.float64)

    Reference:
        Khaligh-Razavi & Kriegeskorte 2014, https://doi.org/10.1371/journal.pcbi.1003915
    """
    if not ridge >= 0:
        raise ValueError(f"ridge is {ridge}; expected 0 or more.")
    features, target = _fit_features(*_fit_inputs(models, data), method=method)
    return _least_squares(features, target, nonnegative=nonnegative, ridge=ridge)


def fit_select(models: Array, data: Array, *, method: str | Comparator = "cosine") -> int:
    """Return the index of the model RDM that is on average most similar to the measured ones.

    Args:
        models, data: as ``fit_weights`` takes them.
        method: any comparator of ``compare_rdms``.

    Raises:
        ValueError: RDMs that cannot be compared, or no model whose similarity is defined.

    Example:
        >>> fit_select(torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), torch.arange(3.0))
        1
    """
    candidates, targets = _fit_inputs(models, data)
    compare = comparator_or_distance(method)
    values = compare_rdms(candidates[:, None], targets[None], method=compare, batch_dims=2)
    scores = values.mean(1) * (1 if compare.higher_is_more_similar else -1)
    if bool(scores.isnan().all()):
        raise ValueError(
            f"No model has a defined {compare.name} with the data; are the RDMs constant?"
        )
    return int(scores.nan_to_num(nan=-torch.inf).argmax())


def fit_interpolate(models: Array, data: Array, *, method: str = "cosine") -> Tensor:
    """Return the weights of the best blend of two neighbours in a series of model RDMs.

    The models lie on a line, such as one that goes through strengths of a nonlinearity; the blend
    is ``w modelᵢ + (1 − w) modelᵢ₊₁`` with 0 ≤ w ≤ 1.

    Args:
        models: (model, pair) or (model, stimulus, stimulus), in the order of the series, 2 or more.
        data, method: as ``fit_weights`` takes them.

    Returns:
        One weight a model, not negative, of sum 1, and zero but for two neighbours. NaN where the
        similarity of no blend is defined, or none is positive.

    Example:
        >>> models = torch.tensor([[4.0, 0, 0], [0, 4, 0], [0, 0, 4]])
        >>> fit_interpolate(models, torch.tensor([0.0, 1.0, 3.0]))
        tensor([0.0000, 0.2500, 0.7500], dtype=torch.float64)

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    series, targets = _fit_inputs(models, data)
    if len(series) < 2:
        raise ValueError("fit_interpolate needs 2 or more models; there is 1. Use fit_weights.")
    features, target = _fit_features(series, targets, method=method)
    best, found = 0.0, torch.full_like(features[:, 0], torch.nan)
    for i in range(len(series) - 1):
        weights = _least_squares(features[i : i + 2], target, nonnegative=True, ridge=0)
        blend = weights @ features[i : i + 2]
        value = float(blend @ target / blend.norm())
        if value > best:
            best, found = value, torch.zeros_like(found)
            found[i : i + 2] = weights / weights.sum()
    return found


@dataclass(frozen=True)
class CrossvalidatedWeights:
    """How well a weighted model predicts RDMs of stimuli that its weights were not fitted to.

    Args:
        values: similarity of each subject's held-out pairs with the fitted model's, fold × subject.
        weights: the weights that predicted them, of unit norm, fold × subject × model.
        fold: which fold held out each stimulus.
        method: the comparator.
    """

    values: Float[Tensor, "fold subject"]
    weights: Float[Tensor, "fold subject model"]
    fold: Int[Tensor, "stimulus"]
    method: str


def _among(
    rdms: Float[Tensor, "rdm pair"], stimuli: Bool[Tensor, "stimulus"]
) -> Float[Tensor, "rdm pair"]:
    return condensed(square_form(rdms)[:, stimuli][:, :, stimuli])


def _random_folds(n: int, *, n_folds: int, seed: int) -> Int[Tensor, "stimulus"]:
    if n_folds < 2 or n // n_folds < MINIMUM_STIMULI:
        raise ValueError(
            f"n_folds is {n_folds} for {n} stimuli; expected 2 or more folds of at least "
            f"{MINIMUM_STIMULI} stimuli each, whose pairs are predicted."
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order.argsort() % n_folds


def crossvalidated_weights(
    models: Array,
    data: Array,
    *,
    n_folds: int = 5,
    across_subjects: bool = False,
    method: str = "cosine",
    nonnegative: bool = True,
    ridge: float = 0.0,
    seed: int = 0,
) -> CrossvalidatedWeights:
    """Fit weights to the pairs among training stimuli, and evaluate them among held-out stimuli.

    A pair of a training and a held-out stimulus is in neither set: it would carry the noise of the
    held-out stimulus into the fit.

    Args:
        models, data: as ``fit_weights`` takes them.
        n_folds: number of folds of stimuli, of at least 3 stimuli each.
        across_subjects: fit to all subjects but the one that is predicted, so that the value is for
            new stimuli *and* new subjects; needs 2 or more.
        method, nonnegative, ridge: as in ``fit_weights``.
        seed: seed of the folds, which are the same on every device.

    Returns:
        A ``CrossvalidatedWeights``; values are NaN where no model fits the training pairs at all.

    Raises:
        ValueError: as ``fit_weights``, or too few stimuli or subjects.

    Example:
        >>> models = torch.rand(2, 66, generator=torch.Generator().manual_seed(0))
        >>> fitted = crossvalidated_weights(models, models[0] + models[1], n_folds=3)
        >>> fitted.values.mean().round(decimals=6).item(), fitted.weights.shape
        (1.0, torch.Size([3, 1, 2]))

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    candidates, targets = _fit_inputs(models, data)
    if across_subjects and len(targets) < 2:
        raise ValueError("across_subjects needs the RDMs of 2 or more subjects; there is 1.")
    fold = _random_folds(stimulus_count(targets.shape[1]), n_folds=n_folds, seed=seed)
    values, weights = [], []
    for held_out in (fold.to(targets.device) == i for i in range(n_folds)):
        train, seen = _among(candidates, ~held_out), _among(targets, ~held_out)
        rest = [seen[torch.arange(len(seen)) != i] for i in range(len(seen))]
        fits = [
            fit_weights(train, some, method=method, nonnegative=nonnegative, ridge=ridge)
            for some in (rest if across_subjects else [seen])
        ]
        fitted = torch.stack(fits).expand(len(targets), -1)
        predicted = fitted.nan_to_num() @ _among(candidates, held_out)
        value = compare_rdms(predicted, _among(targets, held_out), method=method, batch_dims=1)
        values.append(value.masked_fill(fitted.isnan().any(1), torch.nan))
        weights.append(fitted)
    return CrossvalidatedWeights(torch.stack(values), torch.stack(weights), fold, method)

"""Bootstrap and cross-validation: flexible models are fitted and tested within every resample."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.inference.checked_rdms import PRODUCTS, Problem, check_same_sizes, checked_problem
from repalign.inference.draws import Draws, stream
from repalign.inference.evaluations import Evaluations, evaluated
from repalign.inference.flexible_models import ModelRDMs, fitted_blend, fitted_weights
from repalign.metrics.calls import Array, Device
from repalign.metrics.pairs import MINIMUM_STIMULI, stacked_rdms


@dataclass(frozen=True)
class CrossvalidatedEvaluations:
    """Held-out values in every resample and every division into folds.

    Args:
        models: mean over folds of each model's held-out value, resample × repeat × model.
        lower, upper: the ceilings of the held-out stimuli, mean over folds, resample × repeat.
    """

    models: Float[Tensor, "resample repeat model"]
    lower: Float[Tensor, "resample repeat"]
    upper: Float[Tensor, "resample repeat"]

    @property
    def values(self) -> Float[Tensor, "resample repeat value"]:
        """Models, lower and upper ceiling side by side."""
        return torch.cat([self.models, self.lower[..., None], self.upper[..., None]], 2)


def random_folds(
    multiplicities: Int[Tensor, "resample unit"], *, n_folds: int, generator: torch.Generator
) -> Int[Tensor, "resample unit"]:
    """Divide the distinct units of each resample into folds of equal size; −1 is not drawn.

    All copies of a unit are in one fold.
    """
    keys = torch.rand(multiplicities.shape, generator=generator, dtype=torch.float64)
    drawn = multiplicities > 0
    order = keys.masked_fill(~drawn, 2).argsort(1).argsort(1)
    return (order % n_folds).masked_fill(~drawn, -1)


Folds = tuple[Int[Tensor, "resample stimulus"], Int[Tensor, "resample subject"]]


def draw_folds(
    draws: Draws, *, n_folds: int, n_subject_folds: int = 1, n_repeats: int = 2, seed: int = 0
) -> list[Folds]:
    """Return the fold of each stimulus and subject in every resample, one pair a division."""
    generator = stream(seed, "folds")
    return [
        (
            random_folds(draws.stimuli, n_folds=n_folds, generator=generator),
            random_folds(draws.subjects, n_folds=n_subject_folds, generator=generator),
        )
        for _ in range(n_repeats)
    ]


def _check_folds(draws: Draws, *, n_folds: int, n_subject_folds: int, n_repeats: int) -> None:
    if draws.kind != "bootstrap":
        raise ValueError(f"The draws are of a {draws.kind}; cross-validation needs a bootstrap.")
    if n_folds < 2 or n_subject_folds < 1 or n_repeats < 1:
        raise ValueError(
            f"n_folds is {n_folds}, n_subject_folds {n_subject_folds} and n_repeats {n_repeats}; "
            "expected 2 or more folds of stimuli, and 1 or more of the others."
        )
    for what, of, least in (
        ("stimuli", draws.stimuli, MINIMUM_STIMULI * n_folds),
        ("subjects", draws.subjects, n_subject_folds),
    ):
        few = int(((of > 0).sum(1) < least).sum())
        if few:
            raise ValueError(
                f"{few} resamples have fewer than {least} distinct {what}, too few for their folds "
                f"({MINIMUM_STIMULI} stimuli, or a subject, in each). Draw with "
                f"at_least_{what}={least}, or use fewer folds."
            )


@dataclass(frozen=True)
class _Part:
    """Where the RDMs of one model stand among all."""

    model: ModelRDMs
    columns: slice

    @property
    def weighted(self) -> bool:
        return self.model.fit in ("weights", "interpolate")


def _products_of_parts(
    problem: Problem,
    parts: Sequence[_Part],
    stimuli: Int[Tensor, "resample stimulus"],
    subjects: Int[Tensor, "resample subject"],
) -> list[tuple[Float[Tensor, "resample rdm rdm"], Float[Tensor, "resample rdm"]]]:
    """Return the Gram matrix of each weighted model's RDMs, and their products with the pool."""
    products = problem.products
    if products is None:
        raise AssertionError("weights are fitted by products")
    n_subjects = len(problem.subjects)
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in parts]
    for rows, block in products.blocks(stimuli, len(stimuli)):
        way = subjects[rows].to(problem.models).T
        pool = (way / block.squares[:n_subjects].sqrt()).where(way > 0, 0) / way.sum(0)
        with_pool = block.with_pools(pool[None])[0, n_subjects:]
        for part, of_part in zip(parts, found, strict=True):
            which = torch.arange(part.columns.start, part.columns.stop)
            i, j = torch.triu_indices(len(which), len(which))
            upper = block.products(n_subjects + which[i], n_subjects + which[j])
            gram = upper.new_zeros(upper.shape[1], len(which), len(which))
            gram[:, i, j] = gram[:, j, i] = upper.T
            of_part.append((gram, with_pool[part.columns].T))
    return [(torch.cat([g for g, _ in one]), torch.cat([b for _, b in one])) for one in found]


def _held_out(
    problem: Problem,
    parts: Sequence[_Part],
    train: tuple[Int[Tensor, "resample stimulus"], Int[Tensor, "resample subject"]],
    test: tuple[Int[Tensor, "resample stimulus"], Int[Tensor, "resample subject"]],
    tested: Evaluations,
) -> Float[Tensor, "resample model"]:
    """Return each model's value on the test part of the resamples, fitted to the training part."""
    weighted = [part for part in parts if part.weighted]
    values: dict[int, Tensor] = {}
    if weighted:
        fits = _products_of_parts(problem, weighted, *train)
        tests = _products_of_parts(problem, weighted, *test)
        for part, (gram, b), (test_gram, test_b) in zip(weighted, fits, tests, strict=True):
            if part.model.fit == "weights":
                w = fitted_weights(gram, b, nonnegative=part.model.nonnegative)
            else:
                w = fitted_blend(gram, b)
            length = (w[:, :, None] * test_gram * w[:, None, :]).sum((1, 2)).sqrt()
            values[part.columns.start] = (w * test_b).sum(1) / length
    if any(part.model.fit == "select" for part in parts):
        trained = evaluated(problem, train[0], [train[1]], n_ceilings=0)[0].models
        for part in (part for part in parts if part.model.fit == "select"):
            scores = trained[:, part.columns]
            best = scores.nan_to_num(nan=-torch.inf).argmax(1, keepdim=True)
            chosen = tested.models[:, part.columns].gather(1, best)[:, 0]
            values[part.columns.start] = chosen.masked_fill(scores.isnan().all(1), torch.nan)
    for part in (part for part in parts if part.model.fit == "fixed"):
        values[part.columns.start] = tested.models[:, part.columns.start]
    return torch.stack([values[part.columns.start] for part in parts], 1)


def _checked_models(
    models: Sequence[ModelRDMs], subjects: Array, *, comparator: str, device: Device
) -> tuple[Problem, list[_Part]]:
    stacks = [stacked_rdms(model.rdms, name="models", device=device) for model in models]
    sizes = {stack.shape[1] for stack in stacks}
    if len(sizes) != 1:
        raise ValueError(
            f"There are {len(stacks)} models with RDMs of {sorted(sizes)} pairs; expected 1 or "
            "more models, of the same stimuli."
        )
    parts, start = [], 0
    for model, stack in zip(models, stacks, strict=True):
        least, most = {"fixed": (1, 1), "interpolate": (2, None)}.get(model.fit, (1, None))
        if len(stack) < least or (most is not None and len(stack) > most):
            raise ValueError(
                f"A model with fit={model.fit!r} has {len(stack)} RDMs; expected "
                f"{'1' if most else f'{least} or more'}."
            )
        parts.append(_Part(model, slice(start, start + len(stack))))
        start += len(stack)
    everything = torch.cat([stack.to(stacks[0].device).double() for stack in stacks])
    problem = checked_problem(everything, subjects, comparator=comparator, device=device)
    if problem.comparator not in PRODUCTS and any(part.weighted for part in parts):
        raise ValueError(
            f"Weights and blends are fitted by {', '.join(PRODUCTS)}; {problem.comparator!r} is no "
            "inner product of RDMs. Use one of those, or fit='select'."
        )
    return problem, parts


def crossvalidate_resamples(
    models: Sequence[ModelRDMs],
    subjects: Array,
    draws: Draws,
    *,
    comparator: str = "cosine",
    n_folds: int = 5,
    n_subject_folds: int = 1,
    n_repeats: int = 2,
    seed: int = 0,
    folds: Sequence[Folds] | None = None,
    device: Device = None,
) -> CrossvalidatedEvaluations:
    """Fit and test models within every resample, on different stimuli (and subjects).

    The distinct stimuli of a resample are divided into folds. A model is fitted to the pairs among
    the training stimuli, and evaluated on the pairs among those held out; the value is the mean
    over folds. All copies of a stimulus are in one fold, so that none is trained and tested on.

    Args:
        models: fixed and flexible ones.
        subjects: RDMs, as ``evaluate_resamples`` takes them.
        draws: from ``bootstrap_draws`` with ``at_least_stimuli=3 * n_folds`` (and
            ``at_least_subjects=n_subject_folds``).
        comparator: a name in ``RESAMPLED``; weights and blends need cosine, corr, or their
            whitened forms.
        n_folds: folds of stimuli, of 3 stimuli or more each.
        n_subject_folds: folds of subjects; 1 fits and tests with the same subjects.
        n_repeats: divisions into folds of each resample; 2 or more tell what the choice of folds
            adds to the variance (``crossvalidated_variances``).
        seed: seed of the folds, which are the same on every device and number of workers.
        folds: those of ``draw_folds``, in place of new ones: its rows for these draws.
        device: where to compute; None is where ``subjects`` is.

    Returns:
        ``CrossvalidatedEvaluations``. NaN where a resampled RDM is constant, or no model fits.

    Raises:
        ValueError: resamples with too few stimuli or subjects for the folds, RDMs of different
            sizes, models without their RDMs, or a comparator that cannot fit.

    Note:
        The ceilings leave out one subject at a time, within the held-out stimuli, whatever the
        folds of subjects. rsatoolbox's ``bootstrap_crossval`` pools the training subjects for the
        lower one: with one fold of subjects that pool holds the test subject itself.

    Example:
        >>> from repalign.inference import bootstrap_draws
        >>> rdms = torch.rand(7, 190, generator=torch.Generator().manual_seed(0))
        >>> models = [ModelRDMs(rdms[0]), ModelRDMs(rdms[:3], fit="weights")]
        >>> draws = bootstrap_draws(20, 4, n_resamples=50, at_least_stimuli=9)
        >>> crossvalidate_resamples(models, rdms[3:], draws, n_folds=3).models.shape
        torch.Size([50, 2, 2])

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    problem, parts = _checked_models(models, subjects, comparator=comparator, device=device)
    check_same_sizes(problem, draws)
    _check_folds(draws, n_folds=n_folds, n_subject_folds=n_subject_folds, n_repeats=n_repeats)
    if folds is None:
        folds = draw_folds(
            draws,
            n_folds=n_folds,
            n_subject_folds=n_subject_folds,
            n_repeats=n_repeats,
            seed=seed,
        )
    repeats = [mean_over_folds(problem, parts, draws, *fold) for fold in folds]
    return CrossvalidatedEvaluations(
        torch.stack([repeat.models for repeat in repeats], 1),
        torch.stack([repeat.lower for repeat in repeats], 1),
        torch.stack([repeat.upper for repeat in repeats], 1),
    )


def mean_over_folds(
    problem: Problem,
    parts: Sequence[_Part],
    draws: Draws,
    stimulus_fold: Int[Tensor, "resample stimulus"],
    subject_fold: Int[Tensor, "resample subject"],
) -> Evaluations:
    """Return the mean over given folds of values and ceilings."""
    models, lower, upper = [], [], []
    n_subject_folds = int(subject_fold.max()) + 1
    for k in range(int(stimulus_fold.max()) + 1):
        out = stimulus_fold == k
        test, train = draws.stimuli * out, draws.stimuli * ~out
        ways = [draws.subjects * (subject_fold == s) for s in range(n_subject_folds)]
        ways = [] if n_subject_folds == 1 else ways
        of_all, *of_folds = evaluated(problem, test, [draws.subjects, *ways], n_ceilings=1)
        lower.append(of_all.lower)
        upper.append(of_all.upper)
        if not ways:
            both = (train, draws.subjects), (test, draws.subjects)
            models.append(_held_out(problem, parts, *both, of_all))
        for way, tested in zip(ways, of_folds, strict=True):
            both = (train, draws.subjects - way), (test, way)
            models.append(_held_out(problem, parts, *both, tested))
    return Evaluations(
        torch.stack(models).mean(0), torch.stack(lower).mean(0), torch.stack(upper).mean(0)
    )

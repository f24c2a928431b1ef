"""RSA of models with subjects in every resample, with both noise ceilings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from repalign.inference.checked_rdms import Problem, check_same_sizes, checked_problem
from repalign.inference.draws import Draws
from repalign.inference.resampled_products import ResampledProducts
from repalign.inference.resampled_ranks import rank_evaluations
from repalign.metrics.calls import Array, Device


@dataclass(frozen=True)
class Evaluations:
    """Values of the models, and both noise ceilings, in every resample.

    Args:
        models: mean over subjects of each model's similarity with them, resample × model.
        lower: mean similarity of each subject with the pool of the others.
        upper: mean similarity of each subject with the pool of all.
    """

    models: Float[Tensor, "resample model"]
    lower: Float[Tensor, "resample"]
    upper: Float[Tensor, "resample"]

    def __getitem__(self, rows: Bool[Tensor, "resample"]) -> "Evaluations":
        """Return those of some of the resamples."""
        return Evaluations(self.models[rows], self.lower[rows], self.upper[rows])

    def with_ceilings(self) -> Float[Tensor, "resample value"]:
        """Return models, lower and upper ceiling side by side."""
        return torch.cat([self.models, self.lower[:, None], self.upper[:, None]], 1)


class DualEvaluations(NamedTuple):
    """Evaluations in the same resamples of stimuli and subjects, of either, and of both."""

    both: Evaluations
    subjects: Evaluations
    stimuli: Evaluations


def pooled_ceilings(
    with_pool: Float[Tensor, "subject resample"],
    squares: Float[Tensor, "subject resample"],
    pool: Float[Tensor, "subject resample"],
    multiplicities: Float[Tensor, "subject resample"],
) -> tuple[Float[Tensor, "resample"], Float[Tensor, "resample"]]:
    """Return the lower and the upper ceiling from the subjects' products with their pool.

    All copies of a subject are left out together, and each subject present counts once.

    Args:
        with_pool: inner product of each subject with the pool.
        squares: of each subject with itself.
        pool: how much of each subject the pool holds: its multiplicity over its length.
        multiplicities: how often each subject is drawn.
    """
    present = multiplicities > 0
    length = (pool * with_pool).sum(0)
    upper = with_pool / (length * squares).sqrt()
    own = pool * squares
    others = length - 2 * pool * with_pool + pool * own
    lower = (with_pool - own) / (others * squares).sqrt()
    count = present.sum(0)
    lower = lower.where(present, 0).sum(0) / count
    return lower.masked_fill(count < 2, torch.nan), upper.where(present, 0).sum(0) / count


def _block_of_products(
    found: ResampledProducts,
    ways: Sequence[Float[Tensor, "subject resample"]],
    *,
    whitened: bool,
    n_ceilings: int,
) -> list[Evaluations]:
    n_subjects = len(ways[0])
    squares, lengths = found.squares[:n_subjects], found.lengths[:n_subjects]
    pools = [way / squares.sqrt() for way in ways]
    if whitened:  # ceilings pool at unit length before whitening
        pools += [way / lengths.sqrt() for way in ways[:n_ceilings]]
    # In pools a subject that is not drawn counts for nothing, even if its RDM is constant.
    pools = [pool.where(way > 0, 0) for pool, way in zip(pools, (*ways, *ways), strict=False)]
    products = found.with_pools(torch.stack(pools))
    evaluations = []
    for i, way in enumerate(ways):
        models = products[i, n_subjects:] / found.squares[n_subjects:].sqrt() / way.sum(0)
        k = i + len(ways) * whitened
        undefined = models.new_full(models.shape[1:], torch.nan)
        lower, upper = (
            pooled_ceilings(products[k, :n_subjects], squares, pools[k], way)
            if i < n_ceilings
            else (undefined, undefined)
        )
        evaluations.append(Evaluations(models.T, lower, upper))
    return evaluations


def _joined(parts: Sequence[Evaluations]) -> Evaluations:
    return Evaluations(
        torch.cat([part.models for part in parts]),
        torch.cat([part.lower for part in parts]),
        torch.cat([part.upper for part in parts]),
    )


def evaluated(
    problem: Problem,
    stimuli: Int[Tensor, "resample stimulus"],
    ways: Sequence[Int[Tensor, "resample subject"]],
    *,
    n_ceilings: int | None = None,
) -> list[Evaluations]:
    """Return the evaluations for each way of resampling the subjects, with the same stimuli.

    One row of ``stimuli`` serves all resamples of subjects. The first ``n_ceilings`` ways have
    ceilings, all if None; they are NaN for the others.
    """
    n_ceilings = len(ways) if n_ceilings is None else n_ceilings
    n_resamples = len(ways[0])
    products = problem.products
    if products is None:
        found = rank_evaluations(
            problem.models[:, problem.kept],
            problem.subjects[:, problem.kept],
            problem.kept,
            stimuli,
            torch.stack(list(ways)),
            comparator=problem.comparator,
            n_ceilings=n_ceilings,
        )
        return [Evaluations(*way) for way in zip(*found, strict=True)]
    blocks: list[list[Evaluations]] = [[] for _ in ways]
    for rows, block in products.blocks(stimuli, n_resamples):
        subjects = [way[rows].to(problem.models).T for way in ways]
        parts = _block_of_products(
            block, subjects, whitened=products.whitened, n_ceilings=n_ceilings
        )
        for part, of_way in zip(parts, blocks, strict=True):
            of_way.append(part)
    return [_joined(of_way) for of_way in blocks]


def evaluate_resamples(
    models: Array,
    subjects: Array,
    draws: Draws,
    *,
    comparator: str = "cosine",
    ceilings: bool = True,
    device: Device = None,
) -> Evaluations:
    """Return the models' RSA with the subjects in every resample, without building a resample.

    A resample with multiplicities w of stimuli and v of subjects holds pair (i, j) wᵢwⱼ times;
    pairs of a stimulus with itself are excluded. A model's value is ``Σₛ vₛ compare(model, rdmₛ) /
    Σₛ vₛ``. The ceilings are those of Nili et al. in the resample: for each subject that is drawn,
    its similarity with the pool of all (``upper``) and with the pool without any of its copies
    (``lower``). RDMs are pooled on the comparator's scale: at unit length, or as mean ranks.

    Args:
        models: condensed or square RDMs, one or a stack of them.
        subjects: RDMs of the same stimuli. Pairs that are NaN in a subject are left out for all
            (not by the whitened comparators, which need all pairs).
        draws: from ``bootstrap_draws``, ``subsample_draws`` or ``jackknife_draws``.
        comparator: a name in ``RESAMPLED``: all of ``compare_rdms`` but the Bures similarity.
        ceilings: whether to compute the ceilings; they are NaN if not.
        device: where to compute; None is where ``subjects`` is. Ranks are compared on the CPU.

    Returns:
        ``Evaluations``, in float64. NaN where a resampled RDM is constant; ``lower`` also where
        only one subject is drawn.

    Raises:
        ValueError: unknown comparator, RDMs of different sizes, draws for other RDMs, or NaN as
            said above.

    Note:
        Equal to rsatoolbox's ``eval_bootstrap`` for the same resamples but for constant RDMs (0
        there), ties within 1e-12 of the largest distance (apart there), and the lower ceiling of
        one distinct subject (its similarity with itself there).

    Example:
        >>> from repalign.inference import bootstrap_draws
        >>> rdms = torch.rand(5, 45, generator=torch.Generator().manual_seed(0))
        >>> draws = bootstrap_draws(10, 3, n_resamples=100)
        >>> found = evaluate_resamples(rdms[:2], rdms[2:], draws, comparator="spearman")
        >>> found.models.shape, bool((found.lower < found.upper).float().mean() > 0.5)
        (torch.Size([100, 2]), True)

    Reference:
        Nili et al. 2014, https://doi.org/10.1371/journal.pcbi.1003553;
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    problem = checked_problem(models, subjects, comparator=comparator, device=device)
    check_same_sizes(problem, draws)
    stimuli = draws.stimuli[:1] if draws.over == "subjects" else draws.stimuli
    return evaluated(problem, stimuli, [draws.subjects], n_ceilings=int(ceilings))[0]


def evaluate_dual(
    models: Array,
    subjects: Array,
    draws: Draws,
    *,
    comparator: str = "cosine",
    ceilings: bool = True,
    device: Device = None,
) -> DualEvaluations:
    """Return the evaluations over stimuli and subjects, and over either with the same draws.

    The three variances together give the two-factor corrected one, ``two_factor_variances``. All
    arguments and errors are those of ``evaluate_resamples``.

    Raises:
        ValueError: draws that do not resample both, beside those of ``evaluate_resamples``.

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566
    """
    if draws.over != "both":
        raise ValueError(f"The draws are over {draws.over}; the dual bootstrap needs over='both'.")
    problem = checked_problem(models, subjects, comparator=comparator, device=device)
    check_same_sizes(problem, draws)
    every_subject, every_stimulus = torch.ones_like(draws.subjects), torch.ones_like(draws.stimuli)
    both, of_stimuli = evaluated(
        problem, draws.stimuli, [draws.subjects, every_subject], n_ceilings=2 * ceilings
    )
    of_subjects = evaluated(
        problem, every_stimulus[:1], [draws.subjects], n_ceilings=int(ceilings)
    )[0]
    return DualEvaluations(both, of_subjects, of_stimuli)

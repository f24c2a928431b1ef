"""Test of relatedness: are the models' RDMs related to the subjects' at all?"""

from collections.abc import Iterator
from itertools import permutations
from math import factorial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from repalign.inference.checked_rdms import PRODUCTS, Problem, checked_problem
from repalign.inference.monte_carlo import error_of_share, grouped_jackknife, kept_in_groups
from repalign.inference.significance import (
    Alternative,
    Significance,
    check_alternative,
    p_of_draws,
)
from repalign.metrics.calls import Array, Device
from repalign.metrics.comparators import comparator_named
from repalign.metrics.pairs import square_form
from repalign.metrics.whitened import gram_of_rdm

BLOCK_ELEMENTS = 1 << 21


def label_orders(
    n: int, n_permutations: int, seed: int
) -> tuple[Int[Tensor, "draw stimulus"], bool]:
    """Return the given order of the stimuli, then all n! orders or, if more, random ones.

    Raises:
        ValueError: fewer than 4 stimuli, or fewer than 1 permutation.
    """
    if n < 4 or n_permutations < 1:
        raise ValueError(
            f"{n_permutations} permutations of {n} stimuli were asked for; expected 1 or more of "
            "at least 4 stimuli."
        )
    identity = torch.arange(n)[None]
    if n < 12 and factorial(n) <= n_permutations:
        return torch.cat([identity, torch.tensor(list(permutations(range(n))))]), True
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(n_permutations, n, generator=generator, dtype=torch.float64)
    return torch.cat([identity, draws.argsort(1)]), False


def _scaled(
    rdms: Float[Tensor, "rdm pair"], problem: Problem
) -> Float[Tensor, "rdm stimulus stimulus"]:
    """Return RDMs as matrices whose inner product is the comparator's similarity.

    What whitening, ranks and lengths make of an RDM does not depend on the order of stimuli.
    """
    compare = comparator_named(problem.comparator)
    scaled = compare.scaled(rdms)
    whitened = PRODUCTS.get(problem.comparator, (False, False))[1]
    square = gram_of_rdm(scaled) if whitened else square_form(scaled)
    squares = square.square().sum((1, 2)) if whitened else 2 * compare.square(scaled)
    return square / squares.sqrt()[:, None, None]


def _blocks(orders: Int[Tensor, "draw stimulus"], size: int) -> Iterator[Tensor]:
    yield from torch.split(orders, max(1, BLOCK_ELEMENTS // size))


def chance_of_products(
    models: Float[Tensor, "model stimulus stimulus"], pool: Float[Tensor, "stimulus stimulus"]
) -> Float[Tensor, "model"]:
    """Return the mean over all n! orders of a model's inner product with the pool.

    ``tr A tr B / n + (ΣA − tr A)(ΣB − tr B) / (n(n − 1))``: 0 where the entries off the diagonal
    were centred, as those of correlations, ranks and debiased CKA are; cosines of distances and
    biased CKA are far above.

    Example:
        >>> ones = 1 - torch.eye(4)
        >>> chance_of_products(ones[None] / ones.norm(), ones / ones.norm())
        tensor([1.])
    """
    n = len(pool)
    traces = models.diagonal(dim1=1, dim2=2).sum(1), pool.trace()
    rest = models.sum((1, 2)) - traces[0], pool.sum() - traces[1]
    return traces[0] * traces[1] / n + rest[0] * rest[1] / (n * (n - 1))


def rdm_chance(
    models: Array, subjects: Array, *, comparator: str = "cosine", device: Device = None
) -> Float[Tensor, "model"]:
    """Return what a model scores on average if the labels of its stimuli are meaningless.

    It is 0 but for ``cosine`` and ``cosine_cov``: there any two RDMs are alike, for distances are
    positive.

    Args:
        models, subjects, comparator, device: as in ``label_permutation_test``, but that pairs may
            be missing (NaN) in a subject, under ``cosine``.

    Example:
        >>> rdms = torch.rand(3, 45, generator=torch.Generator().manual_seed(0))
        >>> rdm_chance(rdms[:1], rdms[1:], comparator="corr").item()
        0.0
        >>> round(rdm_chance(rdms[:1], rdms[1:]).item(), 2)
        0.73
    """
    problem = checked_problem(models, subjects, comparator=comparator, device=device)
    if PRODUCTS.get(problem.comparator, (True, False))[0]:
        return problem.models.new_zeros(len(problem.models))
    scaled = _scaled(problem.models, problem)
    return chance_of_products(scaled, _scaled(problem.subjects, problem).mean(0))


def _product_null(
    problem: Problem, orders: Int[Tensor, "draw stimulus"]
) -> Float[Tensor, "draw model"]:
    """Return the mean over subjects of the similarity with the models, in each order.

    It is the product of a model with the mean of the subjects, which alone is reordered.
    """
    models = _scaled(problem.models, problem)
    return _reordered_products(models, _scaled(problem.subjects, problem).mean(0), orders)


def _reordered_products(
    models: Float[Tensor, "model stimulus stimulus"],
    pool: Float[Tensor, "stimulus stimulus"],
    orders: Int[Tensor, "draw stimulus"],
) -> Float[Tensor, "draw model"]:
    flat = models.flatten(1)
    null = []
    for block in _blocks(orders.to(pool.device), flat.shape[1]):
        reordered = pool[block[:, :, None], block[:, None, :]]
        null.append(reordered.flatten(1) @ flat.T)
    return torch.cat(null)


def _concordance_null(
    problem: Problem, orders: Int[Tensor, "draw stimulus"]
) -> Float[Tensor, "draw model"]:
    """Return the same for Kendall's taus, on the CPU."""
    from repalign.inference.compiled_taus import permuted_concordances
    from repalign.inference.resampled_ranks import Orders, in_threads

    compare = comparator_named(problem.comparator)
    subjects, models = problem.subjects.cpu(), problem.models.cpu()
    of_subjects, of_models = Orders.of(subjects), Orders.of(models)
    of_model, of_subject = (
        compare.square(compare.scaled(rdms)).sqrt().numpy() for rdms in (models, subjects)
    )
    number = square_form(torch.arange(models.shape[1], dtype=torch.float64)).to(torch.int32).numpy()
    found = np.empty((len(orders), len(models)))
    in_threads(
        lambda begin, end: permuted_concordances(
            orders.numpy().astype(np.int32),
            number,
            of_models.order,
            of_models.dense,
            of_subjects.dense,
            of_subjects.tied,
            of_model,
            of_subject,
            found,
            begin,
            end,
        ),
        len(orders),
        16,
    )
    return torch.from_numpy(found)


def label_permutation_test(
    models: Array,
    subjects: Array,
    *,
    comparator: str = "cosine",
    alternative: Alternative = "greater",
    n_permutations: int = 10_000,
    seed: int = 0,
    device: Device = None,
) -> tuple[Float[Tensor, "model"], Significance]:
    """Test whether models are related to the subjects, by permuting the labels of the stimuli.

    The statistic is the mean over subjects of the similarity. max-T takes, in each permutation,
    the largest over the models of the similarity less its mean over permutations, in units of its
    standard deviation over them.

    Args:
        models: condensed or square RDMs, one or a stack of them.
        subjects: RDMs of the same stimuli, without NaN.
        comparator: a name in ``RESAMPLED``.
        alternative: ``greater``, or ``two-sided``: further from the mean over permutations.
        n_permutations: how many random permutations; all n! of them where they are no more.
        seed: seed of random permutations.
        device: where to compute; None is where ``subjects`` is.

    Returns:
        The models' similarities, and a ``Significance`` of them.

    Raises:
        ValueError: RDMs with NaN, of different sizes or constant, fewer than 4 stimuli, fewer than
            1 permutation, an unknown comparator or alternative.

    Note:
        The hypothesis is that the stimuli are exchangeable, for these subjects: a rejection says
        that there is some relation, neither how strong it is, nor that new subjects show it. Two
        models are compared by ``t_test`` or ``sign_flip_test``.

    Example:
        >>> rdm = torch.rand(45, generator=torch.Generator().manual_seed(0))
        >>> value, found = label_permutation_test(rdm, rdm, n_permutations=999)
        >>> found.p.item(), found.smallest_p
        (0.001, 0.001)

    Reference:
        Kriegeskorte et al. 2008, https://doi.org/10.3389/neuro.06.004.2008; Nichols & Holmes 2002,
        https://doi.org/10.1002/hbm.1058
    """
    check_alternative(alternative)
    problem = checked_problem(models, subjects, comparator=comparator, device=device)
    missing = int((~problem.kept).sum())
    if missing:
        raise ValueError(
            f"{missing} pairs are missing (NaN) in a subject; permuting stimuli would put them "
            "elsewhere. Leave out the stimuli concerned."
        )
    orders, exact = label_orders(problem.n_stimuli, n_permutations, seed)
    taus = problem.comparator in ("tau-a", "tau-b")
    statistics = (_concordance_null if taus else _product_null)(problem, orders)
    return significance_of_orders(statistics.cpu(), exact=exact, alternative=alternative)


def permutation_test_of_products(
    models: Float[Tensor, "model stimulus stimulus"],
    pool: Float[Tensor, "stimulus stimulus"],
    *,
    alternative: Alternative = "greater",
    n_permutations: int = 10_000,
    seed: int = 0,
) -> tuple[Float[Tensor, "model"], Significance]:
    """Return ``label_permutation_test`` of similarities that are inner products of matrices.

    Args:
        models: one a model, at unit length, such as centred Gram matrices.
        pool: mean over subjects of theirs.
        alternative, n_permutations, seed: as in ``label_permutation_test``.

    Raises:
        ValueError: fewer than 4 stimuli, or a product that is NaN.

    Example:
        >>> gram = torch.rand(9, 9, generator=torch.Generator().manual_seed(0))
        >>> gram = (gram + gram.T) / (gram + gram.T).norm()
        >>> value, found = permutation_test_of_products(gram[None], gram, n_permutations=99)
        >>> round(value.item(), 6), found.p.item()
        (1.0, 0.01)
    """
    check_alternative(alternative)
    orders, exact = label_orders(len(pool), n_permutations, seed)
    statistics = _reordered_products(models, pool, orders).cpu()
    return significance_of_orders(statistics, exact=exact, alternative=alternative)


def significance_of_orders(
    statistics: Float[Tensor, "draw model"], *, exact: bool, alternative: Alternative
) -> tuple[Float[Tensor, "model"], Significance]:
    """Return the values in the given order of stimuli, and how many orders have such values.

    Args:
        statistics: in each order of ``label_orders``, the given one first.
        exact: whether those are all orders there are.
        alternative: ``greater``, or ``two-sided``: further from the mean over orders.
    """
    undefined = statistics[0].isnan().nonzero()[:, 0].tolist()
    if undefined:
        raise ValueError(
            f"The similarity of models {undefined} (rows, from 0) is undefined: an RDM of theirs, "
            "or of a subject, is constant. Leave it out."
        )
    value, null = statistics[0], statistics[1:]

    def of_orders(drawn: Tensor) -> Tensor:
        """Return p values alone and in the family; the mean over orders is drawn as they are."""
        everything = drawn if exact else torch.cat([value[None], drawn])
        mean, spread = everything.mean(0), everything.std(0, correction=0)
        unit = spread.where(spread > 0, 1)
        z, null_z = (value - mean) / unit, (drawn - mean) / unit
        return torch.stack(p_of_draws(z, null_z, alternative=alternative, exact=exact))

    p = of_orders(null)
    errors = torch.zeros_like(p)
    if not exact:
        errors = error_of_share(p, len(null))
    if not exact and len(null) > 1:
        left_out = [of_orders(null[kept]) for kept in kept_in_groups(len(null))]
        errors = errors.maximum(grouped_jackknife(torch.stack(left_out)))
    least = 1 / len(null) if exact else 1 / (len(null) + 1)
    kind = f"permutation of stimulus labels, {'exact' if exact else 'random'}, {alternative}"
    return value, Significance(p[0], least, kind, len(null), p[1], *errors)

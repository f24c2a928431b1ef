"""Does a metric measure what it should? Planted cases with known answers, a row each."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repalign.metrics import Metric

Draw = torch.Generator
N_STIMULI, N_NEUROIDS, N_UNITS, N_LATENT = 120, 30, 20, 12
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the responses' variance, in graded mixing
NULL_STIMULI, NULL_NEUROIDS = (20, 50, 150), (10, 100, 400)
DEPTH, WIDTH, N_INPUTS, N_NETWORKS = 5, 64, 20, 5


@dataclass(frozen=True)
class Check:
    """One row: a planted case, what must come out and what did.

    Args:
        metric: name of the metric.
        case: what was planted.
        expected: what a valid metric shows.
        found: what this one showed.
        passed: whether it is what was expected; None for a figure without a verdict.
    """

    metric: str
    case: str
    expected: str
    found: str
    passed: bool | None


def _normal(draw: Draw, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def _rotation(draw: Draw, p: int) -> Tensor:
    q: Tensor = torch.linalg.qr(_normal(draw, p, p))[0]
    return q


TRANSFORMATIONS: dict[str, Callable[[Tensor, Draw], Tensor]] = {
    "rotation": lambda x, draw: x @ _rotation(draw, x.shape[1]),
    "translation": lambda x, draw: x + 3 * _normal(draw, 1, x.shape[1]),
    "isotropic scale": lambda x, draw: x * 1e-8,
    "neuroid order": lambda x, draw: x[:, torch.randperm(x.shape[1], generator=draw)],
    "neuroid scale": lambda x, draw: x * _normal(draw, 1, x.shape[1]).exp(),
    "neuroid sign": lambda x, draw: x * _normal(draw, 1, x.shape[1]).sign(),
    "invertible linear": lambda x, draw: (
        x @ (_normal(draw, x.shape[1], x.shape[1]) + 5 * torch.eye(x.shape[1], dtype=x.dtype))
    ),
    "pattern offset": lambda x, draw: x + 3 * _normal(draw, len(x), 1),
    "pattern scale": lambda x, draw: x * _normal(draw, len(x), 1).exp(),
}
IMPLIED = {
    "rotation": {"neuroid order", "neuroid sign"},
    "neuroid scale": {"isotropic scale"},
    "pattern scale": {"isotropic scale"},
    "invertible linear": set(TRANSFORMATIONS) - {"translation", "pattern offset", "pattern scale"},
}


def _claimed(metric: Metric) -> set[str]:
    claimed = set(metric.invariances)
    return claimed.union(*(IMPLIED.get(word, set()) for word in claimed))


def _best(metric: Metric) -> float:
    return metric.range[1 if metric.higher_is_more_similar else 0]


def _is_held_out(metric: Metric) -> bool:
    return hasattr(metric, "scores") or getattr(metric, "folds", None) is not None


def _populations(draw: Draw) -> tuple[Tensor, Tensor]:
    """Two populations that read the same latents, with their own noise and mean."""
    latent = _normal(draw, N_STIMULI, N_LATENT)
    x, y = (
        latent @ _normal(draw, N_LATENT, p) / math.sqrt(N_LATENT)
        + 0.5 * _normal(draw, N_STIMULI, p)
        + _normal(draw, 1, p)
        for p in (N_NEUROIDS, N_UNITS)
    )
    return x, y


def _identity(metric: Metric, draw: Draw) -> Iterator[Check]:
    x, _ = _populations(draw)
    value, best = float(metric(x, x)), _best(metric)
    if math.isfinite(best):
        tolerance = 0.05 if _is_held_out(metric) else 1e-6
        passed = abs(value - best) <= tolerance
        yield Check(metric.name, "with itself", f"{best:g}", f"{value:.6g}", passed)
    again = float(metric(x, x))
    yield Check(
        metric.name, "the same call twice", "the same", f"{again - value:g}", again == value
    )


def _invariances(metric: Metric, draw: Draw) -> Iterator[Check]:
    x, y = _populations(draw)
    value, claimed = float(metric(x, y)), _claimed(metric)
    for word, transform in TRANSFORMATIONS.items():
        change = abs(float(metric(transform(x, draw), y)) - value)
        kept = word in claimed
        passed = change <= 1e-6 if kept else change > 1e-6
        yield Check(metric.name, word, "same" if kept else "differs", f"{change:.1e}", passed)


def _swap_and_order(metric: Metric, draw: Draw) -> Iterator[Check]:
    x, y = _populations(draw)
    value = float(metric(x, y))
    if metric.symmetric:
        change = abs(float(metric(y, x)) - value)
        yield Check(metric.name, "x and y exchanged", "same", f"{change:.1e}", change <= 1e-9)
    order = torch.randperm(len(x), generator=draw)
    change = abs(float(metric(x[order], y[order])) - value)
    folds = getattr(metric, "folds", None) is not None  # other folds then
    expected = "differs by less than 0.1" if folds else "same"
    passed = change <= (0.1 if folds else 1e-9)
    yield Check(metric.name, "stimuli in another order", expected, f"{change:.1e}", passed)


def _precision(metric: Metric, draw: Draw) -> Iterator[Check]:
    x, y = _populations(draw)
    single, half = (x + 1e4).float(), y.float()
    change = abs(float(metric(single, half)) - float(metric(single.double(), half.double())))
    case = "float32 with an offset of 1e4"
    yield Check(metric.name, case, "as in float64", f"{change:.1e}", change <= 1e-3)


def _mixing(metric: Metric, draw: Draw) -> Iterator[Check]:
    latent, other = (_normal(draw, N_STIMULI, N_LATENT) for _ in range(2))
    to_x, to_y = (_normal(draw, N_LATENT, p) for p in (N_NEUROIDS, N_UNITS))
    x = latent @ to_x
    values = [
        float(metric(x, (math.sqrt(share) * latent + math.sqrt(1 - share) * other) @ to_y))
        for share in SHARES
    ]
    sign = 1 if metric.higher_is_more_similar else -1
    rising = all(sign * (b - a) > 0 for a, b in itertools.pairwise(values))
    shown = " ".join(f"{value:.2f}" for value in values)
    shares = ", ".join(f"{share:g}" for share in SHARES)
    yield Check(metric.name, f"shared variance {shares}", "strictly more similar", shown, rising)


def _classes(metric: Metric, draw: Draw, draws: int) -> Iterator[Check]:
    """Two populations that share nothing but the classes of the stimuli, then exemplars too."""
    label = torch.arange(N_STIMULI) % 6
    to_x, to_y = (_normal(draw, N_LATENT, p) for p in (N_NEUROIDS, N_UNITS))
    centres = 1.5 * _normal(draw, 6, N_LATENT)
    exemplar, other = (_normal(draw, N_STIMULI, N_LATENT) for _ in range(2))
    x = (centres[label] + exemplar) @ to_x
    classes = (centres[label] + other) @ to_y
    sign = 1 if metric.higher_is_more_similar else -1
    value = sign * float(metric(x, classes))
    shuffled = [
        sign * float(metric(x, classes[torch.randperm(N_STIMULI, generator=draw)]))
        for _ in range(draws)
    ]
    found = f"{sign * value:.2f}, shuffled {sign * sum(shuffled) / draws:.2f}"
    yield Check(metric.name, "shared classes", "beyond all shuffles", found, value > max(shuffled))
    both = sign * float(metric(x, (centres[label] + exemplar) @ to_y))
    found = f"{sign * both:.2f} after {sign * value:.2f}"
    yield Check(
        metric.name, "shared exemplars too", "more similar than classes alone", found, both > value
    )


@functools.lru_cache(maxsize=1)
def _trained_networks() -> tuple[tuple[Tensor, ...], ...]:
    """The layers' responses of small networks that learnt one task from different seeds."""
    draw = torch.Generator().manual_seed(0)
    teacher = _normal(draw, N_INPUTS, 30) * 2 / math.sqrt(N_INPUTS), _normal(draw, 30, 8)
    inputs = _normal(draw, 4000 + N_STIMULI, N_INPUTS)
    labels = ((inputs @ teacher[0]).tanh() @ teacher[1]).argmax(1)
    return tuple(_train(inputs.float(), labels, seed) for seed in range(N_NETWORKS))


def _train(inputs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, ...]:
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        sizes = [N_INPUTS, *[WIDTH] * DEPTH]
        layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        head = nn.Linear(WIDTH, int(labels.max()) + 1)
        optimiser = torch.optim.Adam([*layers.parameters(), *head.parameters()], lr=2e-3)
        for _ in range(400):
            batch = torch.randint(len(inputs) - N_STIMULI, (128,))
            loss = nn.functional.cross_entropy(
                head(_responses(layers, inputs[batch])[-1]), labels[batch]
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    with torch.no_grad():
        return tuple(_responses(layers, inputs[-N_STIMULI:]))


def _responses(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    responses = []
    for layer in layers:
        x = layer(x).relu()
        responses.append(x)
    return responses


def _layer_identity(metric: Metric) -> Iterator[Check]:
    """Kornblith et al. 2019: a layer's nearest in a network of another seed is itself."""
    sign = 1 if metric.higher_is_more_similar else -1
    hits = 0
    for first, second in itertools.pairwise(_trained_networks()):
        for depth, layer in enumerate(first):
            values = [sign * float(metric(layer, other)) for other in second]
            hits += int(max(range(DEPTH), key=values.__getitem__) == depth)
    n = DEPTH * (N_NETWORKS - 1)
    least = _binomial_bound(n, 1 / DEPTH)
    case = f"the same layer of another seed, of {DEPTH}"
    yield Check(metric.name, case, f"{least} or more of {n}", f"{hits} of {n}", hits >= least)


def _binomial_bound(n: int, rate: float, alpha: float = 0.01) -> int:
    """Fewest hits of n that chance reaches with a probability below alpha."""
    tail = 0.0
    for hits in range(n, -1, -1):
        tail += math.comb(n, hits) * rate**hits * (1 - rate) ** (n - hits)
        if tail >= alpha:
            return hits + 1
    return 0


def _null(metric: Metric, draw: Draw, draws: int) -> Iterator[Check]:
    means, errors = [], []
    for n, p in itertools.product(NULL_STIMULI, NULL_NEUROIDS):
        if n < 1.5 * metric.minimum_stimuli:
            continue
        values = torch.tensor(
            [float(metric(_normal(draw, n, p), _normal(draw, n, p))) for _ in range(draws)]
        )
        case = f"null: {n} stimuli, {p} neuroids"
        if values.isnan().any():
            yield Check(metric.name, case, "", "undefined", None)
            continue
        yield Check(metric.name, case, "", f"{values.mean():.3f} ± {values.std():.3f}", None)
        means.append(float(values.mean()))
        errors.append(float(values.std()) / math.sqrt(draws))
    slack = 0.05 + 4 * max(errors)
    spread = max(means) - min(means)
    yield Check(
        metric.name,
        "null, from few to many stimuli and neuroids",
        f"moves less than {slack:.2f}",
        f"{min(means):.2f} to {max(means):.2f}",
        spread <= slack,
    )


def check_validity(metric: Metric, *, draws: int = 20, seed: int = 0) -> list[Check]:
    """Put a metric through planted cases whose answers are known.

    Itself; every invariance that it states, and every one that it does not state; exchange of x
    and y; order of the stimuli; float32 with a large offset; graded mixing; class structure with
    and without shared exemplars; layers across the seeds of a network (Kornblith et al. 2019);
    and what unrelated responses score (the null) from few to many stimuli and neuroids.

    Args:
        metric: any metric that takes populations without repetitions.
        draws: number of independent data sets a null, and of shuffles of class structure.
        seed: of all random numbers.

    Returns:
        The rows. A published metric may fail some: that is what the table is for. A null that
        moves with n and p means that values at different n or p cannot be compared.

    Example:
        >>> from repalign.metrics import CKA
        >>> rows = check_validity(CKA(debiased=False), draws=5)
        >>> [row.case for row in rows if row.passed is False]
        ['null, from few to many stimuli and neuroids']

    Reference:
        Kornblith et al. 2019, https://doi.org/10.48550/arXiv.1905.00414
    """
    draw = torch.Generator().manual_seed(seed)
    return [
        *_identity(metric, draw),
        *_invariances(metric, draw),
        *_swap_and_order(metric, draw),
        *_precision(metric, draw),
        *_mixing(metric, draw),
        *_classes(metric, draw, draws),
        *_layer_identity(metric),
        *_null(metric, draw, draws),
    ]

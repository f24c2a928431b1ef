"""Objectives, read-outs and schedules: gradients, direction, bounds, and what is refused."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch

from repalign.metrics import (
    CKA,
    METRICS,
    RSA,
    AngularShape,
    MutualKNN,
    Procrustes,
    Ridge,
    biased_cka_null,
)
from repalign.regularize import cka_bias, objectives, readouts, schedules
from repalign.regularize.cka_bias import biased_null, participation_ratio
from repalign.regularize.objectives import (
    ALIGNMENT_LOSSES,
    FittedObjective,
    MetricObjective,
    as_objective,
    differentiable_metrics,
)
from repalign.regularize.schedules import Schedule

N, UNITS, NEUROIDS = 9, 6, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def made(name: str, y: torch.Tensor, units: int = UNITS):
    """An objective ready for use, in float64."""
    objective = as_objective(name)
    if isinstance(objective, FittedObjective):
        return objective.make(units, mean=y.mean(0), variance=y.var(0)).double()
    return objective


@pytest.fixture(params=sorted(ALIGNMENT_LOSSES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize(
    "module", [objectives, readouts, schedules, cka_bias], ids=lambda m: m.__name__
)
def test_examples_run(module) -> None:
    assert doctest.testmod(module).failed == 0


def test_gradients_are_those_of_finite_differences(name: str) -> None:
    x, y = normal(N, UNITS).requires_grad_(), normal(N, NEUROIDS, seed=1).exp()
    objective = made(name, y)
    if isinstance(objective, torch.nn.Module):
        objective.weight.data = normal(NEUROIDS, UNITS, seed=2)
        inputs = (x, objective.weight)
        assert torch.autograd.gradcheck(lambda x, _: objective(x, y), inputs)
    assert torch.autograd.gradcheck(lambda x: objective(x, y), (x,))


def test_wide_layers_have_right_gradients_too(name: str) -> None:
    x, y = normal(5, 12).requires_grad_(), normal(5, 7, seed=1).exp()
    assert torch.autograd.gradcheck(lambda x: made(name, y, 12)(x, y), (x,))


def test_steps_on_the_loss_raise_the_likeness(name: str) -> None:
    x, y = normal(30, UNITS).requires_grad_(), (normal(30, 3, seed=1) @ normal(3, 8, seed=2)).exp()
    objective = made(name, y)
    parameters = [x, *(objective.parameters() if isinstance(objective, torch.nn.Module) else [])]
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    before = objective.value(x, y).item()
    for _ in range(60):
        optimiser.zero_grad()
        objective(x, y).backward()
        optimiser.step()
    after = objective.value(x, y).item()
    gain = after - before if getattr(objective, "higher_is_more_similar", True) else before - after
    assert gain > 0.1


@pytest.mark.parametrize(
    "name", [name for name in sorted(ALIGNMENT_LOSSES) if not name.startswith("ridge")]
)
@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_gradients_stay_finite_at_identical_responses(name: str, noise: float) -> None:
    y = normal(N, NEUROIDS)
    x = (y + noise * normal(N, NEUROIDS, seed=1)).requires_grad_()
    objective = as_objective(name)
    loss = objective(x, y)
    loss.backward()
    assert loss.isfinite()
    assert x.grad.isfinite().all()
    assert loss.item() <= objective(normal(N, NEUROIDS, seed=3), y).item()


def test_losses_are_one_minus_a_similarity_its_logarithm_or_a_distance() -> None:
    x, y = normal(N, UNITS), normal(N, NEUROIDS, seed=1)
    value = CKA(debiased=False)(x, y)
    torch.testing.assert_close(as_objective("cka")(x, y), 1 - value)
    torch.testing.assert_close(as_objective("log-cka")(x, y), (1 - value + 1e-6).log())
    torch.testing.assert_close(as_objective("debiased-cka")(x, y), 1 - CKA()(x, y))
    torch.testing.assert_close(as_objective(AngularShape())(x, y), AngularShape()(x, y))
    distance = Procrustes()(x, y)
    logarithm = MetricObjective(metric=Procrustes(), log=True)(x, y)
    torch.testing.assert_close(logarithm, (distance + 1e-6).log())


def test_rsa_is_numpys_correlation_of_distances() -> None:
    x, y = normal(N, UNITS), normal(N, NEUROIDS, seed=1)
    upper = np.triu_indices(N, 1)
    rdms = [(1 - np.corrcoef(one.numpy()))[upper] for one in (x, y)]
    assert as_objective("rsa")(x, y).item() == pytest.approx(1 - np.corrcoef(*rdms)[0, 1], abs=1e-9)


def test_pairwise_similarity_is_the_fisher_transformed_cosine_by_hand() -> None:
    x, y = normal(N, UNITS), normal(N, NEUROIDS, seed=1)
    total = 0.0
    for i in range(N):
        for j in range(i):
            z = []
            for one in (x - x.mean(0), y - y.mean(0)):
                cosine = one[i] @ one[j] / (one[i].norm() * one[j].norm())
                z.append(np.arctanh(0.999 * cosine.item()))
            total += (z[0] - z[1]) ** 2
    expected = total / (N * (N - 1) / 2)
    assert as_objective("pairwise-similarity")(x, y).item() == pytest.approx(expected)


def test_names_take_parameters() -> None:
    objective = as_objective("rsa:rdm=euclidean,comparator=cosine")
    assert objective.metric == RSA(rdm="euclidean", comparator="cosine")
    assert as_objective("ridge-mse:penalty=0.5").penalty == 0.5
    assert as_objective("log-cka:eps=1e-3").eps == 1e-3


def test_names_know_true_and_false_and_every_differentiable_metric() -> None:
    assert as_objective("cka:log=false") == as_objective("cka")
    assert as_objective("cka:log=true") == as_objective("log-cka")
    half = AngularShape(alpha=0.5)
    assert as_objective("angular-shape:alpha=0.5") == MetricObjective(metric=half)
    with pytest.raises(ValueError, match="expected true or false"):
        as_objective("cka:log=0")
    with pytest.raises(ValueError, match="eps=small.*expected a value of type float"):
        as_objective("log-cka:eps=small")


def test_every_metric_that_says_it_is_differentiable_trains() -> None:
    x, y = normal(12, 5).requires_grad_(), normal(12, 4, seed=1)
    for kind in METRICS.values():
        metric = kind()
        if metric.differentiable:
            x.grad = None
            as_objective(metric)(x, y).backward()
            assert x.grad.isfinite().all(), metric
            assert x.grad.abs().sum() > 0, metric


@pytest.mark.parametrize("metric", [Ridge(), RSA(), MutualKNN(k=2)], ids=lambda m: m.name)
def test_a_metric_without_gradients_is_refused_with_those_that_have_them(metric) -> None:
    with pytest.raises(ValueError, match="no gradients.*angular-shape.*cka.*log-cka"):
        as_objective(metric)


def test_the_list_of_differentiable_metrics_is_what_the_metrics_say() -> None:
    listed = differentiable_metrics()
    assert "ridge" not in listed
    assert "mutual-knn" not in listed
    assert {"cka", "procrustes", "angular-shape"} <= set(listed)
    assert any(line.startswith("rsa with comparator=") and "'corr'" in line for line in listed)


def test_a_metric_that_needs_repetitions_is_refused() -> None:
    metric = RSA(rdm="crossnobis", comparator="corr", model_rdm="euclidean")
    with pytest.raises(ValueError, match="single repetitions.*average"):
        as_objective(metric)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ckaa", "'ckaa' is no alignment loss; choose one of cka"),
        ("rsa:rmd=euclidean", "'rmd=euclidean' is no parameter of rsa; there are rdm, comparator"),
        ("cka:debiased=True", "no parameter of cka"),
        ("rsa:comparator=spearman", "no gradients"),
        ("log-cka:eps=0", "eps is 0"),
        ("ridge-mse:penalty=-1", "penalty is -1"),
        ("pairwise-similarity:eps=1", "eps is 1"),
    ],
)
def test_bad_names_say_what_there_is(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_objective(text)


def test_an_object_of_another_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="metric is a int"):
        as_objective(3)


def test_an_objective_of_ones_own_is_taken_as_it_is() -> None:
    class Mine:
        name, minimum_stimuli, formula, reference = "mine", 2, "", ""

        def __call__(self, x, y):
            return x.sum()

        value = __call__

    mine = Mine()
    assert as_objective(mine) is mine


def test_participation_ratio_counts_the_dimensions_that_are_filled() -> None:
    scales = torch.tensor([4.0] * 3 + [1.0] * 20).double()
    exact = float(scales.square().sum() ** 2 / scales.pow(4).sum())
    x = normal(4000, 23) * scales
    assert participation_ratio(x) == pytest.approx(exact, rel=0.05)
    few = np.mean([participation_ratio(normal(60, 23, seed=s) * scales) for s in range(20)])
    assert few == pytest.approx(exact, rel=0.2)


def test_the_null_is_what_unrelated_responses_score() -> None:
    values, nulls = [], []
    for seed in range(20):
        x, y = normal(20, 40, seed=seed), normal(20, 30, seed=100 + seed)
        values.append(CKA(debiased=False)(x, y).item())
        nulls.append(biased_null(as_objective("cka"), x, y))
    assert np.mean(nulls) == pytest.approx(np.mean(values), abs=0.05)
    assert np.mean(nulls) == pytest.approx(biased_cka_null(20, 40, 30), abs=0.05)
    assert biased_null(as_objective("debiased-cka"), x, y) is None
    assert biased_null(as_objective("ridge-mse"), x, y) is None


def test_trained_ridge_read_out_equals_the_closed_form() -> None:
    x, y = normal(40, 5) * 3 + 1, normal(40, 2, seed=1) + normal(40, 5)[:, :2]
    penalty = 0.05
    readout = as_objective(f"ridge-mse:penalty={penalty}").make(
        5, mean=y.mean(0), variance=y.var(0, correction=0)
    )
    optimiser = torch.optim.LBFGS(readout.parameters(), max_iter=200, tolerance_grad=1e-9)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = readout(x, y)
        loss.backward()
        return loss

    optimiser.step(closure)
    z = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() / 5**0.5
    t = (y - y.mean(0)) / y.std(0, correction=0)
    weights = torch.linalg.solve(
        z.T @ z / len(z) + penalty * torch.eye(5).double(), z.T @ t / len(z)
    )
    torch.testing.assert_close(readout.weight.double(), weights.T, atol=1e-4, rtol=1e-4)


def test_poisson_read_out_recovers_the_rates() -> None:
    x = normal(400, 3)
    rate = torch.nn.functional.softplus(x[:, :1] + 1)
    y = torch.poisson(rate, generator=torch.Generator().manual_seed(0))
    readout = as_objective("ridge-poisson:penalty=0").make(3, mean=y.mean(0), variance=y.var(0))
    start = readout(x, y).item()
    assert readout.predict(x).mean().item() == pytest.approx(y.mean().item(), rel=1e-4)
    optimiser = torch.optim.LBFGS(readout.parameters(), max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = readout(x, y)
        loss.backward()
        return loss

    optimiser.step(closure)
    truth = (rate - y * rate.log()).mean().item()
    assert truth - 0.02 < readout(x, y).item() <= truth < start
    assert np.corrcoef(readout.predict(x).detach()[:, 0], rate[:, 0])[0, 1] > 0.98


def test_constant_neuroids_are_left_out_and_all_constant_ones_refused() -> None:
    x, y = normal(8, 3), torch.cat([normal(8, 1, seed=1), torch.ones(8, 1)], 1)
    readout = as_objective("ridge-mse").make(3, mean=y.mean(0), variance=y.var(0, correction=0))
    assert readout(x, y).item() == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="All 2 neuroids respond alike"):
        as_objective("ridge-mse").make(3, mean=torch.ones(2), variance=torch.zeros(2))


def test_poisson_refuses_negative_responses() -> None:
    with pytest.raises(ValueError, match="mean response of 1 neuroids is negative.*ridge-mse"):
        as_objective("ridge-poisson").make(3, mean=torch.tensor([-1.0]), variance=torch.ones(1))
    readout = as_objective("ridge-poisson").make(3, mean=torch.ones(1), variance=torch.ones(1))
    with pytest.raises(ValueError, match="least response is -2"):
        readout(normal(4, 3), torch.full((4, 1), -2.0))


def test_schedule_warms_up_ramps_and_mixes() -> None:
    schedule = Schedule(warm_up=3, ramp=2, mix_rate=0.4, seed=5)
    weights = [schedule.weight(step) for step in range(4000)]
    assert weights[:3] == [0, 0, 0]
    assert set(weights[3:4]) <= {0, 0.5}
    assert set(weights[4:]) == {0, 1}
    assert np.mean(weights[4:]) == pytest.approx(0.4, abs=0.03)
    again = [schedule.weight(step) for step in (900, 17, 900)]
    assert again == [weights[900], weights[17], weights[900]]
    other = Schedule(warm_up=3, ramp=2, mix_rate=0.4, seed=6)
    assert [other.weight(step) for step in range(50)] != weights[:50]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"warm_up": -1}, "warm_up is -1"),
        ({"ramp": -2}, "ramp is -2"),
        ({"mix_rate": 0}, "mix_rate is 0; expected more than 0"),
        ({"mix_rate": 1.5}, "mix_rate is 1.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_schedules_are_refused(parameters: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Schedule(**parameters)

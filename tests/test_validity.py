"""Every row of the validity suite can fail: a deliberately broken metric is caught by it."""

import dataclasses
import doctest
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from repalign import validity
from repalign.metrics import CKA
from repalign.metrics.calls import Device, compare_populations
from repalign.validity import TRANSFORMATIONS, check_validity


@dataclass(frozen=True)
class Broken:
    """Linear CKA in every statement, with another kernel."""

    kernel: Callable[[Tensor, Tensor], Tensor]

    name: ClassVar[str] = "broken"
    formula: ClassVar[str] = "none"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    invariances: ClassVar[tuple[str, ...]] = CKA.invariances
    symmetric: ClassVar[bool] = True
    differentiable: ClassVar[bool] = True
    needs_responses: ClassVar[bool] = True
    needs_repeats: ClassVar[bool] = False
    minimum_stimuli: ClassVar[int] = 4
    higher_is_more_similar: ClassVar[bool] = True
    reference: ClassVar[str] = ""

    def __call__(
        self, x: Tensor, y: Tensor, *, batch_dims: int = 0, device: Device = None
    ) -> Tensor:
        return compare_populations(
            self.kernel, x, y, needs=self, batch_dims=batch_dims, device=device
        )


def uncentred(x: Tensor, y: Tensor) -> Tensor:
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())


def with_epsilon(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(0), y - y.mean(0)
    return (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm() + 1e-8)


def in_single_precision(x: Tensor, y: Tensor) -> Tensor:
    k, m = x.float() @ x.float().T, y.float() @ y.float().T
    return CKA().compare_prepared(k, m) if x.dtype == torch.float32 else CKA()(x, y)


def rotated_away(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x.abs(), y.abs())


def blind_to_scale(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(*(((z - z.mean(0)) / z.std(0)).nan_to_num() for z in (x, y)))


def blind_to_pattern_length(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True))


def blind_to_pattern_mean(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True))


def blind_to_linear_maps(x: Tensor, y: Tensor) -> Tensor:
    a, b = (torch.linalg.qr(z - z.mean(0)).Q for z in (x, y))
    return CKA()(a, b)


def noisy(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x, y) + 1e-9 * torch.rand(())


def one_sided(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x.relu(), y)


def by_place(x: Tensor, y: Tensor) -> Tensor:
    weight = torch.linspace(0.1, 1, len(x), dtype=x.dtype)[:, None]
    return CKA()(x * weight, y * weight)


def last_batch(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x[:4], y[:4])


def half(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x, y) / 2


def unmatched(x: Tensor, y: Tensor) -> Tensor:
    same = x.shape == y.shape and torch.equal(x, y)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return CKA()(x, y if same else y[order])


def constant(x: Tensor, y: Tensor) -> Tensor:
    return x.new_tensor(0.7)


def saturated(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x, y).clamp(max=0.3)


def first_units(x: Tensor, y: Tensor) -> Tensor:
    return CKA()(x[:, :1], y[:, :1])


@pytest.mark.parametrize(
    ("kernel", "case"),
    [
        (half, "with itself"),
        (noisy, "the same call twice"),
        (rotated_away, "rotation"),
        (one_sided, "neuroid sign"),
        (uncentred, "translation"),
        (with_epsilon, "isotropic scale"),
        (by_place, "stimuli in another order"),
        (first_units, "neuroid order"),
        (blind_to_scale, "neuroid scale"),
        (blind_to_linear_maps, "invertible linear"),
        (blind_to_pattern_mean, "pattern offset"),
        (blind_to_pattern_length, "pattern scale"),
        (one_sided, "x and y exchanged"),
        (in_single_precision, "float32 with an offset of 1e4"),
        (last_batch, "shared variance 0, 0.25, 0.5, 0.75, 1"),
        (constant, "shared variance 0, 0.25, 0.5, 0.75, 1"),
        (unmatched, "shared classes"),
        (saturated, "shared exemplars too"),
        (constant, "the same layer of another seed, of 5"),
        (CKA(debiased=False)._value, "null, from few to many stimuli and neuroids"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_broken_metric_is_caught(kernel, case):
    rows = {row.case: row.passed for row in check_validity(Broken(kernel), draws=4)}
    assert rows[case] is False


def test_every_row_with_a_verdict_has_a_broken_metric_above():
    [caught] = test_a_broken_metric_is_caught.pytestmark
    cases = {case for _, case in caught.args[1]}
    judged = {row.case for row in check_validity(CKA(), draws=2) if row.passed is not None}
    assert judged == cases
    assert set(TRANSFORMATIONS) < cases


def test_debiased_cka_passes_every_row():
    assert [row for row in check_validity(CKA(), draws=10) if row.passed is False] == []


def test_the_table_is_the_same_for_the_same_seed():
    first, second = (check_validity(CKA(), draws=2, seed=3) for _ in range(2))
    assert first == second
    assert first != check_validity(CKA(), draws=2, seed=4)
    assert dataclasses.asdict(first[0])["metric"] == "cka"


def test_examples_run():
    assert doctest.testmod(validity).failed == 0

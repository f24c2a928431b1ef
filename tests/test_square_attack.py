"""The Square attack: it needs no gradients, keeps its budget of queries, and finds optima."""

from __future__ import annotations

import math

import pytest
import torch
from attack_problems import Linear, accuracy, trained_on_digits
from torch import Tensor

from repalign.robustness import APGD, Square
from repalign.robustness.perturbations import BALLS, L2Ball, LinfBall, check_inside
from repalign.robustness.square_attack import SEARCHES, _numbers, changed_share

EPS = {"Linf": 0.1, "L2": 0.6}
NORMS = pytest.mark.parametrize("norm", BALLS)


def some_images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_the_share_is_halved_where_the_paper_halves_it():
    """After 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000 queries."""
    asked = (0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 6001, 8001, 9999)
    found = [math.log2(0.5 / changed_share(q, queries=10_000, p_init=0.5)) for q in asked]
    assert found == [0, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]


@NORMS
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (1, 1, 1), (3, 2, 2), (2, 5, 9), (1, 3, 4), (3, 16, 11)]
)
def test_images_of_any_size_are_searched_inside_the_ball(norm, shape):
    images = some_images(7, *shape)
    ball = BALLS[norm](images, 0.5, (0.0, 1.0))
    seeds = torch.arange(7)
    start, propose = SEARCHES[norm]
    x = start(ball, _numbers(seeds, 0))
    check_inside(ball, x)
    assert ball.length(x).min() > 0
    for query, share in enumerate((0.8, 0.3, 0.1, 0.001), start=1):
        x = propose(ball, x, share, _numbers(seeds, query))
        check_inside(ball, x)


def test_linf_squares_are_squares_of_full_size_at_all_places():
    ball = LinfBall(torch.zeros(4000, 2, 6, 7), 0.25, (-1.0, 1.0))
    start, propose = SEARCHES["Linf"]
    stripes = start(ball, _numbers(torch.arange(4000), 0))
    assert (stripes.abs() == 0.25).all()
    assert (stripes == stripes[:, :, :1]).all()
    assert abs(stripes.mean()) < 0.01
    changed = propose(ball, ball.images.clone(), 9 / 42, _numbers(torch.arange(4000), 1)) != 0
    assert (changed.sum((2, 3)) == 9).all()
    rows, columns = changed[:, 0].any(2), changed[:, 0].any(1)
    assert (rows.sum(1) == 3).all()
    assert (columns.sum(1) == 3).all()
    corners = rows.float().argmax(1) * 5 + columns.float().argmax(1)
    counts = torch.bincount(corners, minlength=20).float()
    assert (((counts - 200) ** 2 / 200).sum() < 43.8).item()  # χ² of 19 degrees, p = .001


def test_l2_squares_move_energy_and_use_all_of_eps():
    """Where the first perturbation has length eps, a proposal has it too, and elsewhere nothing."""
    ball = L2Ball(torch.zeros(50, 3, 15, 15), 2.0, (-9.0, 9.0))
    seeds = torch.arange(50)
    start, propose = SEARCHES["L2"]
    x = start(ball, _numbers(seeds, 0))
    assert (x != 0).flatten(1).float().mean(1).min() > 0.6
    torch.testing.assert_close(ball.length(x), torch.full((50,), 2.0))
    tried = propose(ball, x, 0.05, _numbers(seeds, 1))
    torch.testing.assert_close(ball.length(tried), torch.full((50,), 2.0))
    changed = ((tried - x).abs() > 1e-5).any(1).flatten(1).sum(1)
    assert changed.max() <= 2 * 9
    assert changed.min() >= 9 - 1
    energy = [one.square().sum((2, 3)) for one in (x, tried)]
    torch.testing.assert_close(*energy, rtol=1e-4, atol=1e-4)  # each channel keeps its own


@NORMS
def test_a_model_without_gradients_is_attacked_all_the_same(norm):
    model, images, labels = trained_on_digits(40)

    def masked(x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        return model(x.detach()).detach()

    found = Square(norm=norm, queries=400)(masked, images, labels, eps=EPS[norm])
    strongest = APGD(norm=norm, steps=30, n_targets=3)(model, images, labels, eps=EPS[norm])
    left, least = (accuracy(model, x, labels) for x in (found, strongest))
    assert least <= left < least + 0.25
    assert left < accuracy(model, images, labels) - 0.3


def test_linear_models_lose_eps_times_the_l1_norm():
    draw = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 4, 4, generator=draw)
    images = 0.3 + 0.4 * torch.rand(5, 2, 4, 4, generator=draw)
    model, labels = Linear(weights, bias=20.0), torch.zeros(5, dtype=torch.int64)
    found = Square(queries=2000)(model, images, labels, eps=0.05)
    torch.testing.assert_close(found, images - 0.05 * weights.sign())


@NORMS
def test_queries_are_a_budget_and_wrong_images_take_none(norm):
    digits = trained_on_digits(40)
    asked = []

    def counted(images: Tensor) -> Tensor:
        asked.append(len(images))
        return digits.model(images)

    Square(norm=norm, queries=60)(counted, digits.images, digits.labels, eps=EPS[norm])
    assert len(asked) == 1 + 60
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] < asked[1]
    asked.clear()
    Square(norm=norm, queries=60)(counted, digits.images, digits.labels, eps=5.0)
    assert len(asked) < 60


@NORMS
def test_more_queries_leave_less(norm):
    model, images, labels = trained_on_digits(40)
    left = [
        accuracy(model, Square(norm=norm, queries=n)(model, images, labels, eps=EPS[norm]), labels)
        for n in (1, 20, 200)
    ]
    assert left[0] > left[1] > left[2]


def test_a_model_that_gives_nan_for_some_perturbations_is_still_searched():
    weights = torch.ones(1, 4, 4)
    linear = Linear(weights, bias=-7.5)

    def sometimes(images: Tensor) -> Tensor:
        logits = linear(images)
        bad = images[:, 0, 0, 0] > 0.6
        return torch.where(bad[:, None], logits * torch.nan, logits)

    images, labels = torch.full((6, 1, 4, 4), 0.5), torch.zeros(6, dtype=torch.int64)
    found = Square(queries=200)(sometimes, images, labels, eps=0.2)
    assert (sometimes(found).argmax(1) == 1).all()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"norm": "L1"}, "'L1' is no norm; choose one of L2, Linf"),
        ({"queries": 0}, "queries is 0; expected a whole number of 1 or more"),
        ({"p_init": 0.0}, "p_init is 0.0; expected a share above 0 and at most 1"),
        ({"p_init": 1.5}, "p_init is 1.5"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        Square(**parameters)

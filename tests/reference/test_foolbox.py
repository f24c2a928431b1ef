"""foolbox as an oracle of FGSM and PGD, and as a back end."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import pytest
import torch
from attack_problems import accuracy, trained_on_digits
from torch import Tensor, nn

from repalign.robustness import FGSM, PGD, Attack, FoolboxAttack
from repalign.robustness.perturbations import BALLS, check_inside

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it imports names that scipy has deprecated
    foolbox = pytest.importorskip("foolbox")

SIZES = {"Linf": (0.03, 0.06, 0.1, 0.15, 0.2), "L2": (0.2, 0.4, 0.6, 0.9, 1.2)}
NORMS = pytest.mark.parametrize("norm", SIZES)


def left_by_foolbox(attack: Any, eps: float) -> tuple[float, Tensor]:
    model, images, labels = trained_on_digits()
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = attack(wrapped, images, labels, epsilons=eps)[1]
    return accuracy(model, found, labels), found


@NORMS
def test_pgd_leaves_what_foolboxs_leaves(norm):
    model, images, labels = trained_on_digits()
    kind = getattr(foolbox.attacks, f"{norm}ProjectedGradientDescentAttack")
    for eps in SIZES[norm]:
        expected, _ = left_by_foolbox(kind(rel_stepsize=2.5 / 20, steps=20), eps)
        found = PGD(norm=norm, steps=20)(model, images, labels, eps=eps)
        assert accuracy(model, found, labels) == pytest.approx(expected, abs=0.02)


@NORMS
def test_fgsm_is_foolboxs(norm):
    model, images, labels = trained_on_digits()
    kind = getattr(foolbox.attacks, f"{norm}FastGradientAttack")
    for eps in SIZES[norm]:
        expected, _ = left_by_foolbox(kind(random_start=False), eps)
        found = FGSM(norm=norm)(model, images, labels, eps=eps)
        assert accuracy(model, found, labels) == pytest.approx(expected, abs=0.005)


@NORMS
def test_fgsm_makes_foolboxs_images(norm):
    """In float64, for in float32 foolbox's gradient of the cross-entropy loses its digits."""
    digits = trained_on_digits(100)
    model, images, labels = copy.deepcopy(digits.model).double(), digits[1].double(), digits[2]
    right = model(images).argmax(1) == labels
    attack = getattr(foolbox.attacks, f"{norm}FastGradientAttack")(random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    for eps in SIZES[norm]:
        expected = attack(wrapped, images, labels, epsilons=eps)[1]
        found = FGSM(norm=norm)(model, images, labels, eps=eps)
        torch.testing.assert_close(found[right], expected[right], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "attack",
    [
        FoolboxAttack(name="LinfDeepFoolAttack", parameters={"steps": 10}),
        FoolboxAttack(name="L2DeepFoolAttack", norm="L2"),
        FoolboxAttack(name="LinfPGD", parameters={"steps": 5, "rel_stepsize": 0.5}),
    ],
    ids=lambda attack: attack.name,
)
def test_attacks_of_foolbox_are_attacks(attack):
    model, images, labels = trained_on_digits(50)
    assert isinstance(attack, Attack)
    state = torch.random.get_rng_state()
    modes = [module.training for module in model.modules()]
    eps = {"Linf": 0.12, "L2": 0.7}[attack.norm]
    found = attack(model, images, labels, eps=eps)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    check_inside(BALLS[attack.norm](images, eps, (0.0, 1.0)), found)
    assert torch.equal(found, attack(model, images, labels, eps=eps))
    assert accuracy(model, found, labels) < accuracy(model, images, labels) - 0.3
    function = lambda x: model(x)  # noqa: E731 any callable, not only modules
    assert torch.equal(found, attack(function, images, labels, eps=eps))


def test_a_network_in_training_mode_stays_in_it():
    model, images, labels = trained_on_digits(20)
    training = nn.Sequential(model)
    training.training = True
    FoolboxAttack(name="LinfPGD", parameters={"steps": 2})(training, images, labels, eps=0.1)
    assert training.training


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"name": "DeepFool9"}, "no class 'DeepFool9'; for Linf it has .*LinfDeepFoolAttack"),
        ({"name": "LinfDeepFoolAttack", "norm": "L2"}, "p = inf; norm is 'L2', so expected p = 2"),
        ({"name": "LinfPGD", "parameters": {"pace": 3}}, "LinfPGD cannot be made: .*pace"),
        ({"name": "LinfPGD", "norm": "L1"}, "'L1' is no norm"),
        ({"name": "L1FastGradientAttack"}, "bounds the norm with p = 1; norm is 'Linf'"),
    ],
)
def test_what_foolbox_lacks_is_said(parameters, message):
    with pytest.raises(ValueError, match=message):
        FoolboxAttack(**parameters)


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    with pytest.raises(ImportError, match=r"pip install 'repalign\[robust\]'"):
        FoolboxAttack(name="LinfPGD")

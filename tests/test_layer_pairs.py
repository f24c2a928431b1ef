import doctest
import itertools

import pytest
import torch
from torch import nn

from repalign import layer_pairs
from repalign.hooks import capture
from repalign.layer_pairs import cka_of_layers
from repalign.metrics import CKA


def images(n: int = 24, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3),
            nn.BatchNorm2d(5),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(180, 4),
        )


def stored(module: nn.Module, x: torch.Tensor, names: tuple[str, ...]) -> list[torch.Tensor]:
    was = module.training
    with capture(module.eval(), names) as seen, torch.no_grad():
        module(x)
    module.train(was)
    return [seen[name].flatten(1) for name in names]


class Layer(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


def one_layer(make) -> nn.Module:
    return nn.Sequential(Layer(make))


def test_examples_run():
    assert doctest.testmod(layer_pairs).failed == 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str
)
def test_one_batch_equals_cka_of_stored_activations(dtype, tolerance):
    first, second, x = network().to(dtype), network(1).to(dtype), images(dtype=dtype)
    found = cka_of_layers(first, second, [x], device="cpu")
    left = [one.double() for one in stored(first, x, found.first_layers)]
    right = [one.double() for one in stored(second, x, found.second_layers)]
    expected = torch.stack([CKA()(a, b) for a, b in itertools.product(left, right)]).reshape(6, 6)
    torch.testing.assert_close(found.values, expected, rtol=0, atol=tolerance)
    assert found.n_stimuli == 24


def test_several_batches_add_up_the_hsic_terms_and_divide_once():
    first, second = network(), network(1)
    batches = [images(12), images(20, seed=1)]
    found = cka_of_layers(first, second, batches, layers=["0"], second_layers=["5"], device="cpu")
    terms = torch.zeros(3, dtype=torch.float64)
    for x in batches:
        (a,), (b,) = stored(first, x, ("0",)), stored(second, x, ("5",))
        k, m = CKA().prepare(a), CKA().prepare(b)
        pairs = len(x) * (len(x) - 3)
        terms += pairs * torch.stack([CKA().inner(*two) for two in ((k, m), (k, k), (m, m))])
    assert found.values.item() == pytest.approx(
        (terms[0] / (terms[1] * terms[2]).sqrt()).item(), abs=1e-6
    )
    assert (found.n_stimuli, found.n_batches) == (32, 2)


def test_one_network_is_compared_with_itself_in_a_single_forward_pass():
    module, passes = network(), []
    module.register_forward_hook(lambda *_: passes.append(1))
    found = cka_of_layers(module, None, [images()], device="cpu")
    assert len(passes) == 1
    torch.testing.assert_close(found.values, found.values.T, rtol=0, atol=1e-14)
    torch.testing.assert_close(found.values.diagonal(), torch.ones(6).double())
    twice = cka_of_layers(module, module, [images()], device="cpu")
    torch.testing.assert_close(found.values, twice.values)


def test_an_in_place_operation_changes_no_layer_before_it():
    found = cka_of_layers(network(), None, [images()], layers=["1", "2"], device="cpu")
    assert found.values[0, 1] < 0.99


def test_a_container_shares_the_gram_matrix_of_its_last_child(monkeypatch):
    count, gram = [], layer_pairs._gram
    monkeypatch.setattr(layer_pairs, "_gram", lambda *a: count.append(1) or gram(*a))
    module = nn.Sequential(nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.ReLU(inplace=True))
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    found = cka_of_layers(module, None, [x], layers=["*"], device="cpu")
    assert found.first_layers == ("0", "0.0", "0.1", "1")
    assert len(count) == 3
    assert found.values[0, 2].item() == pytest.approx(1, abs=1e-12)
    assert found.values[0, 3] < 0.999


def test_a_layer_that_runs_twice_counts_with_its_last_output():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.linear = nn.ReLU(), nn.Linear(6, 6)

        def forward(self, x):
            return self.act(self.linear(self.act(x)))

    module = Twice()
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    found = cka_of_layers(module, None, [x], layers=["act", "linear"], device="cpu")
    last, linear = stored(module, x, ("act", "linear"))
    assert found.values[0, 1].item() == pytest.approx(CKA()(last, linear).item(), abs=1e-6)


def test_float32_activations_with_an_offset_keep_their_cka():
    module = nn.Sequential(Layer(lambda x: x), Layer(lambda x: x.relu() + 1e4))
    x = torch.randn(32, 50, generator=torch.Generator().manual_seed(0))
    found = cka_of_layers(module, None, [x], device="cpu").values[0, 1]
    expected = CKA()(x, x.relu() + 1e4)
    assert 0.2 < expected < 0.98
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_tuples_tokens_loaders_and_half_precision_are_taken():
    module = one_layer(lambda x: (x[:, None].expand(-1, 3, -1).bfloat16(), None))
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, torch.zeros(12)), batch_size=6
    )
    found = cka_of_layers(module, None, batches, device="cpu")
    assert found.values.item() == pytest.approx(1)
    assert found.n_batches == 2


@pytest.mark.parametrize("fails", [False, True])
def test_networks_are_left_as_they_were(fails):
    def run(x):
        if fails:
            raise RuntimeError("stop")
        return x

    module = nn.Sequential(network(), Layer(run)).train()
    module[0][1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    if fails:
        with pytest.raises(RuntimeError, match="stop"):
            cka_of_layers(module, None, [images()], device="cpu")
    else:
        assert not cka_of_layers(module, None, [images()], device="cpu").values.requires_grad
    assert not any(part._forward_hooks for part in module.modules())
    assert module.training
    assert not module[0][1].training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.is_grad_enabled()


def test_a_small_last_batch_is_left_out_with_a_warning():
    with pytest.warns(UserWarning, match="batch of 3 stimuli is left out"):
        found = cka_of_layers(network(), None, images(11).split(8), device="cpu")
    assert (found.n_stimuli, found.n_batches) == (8, 1)


def test_a_constant_layer_has_no_cka():
    module = nn.Sequential(Layer(lambda x: x), Layer(lambda x: 0 * x + 0.1))
    values = cka_of_layers(module, None, [images()], device="cpu").values
    assert values[0, 0].item() == pytest.approx(1)
    assert values[1].isnan().all()


def test_rows_name_every_pair():
    rows = cka_of_layers(
        network(), network(1), [images()], layers=["0", "5"], second_layers=["1"], device="cpu"
    ).rows()
    assert [(row["first_layer"], row["second_layer"]) for row in rows] == [("0", "1"), ("5", "1")]
    assert all(isinstance(row["cka"], float) for row in rows)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: cka_of_layers(network(), None, [images()], second_layers=["0"]),
            ValueError,
            "second_layers does not apply",
        ),
        (
            lambda: cka_of_layers(network(), None, [images()], layers=["conv"]),
            ValueError,
            "no layer 'conv'",
        ),
        (lambda: cka_of_layers(network(), None, []), ValueError, "No batch has 4 or more"),
        (
            lambda: cka_of_layers(one_layer(lambda x: x.flatten()), None, [images()]),
            ValueError,
            r"layer '0' gives shape \(4608,\) for 24 images",
        ),
        (
            lambda: cka_of_layers(one_layer(lambda x: x / 0), None, [images()]),
            ValueError,
            "layer '0' gives values that are NaN or infinite",
        ),
        (
            lambda: cka_of_layers(one_layer(lambda x: "no"), None, [images()]),
            TypeError,
            "layer '0' gives a str",
        ),
    ],
)
def test_errors_say_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_layer_that_does_not_run_is_named():
    module = network()
    module.auxiliary = nn.Linear(2, 2)
    module.forward = lambda x: module[0](x)
    with pytest.raises(ValueError, match=r"layer '1' does not run in a forward pass \(6 such\)"):
        cka_of_layers(module, None, [images()], device="cpu")

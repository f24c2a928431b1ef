"""The alignment loss in a user's loop: direction, bit identity, layers, time, resuming, errors."""

from __future__ import annotations

import copy
import doctest
import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn.functional import cross_entropy

from repalign.hooks import capture
from repalign.loaders import ingest
from repalign.metrics import CKA, RSA, MutualKNN
from repalign.network_cards import Preprocessing
from repalign.networks import Network
from repalign.recording import make_recording, response_array
from repalign.regularize import AlignmentLoss, AlignmentTerm, Schedule, alignment, neural_pass
from repalign.regularize.alignment_rows import pairs_over_stimuli
from repalign.regularize.cka_bias import BiasedMetricWarning
from repalign.scenes import make_scenes
from repalign.split_half import split_half_ceiling
from repalign.stimuli import encode_png

N, SIZE = 24, 6


class Small(nn.Module):
    """A convolution, batch normalisation, in-place rectifier, dropout and a linear end."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.relu = nn.ReLU(inplace=True)
            self.hidden = nn.Linear(4 * (SIZE - 2) ** 2, 10)
            self.dropout = nn.Dropout(0.3)
            self.last = nn.Linear(10, 5)
        self.reached = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.dropout(self.relu(self.hidden(x.flatten(1))))
        self.reached += 1
        return self.last(x)


class Recurrent(nn.Module):
    """A cell that runs several times in a pass."""

    def __init__(self, times: int = 3) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.read, self.cell, self.last = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 2)
        self.times = times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.read(x)
        for _ in range(self.times):
            state = self.cell(state).tanh()
        return self.last(state)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = normal(N, 3, SIZE, SIZE)
TARGET = (IMAGES.flatten(1) @ normal(3 * SIZE * SIZE, 4, seed=1)).tanh()
TASK = normal(16, 3, SIZE, SIZE, seed=2), torch.arange(16) % 5


def make(model: nn.Module, layer: str = "hidden", **options: object) -> AlignmentLoss:
    chosen = {"metric": "debiased-cka", "images": IMAGES, "batch_size": 12} | options
    target = chosen.pop("target", TARGET)
    return AlignmentLoss(model, layer, target, **chosen)


def timed(bins: int, n: int = N, repeats: int = 1) -> xr.Dataset:
    ids = [f"s{i}" for i in range(n)] * repeats
    ds = make_recording(np.zeros((len(ids), 4)), stimulus_id=ids, region="IT")
    values = normal(len(ids), 4, bins, seed=3).numpy()
    return ds.assign(response=(("presentation", "neuroid", "time_bin"), values))


def repeated(n: int = N, repeats: int = 4) -> xr.Dataset:
    noise = 0.5 * normal(repeats, n, 4, seed=4)
    values = (TARGET[:n] + noise).reshape(-1, 4).numpy()
    return make_recording(values, stimulus_id=[f"s{i}" for i in range(n)] * repeats, region="IT")


def train(model: nn.Module, steps: int, align: AlignmentLoss | None, weight: float) -> None:
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    images, labels = TASK
    for _ in range(steps):
        loss = cross_entropy(model(images), labels)
        if align is not None:
            loss = loss + weight * align()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def same_state(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("module", [alignment, neural_pass], ids=lambda m: m.__name__)
def test_examples_run(module) -> None:
    assert doctest.testmod(module).failed == 0


def test_three_lines_in_a_loop_raise_the_alignment() -> None:
    model = Small()
    align = AlignmentLoss(model, "hidden", TARGET, images=IMAGES, batch_size=24)
    before = align.evaluate()[0]["value"]
    train(model, 40, align, 1.0)
    assert align.evaluate()[0]["value"] > before + 0.2
    control = Small()
    train(control, 40, None, 0.0)
    assert make(control).evaluate()[0]["value"] < before + 0.2


@pytest.mark.parametrize("batchnorm", ["separate", "frozen"])
@pytest.mark.parametrize("metric", ["debiased-cka", "ridge-mse", "pairwise-similarity"])
def test_with_weight_zero_training_is_bit_identical(metric: str, batchnorm: str) -> None:
    plain, aligned = Small(), Small()
    torch.manual_seed(11)
    train(plain, 5, None, 0.0)
    expected = torch.random.get_rng_state()
    torch.manual_seed(11)
    train(aligned, 5, make(aligned, metric=metric, batchnorm=batchnorm), 0.0)
    assert same_state(plain, aligned)
    assert torch.equal(torch.random.get_rng_state(), expected)


def test_labels_leave_random_numbers_and_buffers_alone_too() -> None:
    model = Small()
    torch.manual_seed(3)
    state, buffers = torch.random.get_rng_state(), copy.deepcopy(dict(model.named_buffers()))
    align = make(model, labels=["a", "b"] * 12)
    align.forward_terms()
    align.evaluate()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(buffers[name], tensor) for name, tensor in model.named_buffers())
    assert model.training


def test_dropout_differs_between_steps_and_repeats_from_the_seed() -> None:
    batch = IMAGES[:12], TARGET[:12]
    first, second = make(Small(), "dropout"), make(Small(), "dropout")
    losses = [float(first(batch).detach()) for _ in range(3)]
    assert len(set(losses)) == 3
    torch.manual_seed(99)
    assert [float(second(batch).detach()) for _ in range(3)] == losses
    assert float(make(Small(), "dropout", seed=1)(batch).detach()) != losses[0]


def test_the_loss_is_that_of_the_layer_by_hand() -> None:
    model = Small().eval()
    align = make(model, "conv")
    batch = align.batches.read(align.batches.shared[:12])
    with torch.no_grad():
        expected = 1 - CKA()(model.conv(batch.images).flatten(1), batch.responses[0])
    torch.testing.assert_close(align(batch).detach(), expected)
    assert next(iter(align.last.values())).item() == pytest.approx(expected.item())


def test_gradients_are_those_of_the_whole_forward_pass() -> None:
    """Stopping early changes nothing, nor does an in-place rectifier after the layer."""
    model = Small().eval()
    align = make(model, "norm")
    batch = IMAGES[:12], TARGET[:12]
    align(batch).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with capture(model, ["norm"], detach=False) as seen:
        model(batch[0])
    (1 - CKA()(seen["norm"].flatten(1), batch[1])).backward()
    assert set(found) == {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}
    for name, grad in found.items():
        torch.testing.assert_close(grad, model.get_parameter(name).grad)


def test_layers_above_the_last_one_needed_are_not_computed() -> None:
    model = Small()
    align = make(model, "conv")
    after_the_probe = model.reached
    align()
    align.evaluate()
    assert model.reached == after_the_probe
    labelled = make(model, "conv", labels=["a", "b"] * 12)
    reached = model.reached
    labelled.forward_terms()
    assert model.reached == reached + 1


def test_a_shared_module_gives_its_last_output() -> None:
    model = Small().eval()
    align = make(model, "relu")  # runs after the convolution and after the hidden layer
    with torch.no_grad(), capture(model, ["relu"]) as seen:
        model(IMAGES[:12])
    expected = 1 - CKA()(seen["relu"].flatten(1), TARGET[:12])
    torch.testing.assert_close(align((IMAGES[:12], TARGET[:12])).detach(), expected)


def test_several_layers_and_regions_are_weighed_in_one_pass() -> None:
    model = Small()
    ds = repeated()
    v4 = ds.isel(neuroid=[0, 1]).assign_coords(region=("neuroid", ["V4", "V4"]))
    it = ds.isel(neuroid=[2, 3], presentation=ds["stimulus_id"].values != "s5")
    terms = [
        AlignmentTerm(layer="conv", target=v4, metric="rsa:rdm=euclidean", weight=2.0, name="V4"),
        AlignmentTerm(layer="hidden", target=it, metric=CKA(), name="IT"),
        AlignmentTerm(layer="hidden", target=it, metric="procrustes", weight=0.5),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        align = AlignmentLoss(model, terms=terms, images=IMAGES, batch_size=10)
    assert align.n_shared == N - 1
    assert len(align.batches.responses) == 2
    total = align()
    assert list(align.last) == ["V4", "IT", "hidden procrustes"]
    loss = [float(value) for value in align.last.values()]
    assert total.item() == pytest.approx(2 * loss[0] + loss[1] + 0.5 * loss[2])
    rows = align.evaluate()
    assert [(row["layer"], row["metric"], row["n_neuroids"]) for row in rows] == [
        ("conv", "rsa", 2),
        ("hidden", "debiased-cka", 2),
        ("hidden", "procrustes", 2),
    ]
    assert [row["higher_is_more_similar"] for row in rows] == [True, True, False]


def test_a_feedforward_layer_is_compared_with_every_time_bin() -> None:
    model, ds = Small().eval(), timed(3)
    align = make(model, target=ds)
    batch = align.batches.read(align.batches.shared[:12])
    with torch.no_grad(), capture(model, ["hidden"]) as seen:
        model(batch.images)
    values = [CKA()(seen["hidden"], batch.responses[0][..., t]) for t in range(3)]
    torch.testing.assert_close(align(batch).detach(), 1 - torch.stack(values).mean())


def test_a_recurrent_layer_is_matched_bin_by_bin() -> None:
    model, images = Recurrent(), normal(N, 6)
    align = AlignmentLoss(model, "cell", timed(3), images=images, metric="debiased-cka")
    batch = align.batches.read(align.batches.shared)
    with torch.no_grad():
        state, values = model.read(batch.images), []
        for t in range(3):
            out = model.cell(state)
            values.append(CKA()(out, batch.responses[0][..., t]))
            state = out.tanh()
    torch.testing.assert_close(align(batch).detach(), 1 - torch.stack(values).mean())
    row = align.evaluate(align.batches.shared)[0]
    assert row["value"] == pytest.approx(float(torch.stack(values).mean()))


def test_time_bins_that_fit_no_call_are_refused() -> None:
    with pytest.raises(ValueError, match="'cell' runs 2 times .* 3 time bins; expected 1"):
        AlignmentLoss(Recurrent(2), "cell", timed(3), images=normal(N, 6))


def test_each_time_bin_has_a_read_out_of_its_own() -> None:
    align = AlignmentLoss(Recurrent(), "cell", timed(3), images=normal(N, 6), metric="ridge-mse")
    assert len(align.readouts) == 3
    align().backward()
    assert all(p.grad is not None for p in align.readout_parameters())


def test_read_outs_train_beside_the_network_which_is_not_registered() -> None:
    model = Small()
    align = make(model, metric="ridge-mse:penalty=0.001", batch_size=24)
    own = {id(p) for p in align.parameters()}
    assert own.isdisjoint({id(p) for p in model.parameters()})
    assert not any("conv" in name for name in align.state_dict())
    before = align.evaluate()[0]["value"]
    parameters = [*model.parameters(), *align.readout_parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.01)
    for _ in range(80):
        optimiser.zero_grad()
        align().backward()
        optimiser.step()
    assert before == pytest.approx(0, abs=1e-6)  # it predicts the means
    neural = align.evaluate(statistics="neural")[0]["value"]
    assert neural > 0.5


def test_separate_statistics_are_learnt_from_neural_images_only() -> None:
    model = Small()
    task = copy.deepcopy(model.norm)
    align = make(model, images=IMAGES + 5, batchnorm="separate")
    for _ in range(60):
        align()
    own = align.statistics.own["norm"]["running_mean"]
    with torch.no_grad():
        mean = model.conv(IMAGES + 5).mean((0, 2, 3))
    torch.testing.assert_close(own, mean, atol=0.15, rtol=0.1)
    assert torch.equal(model.norm.running_mean, task.running_mean)
    values = [align.evaluate(statistics=which)[0]["value"] for which in ("task", "neural")]
    assert values[0] != values[1]


def test_shared_and_frozen_statistics_do_as_they_say() -> None:
    for mode, moved in (("shared", True), ("frozen", False)):
        model = Small()
        align = make(model, batchnorm=mode)
        align()
        assert bool(model.norm.running_mean.abs().sum() > 0) is moved
        assert model.norm.training
        with pytest.raises(ValueError, match="expected 'task', or 'neural' with"):
            align.evaluate(statistics="neural")
    model = Small()
    frozen, batch = make(model, "norm", batchnorm="frozen"), (IMAGES[:12], TARGET[:12])
    in_training = float(frozen(batch).detach())
    model.eval()
    assert float(frozen(batch).detach()) == in_training


@pytest.mark.parametrize("metric", ["debiased-cka", "ridge-mse"])
def test_a_saved_run_goes_on_bit_by_bit(metric: str) -> None:
    def begin() -> tuple[Small, AlignmentLoss, torch.optim.Optimizer]:
        model = Small()
        schedule = Schedule(warm_up=1, ramp=4, mix_rate=0.7, seed=2)
        align = make(model, metric=metric, batch_size=5, schedule=schedule)
        parameters = [*model.parameters(), *align.readout_parameters()]
        return model, align, torch.optim.SGD(parameters, lr=0.05, momentum=0.9)

    def go(run: tuple[Small, AlignmentLoss, torch.optim.Optimizer], steps: int) -> list[float]:
        _, align, optimiser = run
        losses = []
        for _ in range(steps):
            loss = align()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return losses

    whole = begin()
    expected = go(whole, 14)
    assert expected[0] == 0
    first = begin()
    assert go(first, 6) == expected[:6]
    buffer = io.BytesIO()
    torch.save([part.state_dict() for part in first], buffer)
    second = begin()
    go(second, 2)
    buffer.seek(0)
    for part, state in zip(second, torch.load(buffer, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert go(second, 8) == expected[6:]
    assert same_state(whole[0], second[0])
    assert same_state(whole[1].readouts, second[1].readouts)


def test_a_skipped_step_runs_nothing() -> None:
    model = Small()
    align = make(model, schedule=Schedule(warm_up=2))
    reached, place = model.reached, align.batches.state_dict()
    loss = align()
    assert (float(loss.detach()), align.last, align.last_weight, align.step) == (0.0, {}, 0.0, 1)
    loss.backward()
    assert model.reached == reached
    assert align.batches.state_dict() == place
    align()
    assert float(align().detach()) > 0
    assert align.last_weight == 1


def test_a_network_brings_its_preprocessing_and_a_store_its_images(tmp_path: Path) -> None:
    scenes = make_scenes(12, size=32)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i, image in enumerate(scenes.images):
            archive.writestr(f"image{i:02d}.png", encode_png(image))
    labels = "\n".join(f"image{i:02d}.png,{'face' if i % 2 else 'car'}" for i in range(12))
    (tmp_path / "stimuli.csv").write_text(f"filename,category\n{labels}")
    np.save(tmp_path / "responses.npy", normal(12, 4).numpy())
    (tmp_path / "lab.toml").write_text(
        'name = "lab"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n[files]\n'
        'responses = "responses.npy"\nimages = "images.zip"\nstimuli = "stimuli.csv"\n'
    )
    ds = ingest(tmp_path / "lab.toml")
    module = Small()
    network = Network("small", module, Preprocessing(size=(SIZE, SIZE)))
    streamed = AlignmentLoss(network, "hidden", ds, metric=CKA(), batch_size=6, labels="category")
    assert streamed.labels.names == ("car", "face")
    every = streamed.batches.read(streamed.batches.shared)
    assert every.images.shape == (12, 3, SIZE, SIZE)
    plain = AlignmentLoss(
        module, "hidden", every.responses[0], images=every.images, metric=CKA(), batch_size=6
    )
    for _ in range(4):
        assert float(streamed.forward_terms().alignment.detach()) == float(plain().detach())


def test_values_stand_beside_their_ceiling_and_null() -> None:
    ds = repeated()
    align = make(Small(), target=ds, metric=CKA())
    [row] = align.evaluate()
    repeats = torch.from_numpy(response_array(ds, align.batches.ids))
    ceiling = split_half_ceiling(repeats, CKA()).value
    assert row["ceiling"] == pytest.approx(ceiling)
    assert row["ceiled_value"] == pytest.approx(row["value"] / ceiling)
    assert (row["null"], row["n_stimuli"], row["n_neuroids"]) == (None, N, 4)
    [held_out] = align.evaluate(["s1", "s5", "s7", "s9", "s11"], ceiling=False)
    assert (held_out["n_stimuli"], held_out["ceiling"], held_out["ceiled_value"]) == (5, None, None)
    with pytest.raises(ValueError, match="2 stimuli; debiased-cka needs 4"):
        align.evaluate(["s1", "s5"])
    with pytest.raises(ValueError, match="no stimulus 'x'"):
        align.evaluate(["x"])


def test_a_biased_metric_on_small_batches_warns_once_and_prints_its_null() -> None:
    align = make(Small(), "conv", metric="log-cka")
    with pytest.warns(
        BiasedMetricWarning, match=r"12 stimuli, with 64 units and 4 neu.*score 0\.\d\d"
    ):
        align()
    align()
    [row] = align.evaluate()
    assert (row["metric"], row["objective"]) == ("cka", "log-cka")
    assert 0 < row["null"] < 1
    wide = make(Small(), "last", metric="cka", batch_size=24)
    wide()  # 24 stimuli, 5 units, 4 neuroids: no warning


def test_labels_are_classes_beside_the_tasks() -> None:
    model = Small().eval()
    codes = np.arange(N) % 3
    align = make(model, labels=codes, label_classes=4)
    assert align.labels.head.out_features == 4
    batch = align.batches.read(align.batches.shared[:12])
    with torch.no_grad():
        features = model.relu(
            model.hidden(model.relu(model.norm(model.conv(batch.images))).flatten(1))
        )
        logits = torch.cat([model.last(features), align.labels.head(features)], 1)
        expected = cross_entropy(logits, torch.from_numpy(codes[:12]) + 5)
    torch.testing.assert_close(align.forward_terms(batch).labels.detach(), expected)
    parameters = [*model.parameters(), *align.readout_parameters()]
    optimiser = torch.optim.Adam(parameters, lr=0.02)
    for _ in range(40):
        optimiser.zero_grad()
        align.forward_terms().labels.backward()
        optimiser.step()
    assert float(align.forward_terms(batch).labels.detach()) < expected / 3
    with pytest.raises(RuntimeError, match="call align.forward_terms"):
        align()
    with pytest.raises(ValueError, match="knows its stimuli"):
        align.forward_terms((IMAGES[:12], TARGET[:12]))


def test_labels_are_trained_while_alignment_is_off() -> None:
    align = make(Small(), labels=["a", "b"] * 12, schedule=Schedule(warm_up=1))
    both = align.forward_terms()
    assert float(both.alignment.detach()) == 0
    assert float(both.labels.detach()) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["a"] * 23}, "23 labels for 24 images"),
        ({"labels": ["a"] * 23 + [""]}, r"1 of 24 stimuli have no label \(first 'row 23'"),
        ({"labels": [0.0] * 23 + [float("nan")]}, "1 of 24 stimuli have no label"),
        ({"labels": [0] * 23 + [-1]}, "1 of 24 stimuli have no label"),
        ({"labels": [0] * 23 + [7], "label_classes": 3}, r"out of range \(first 7, of 'row 23'"),
        ({"labels": "category"}, "no column 'category' of the stimuli"),
        ({"label_classes": 3}, "label_classes applies to labels"),
    ],
)
def test_bad_labels_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Small(), **options)


def test_labels_need_a_linear_end() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 4), nn.ReLU())
    with pytest.raises(ValueError, match="output comes from an nn.Linear"):
        make(model, "1", labels=["a", "b"] * 12)


def hooks_of(model: nn.Module) -> int:
    return sum(len(p._forward_hooks) + len(p._forward_pre_hooks) for p in model.modules())


def test_no_hook_is_left_behind_whatever_happens() -> None:
    model = Small()
    align = make(model)
    align()
    align.evaluate()
    with pytest.raises(RuntimeError, match="Given groups|channels"):
        align((normal(12, 2, SIZE, SIZE), TARGET[:12]))
    with torch.no_grad():
        model.conv.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="term 'hidden debiased-cka'"):
        align()
    assert hooks_of(model) == 0
    assert model.norm.running_mean.abs().sum() == 0  # the task's statistics are back


def test_constant_responses_name_the_term() -> None:
    align = make(Small(), target=torch.ones(N, 3))
    with pytest.raises(ValueError, match=r"loss of term 'hidden debiased-cka' .* is nan: .* alike"):
        align()


def test_autocast_changes_the_network_not_the_metric() -> None:
    model = Small().eval()
    align, batch = make(model), (IMAGES[:12], TARGET[:12])
    exact = align(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = align(batch)
    assert rough.dtype == torch.float64
    assert float(rough.detach()) == pytest.approx(float(exact.detach()), abs=0.02)
    rough.backward()
    assert model.conv.weight.grad.isfinite().all()


def test_the_network_may_be_of_another_precision() -> None:
    align = make(Small().double())
    align().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "hiden"}, "no layer 'hiden'; near matches: hidden"),
        ({"layer": "*"}, r"matches 6 layers \(conv, norm"),
        ({"metric": MutualKNN()}, "no gradients"),
        ({"metric": RSA()}, "no gradients"),
        ({"batch_size": 3}, r"batch has 3 stimuli .* needs 4 or more"),
        ({"target": TARGET[:20]}, "20 rows .* 24 images"),
        ({"images": normal(N, 2, SIZE, SIZE)}, r"model failed on images of shape \(2, 2, 6, 6\)"),
        (
            {"batchnorm": "own"},
            "'own' is no treatment of batch norm.*one of frozen",
        ),
        ({"terms": []}, "terms= stands in place"),
        ({"target": None}, "needs a layer and a target"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used"),
        ({"device": "meta"}, "device is meta and the model is on cpu"),
    ],
)
def test_bad_input_says_what_is_wrong(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(Small(), **options)


def test_a_layer_that_is_not_used_is_refused() -> None:
    model = Small()
    model.spare = nn.Linear(1, 1)
    with pytest.raises(ValueError, match="'spare' is not used in the forward pass"):
        make(model, "spare")


def test_a_batch_whose_counts_differ_is_refused() -> None:
    with pytest.raises(ValueError, match="12 images and 11 rows of responses"):
        make(Small())((IMAGES[:12], TARGET[:11]))


def test_two_terms_of_one_name_are_refused() -> None:
    twice = [AlignmentTerm(layer="conv", target=TARGET, name="IT", metric=CKA())] * 2
    with pytest.raises(ValueError, match="two terms are called 'IT'"):
        AlignmentLoss(Small(), terms=twice, images=IMAGES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_labels_are_trained_on_a_network_of_another_precision(dtype: torch.dtype) -> None:
    model = Small().to(dtype)
    align = make(model, labels=[i % 3 for i in range(N)])
    align.forward_terms().labels.backward()
    assert model.hidden.weight.grad is not None
    assert align.labels is not None
    assert bool(align.labels.head.weight.grad.abs().sum() > 0)


def test_a_frozen_layer_is_said_to_train_nothing() -> None:
    model = Small().requires_grad_(False)
    with pytest.warns(
        UserWarning, match="trains nothing: no parameter up to layer 'hidden'"
    ) as said:
        make(model)()
    assert said[0].filename == __file__
    make(model, metric="ridge-mse")()  # its read-out learns


def test_evaluation_holds_a_layer_once_whatever_the_time_bins() -> None:
    ids, bins = [f"s{i}" for i in range(N)], 5
    align = make(Small(), target=timed(bins), images=IMAGES, batch_size=8)
    run = lambda images: align._run(images, stop=True)  # noqa: E731
    (pairs,) = pairs_over_stimuli(align.terms, align.batches, ids, run)
    assert [tuple(x.shape) for x, _ in pairs] == [(N, 10)] * bins
    assert len({x.data_ptr() for x, _ in pairs}) == 1
    whole = align.batches.read(ids).responses[0]
    assert all(torch.equal(y, whole[:, :, time]) for time, (_, y) in enumerate(pairs))

"""Layer names: entries of tuples and dicts, tokens, and times, each against the module's own."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repalign.hooks import capture
from repalign.layer_activations import layer_responses
from repalign.layer_names import LayerName, parse_layer
from repalign.layer_pairs import cka_of_layers
from repalign.network_cards import Preprocessing
from repalign.networks import Network, find_layers
from repalign.regularize.neural_pass import run_layers
from repalign.torchvision_import import import_torchvision


class Recurrent(nn.Module):
    """An area that runs several times a pass, each time in place, and a readout."""

    def __init__(self, times: int = 4, *, in_place: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.times, self.in_place = times, in_place
        self.input = nn.Conv2d(3, 4, 3, padding=1)
        self.V4 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        drive = self.input(images)
        state = torch.zeros_like(drive)
        for _ in range(self.times):
            state = self.V4(drive + state)
            # what was kept before must be a copy
            state = state.mul_(0.5) if self.in_place else state * 0.5
        output: Tensor = self.head(state.mean((2, 3)))
        return output


def unrolled(net: Recurrent, images: Tensor) -> list[Tensor]:
    """The area's outputs by hand."""
    weight, bias = net.V4[0].weight, net.V4[0].bias
    drive, state, outputs = net.input(images), torch.zeros(len(images), 4, 6, 6), []
    for _ in range(net.times):
        area = nn.functional.conv2d(drive + state, weight, bias, padding=1).clamp(min=0)
        outputs.append(area)
        state = area * 0.5
    return outputs


class Sequences(nn.Module):
    """A recurrent layer over the rows of an image."""

    def __init__(self, kind: type[nn.RNNBase], *, batch_first: bool, pieces: int = 1) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.batch_first, self.pieces = batch_first, pieces
        self.rnn = kind(6, 5, num_layers=2, batch_first=batch_first)

    def forward(self, images: Tensor) -> Tensor:
        rows = images.mean(1)  # (stimulus, row, column)
        axis = 1 if self.batch_first else 0
        rows = rows if self.batch_first else rows.transpose(0, 1)
        state = None
        for piece in rows.chunk(self.pieces, dim=axis):
            output, state = self.rnn(piece, state)
        return output


class Gives(nn.Module):
    """Returns what a function makes of its input."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


class Ends(nn.Module):
    """A layer that gives anything, and an end that ignores it."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer = Gives(make)

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return x


@pytest.fixture
def images() -> Tensor:
    return torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def seen_of(net: nn.Module, images: Tensor, *layers: str) -> dict[str, Tensor]:
    with torch.no_grad(), capture(net.eval(), layers) as seen:
        net(images)
    return seen


@pytest.mark.parametrize(
    "text", ["blocks.3", "blocks.*@cls", "lstm@1@0", "V4@t=2", "V4@t=all@0@mean", "V4@t=*"]
)
def test_a_name_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_layer(text)) == text


def test_equal_names_are_one_layer() -> None:
    net = nn.Sequential(nn.LSTM(2, 2))
    assert parse_layer("0@t=02") == LayerName("0", 2)
    assert find_layers(net, ["0@t=2", "0@t=02", "0@1", "*@1"]) == ["0@t=2", "0@1"]


@pytest.mark.parametrize("text", ["V4@t=", "V4@t=-1", "V4@t=x", "V4@0@t=1", "V4@", "V4@@cls"])
def test_a_name_that_is_none_is_one_error(text: str) -> None:
    with pytest.raises(ValueError, match="layer 'V4@.*expected"):
        parse_layer(text)


def test_recurrent_area_equals_its_unrolled_forward(images: Tensor) -> None:
    net = Recurrent()
    expected = unrolled(net, images)
    seen = seen_of(net, images, "V4", "V4@t=0", "V4@t=2", "V4@t=3", "V4@t=all")
    for time in (0, 2, 3):
        torch.testing.assert_close(seen[f"V4@t={time}"], expected[time])
    torch.testing.assert_close(seen["V4"], expected[-1])
    torch.testing.assert_close(seen["V4@t=all"], torch.stack(expected, 1))
    assert not torch.allclose(expected[0], expected[1])


def test_each_pass_counts_from_zero(images: Tensor) -> None:
    net = Recurrent()
    with torch.no_grad(), capture(net, ["V4@t=1", "V4@t=all"]) as seen:
        net(images)
        net(images[:2])
    assert seen["V4@t=all"].shape[:2] == (2, 4)
    torch.testing.assert_close(seen["V4@t=1"], unrolled(net, images[:2])[1])


def test_a_pass_that_failed_does_not_count(images: Tensor) -> None:
    net = Recurrent()
    with torch.no_grad(), capture(net, ["V4@t=1"]) as seen:
        for _ in range(2):
            with pytest.raises(RuntimeError):
                net(images.mean(1, keepdim=True).expand(-1, 5, -1, -1))
        net(images)
    torch.testing.assert_close(seen["V4@t=1"], unrolled(net, images)[1])


def test_each_time_becomes_a_layer_where_an_example_tells_how_many(images: Tensor) -> None:
    net = Recurrent(times=3).train()
    names = find_layers(net, ["V4@t=*", "input"], example=images[:1])
    assert names == ["input", "V4@t=0", "V4@t=1", "V4@t=2"]
    assert net.training
    assert not any(part._forward_hooks for part in net.modules())
    with pytest.raises(ValueError, match="only a pass tells how often V4 runs"):
        find_layers(net, ["V4@t=*"])


def test_a_time_after_the_last_is_one_error(images: Tensor) -> None:
    with pytest.raises(ValueError, match="V4 gives 4 outputs in a pass; expected t=0 to t=3"):
        seen_of(Recurrent(), images, "V4@t=4")


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_have_the_stimuli_first_and_one_output_a_step(
    kind: type[nn.RNNBase], batch_first: bool, images: Tensor
) -> None:
    """There are as many stimuli as steps: only values can tell the axes apart."""
    net = Sequences(kind, batch_first=batch_first)
    rows = images.mean(1)
    output, state = net.rnn(rows if batch_first else rows.transpose(0, 1))
    output = output if batch_first else output.transpose(0, 1)
    hidden = state[0] if kind is nn.LSTM else state
    entry = "rnn@1@0" if kind is nn.LSTM else "rnn@1"
    seen = seen_of(net, images, "rnn@0", entry, "rnn@t=0", "rnn@t=4", "rnn@t=all")
    torch.testing.assert_close(seen["rnn@0"], output)
    torch.testing.assert_close(seen[entry], hidden.transpose(0, 1))
    torch.testing.assert_close(seen["rnn@t=0"], output[:, 0])
    torch.testing.assert_close(seen["rnn@t=4"], output[:, 4])
    torch.testing.assert_close(seen["rnn@t=all"], output)


def test_steps_go_on_over_the_calls_of_a_recurrent_layer(images: Tensor) -> None:
    whole = Sequences(nn.GRU, batch_first=False)
    pieces = Sequences(nn.GRU, batch_first=False, pieces=3)
    names = ("rnn@t=3", "rnn@t=all")
    expected = seen_of(whole, images, *names)
    for name, tensor in seen_of(pieces, images, *names).items():
        torch.testing.assert_close(tensor, expected[name])


def test_rows_of_a_recurrent_layer_that_are_no_stimuli_are_refused() -> None:
    packed = nn.utils.rnn.pack_sequence([torch.ones(3, 2), torch.ones(2, 2)])
    with pytest.raises(TypeError, match="a PackedSequence, whose rows are not stimuli"):
        seen_of(nn.Sequential(nn.LSTM(2, 2)), packed, "0@0")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no batch, whose rows are not stimuli"):
        seen_of(nn.Sequential(nn.LSTM(2, 2)), torch.ones(4, 2), "0@0")
    with pytest.raises(ValueError, match="gives the steps of its sequence, not of its last state"):
        seen_of(nn.Sequential(nn.GRU(2, 2)), torch.ones(4, 1, 2), "0@t=1@1")


PAIR = namedtuple("Pair", ["logits", "aux"])


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (lambda x: (x + 1, x), "layer@0"),
        (lambda x: [x, (None, {"deep": x + 1})], "layer@1@1@deep"),
        (lambda x: {"a": x, "last": x + 1}, "layer@last"),
        (lambda x: PAIR(x, x + 1), "layer@aux"),
        (lambda x: PAIR(x, x + 1), "layer@1"),
        (lambda x: (x + 1, None), "layer"),
        (lambda x: {"mean": x + 1, "other": x}, "layer@mean"),
    ],
)
def test_entries_of_tuples_and_dicts_are_named(make: Any, layer: str, images: Tensor) -> None:
    torch.testing.assert_close(seen_of(Ends(make), images, layer)[layer], images + 1)


@pytest.mark.parametrize(
    ("make", "layer", "message"),
    [
        (lambda x: (x, x), "layer", r"gives 2 tensors; name one of them: 'layer@0' \(6, 3, 6, 6\)"),
        (lambda x: {"a": x, "b": [x, x]}, "layer", "'layer@a' .*, 'layer@b@0' .*, 'layer@b@1'"),
        (lambda x: tuple([x] * 9), "layer", "gives 9 tensors.*'layer@5' .*, and 3 more"),
        (lambda x: {"a": x, "b": x}, "layer@c", "has no entry 'c'; it has a, b"),
        (lambda x: (x, x), "layer@2", "has no entry 2; it has 0, 1"),
        (lambda x: (x, x), "layer@cls", "gives 2 tensors"),
        (lambda x: x, "layer@clss", "has no entry 'clss'; it is a Tensor of shape"),
        (lambda x: x, "layer@0", "has no entry 0; it is a Tensor of shape"),
        (lambda x: x, "layer@mean", r"shape \(6, 3, 6, 6\) has no tokens; @mean needs"),
        (lambda x: x.flatten(2), "layer@cls", "the network has no class token"),
    ],
)
def test_a_choice_that_is_none_is_one_error(
    make: Any, layer: str, message: str, images: Tensor
) -> None:
    with pytest.raises(ValueError, match=message):
        seen_of(Ends(make), images, layer)


def test_a_layer_without_tensors_is_one_error(images: Tensor) -> None:
    with pytest.raises(TypeError, match="layer 'layer' gives a str, which holds no tensor"):
        seen_of(Ends(lambda x: "text"), images, "layer")


def check_tokens(net: nn.Module, block: str, images: Tensor, *, prefix: int) -> None:
    names = (block, f"{block}@cls", f"{block}@patches", f"{block}@mean")
    seen = seen_of(net, images, *(names if prefix else (names[0], *names[2:])))
    tokens = seen[block]
    assert tokens.shape[1] == prefix + 4
    torch.testing.assert_close(seen[f"{block}@patches"], tokens[:, prefix:])
    torch.testing.assert_close(seen[f"{block}@mean"], tokens[:, prefix:].mean(1))
    if prefix:
        torch.testing.assert_close(seen[f"{block}@cls"], tokens[:, 0])


def test_tokens_of_torchvision(images: Tensor) -> None:
    net = import_torchvision().models.VisionTransformer(6, 3, 2, 2, 8, 16)
    check_tokens(net, "encoder.layers.encoder_layer_1", images, prefix=1)


@pytest.mark.parametrize(("registers", "class_token", "prefix"), [(0, 1, 1), (4, 1, 5), (0, 0, 0)])
def test_tokens_of_timm(registers: int, class_token: int, prefix: int, images: Tensor) -> None:
    import_torchvision()
    timm = pytest.importorskip("timm")
    net = timm.models.VisionTransformer(
        img_size=6,
        patch_size=3,
        embed_dim=8,
        depth=2,
        num_heads=2,
        reg_tokens=registers,
        class_token=bool(class_token),
        global_pool="avg",
    )
    check_tokens(net, "blocks.1", images, prefix=prefix)


def test_tokens_at_each_time_are_chosen_at_each_time(images: Tensor) -> None:
    class Shared(nn.Module):
        num_prefix_tokens = 1

        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x.mean(1)
            return self.block(self.block(x))  # type: ignore[no-any-return]

    net = Shared()
    seen = seen_of(net, images, "block@t=all", "block@t=all@mean", "block@t=1@patches")
    every = seen["block@t=all"]
    torch.testing.assert_close(seen["block@t=all@mean"], every[:, :, 1:].mean(2))
    torch.testing.assert_close(seen["block@t=1@patches"], every[:, 1, 1:])


def test_every_reader_of_layers_knows_the_notation(images: Tensor, tmp_path: Path) -> None:
    """In memory, in a store, in an alignment pass, and in layer pairs."""
    import repalign as ra
    from repalign.stimuli import Stimuli, encode_png

    net = Recurrent().eval()
    expected = [area.detach() for area in unrolled(net, images)]
    found = layer_responses(net, images, ["V4@t=1", "V4@t=all"], device="cpu")
    np.testing.assert_allclose(found["V4@t=1"]["response"], expected[1].flatten(1), atol=1e-6)
    assert found["V4@t=all"].attrs["shape"] == [4, 4, 6, 6]
    passed = run_layers(net, images, ["V4@t=1"], stop_after={"V4@t=1": 1})
    assert passed.output is None
    torch.testing.assert_close(passed.layers["V4@t=1"][0], unrolled(net, images)[1])
    pairs = cka_of_layers(net, None, [images], layers=["V4@t=0", "V4@t=3"], device="cpu")
    assert pairs.first_layers == ("V4@t=0", "V4@t=3")
    np.testing.assert_allclose(
        pairs.values[0, 1], ra.CKA()(expected[0].flatten(1), expected[3].flatten(1)), atol=1e-5
    )

    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    stimuli = Stimuli(tuple("abcde"), [encode_png(image) for image in pixels])
    network = Network("recurrent", net, Preprocessing(size=(6, 6)))
    layers = ["V4@t=2", "V4@t=all"]
    stored = ra.record(network, stimuli=stimuli, layers=layers, to=tmp_path, progress=False)
    memory = layer_responses(network, stimuli, layers, device="cpu")
    assert list(stored) == layers
    for layer in layers:
        assert stored[layer].attrs["layer"] == layer
        np.testing.assert_allclose(stored[layer]["response"], memory[layer]["response"], atol=1e-6)
    again = ra.record(network, stimuli=stimuli, layers=layers, to=tmp_path, progress=False)
    assert again["V4@t=2"].attrs["fingerprint"] == stored["V4@t=2"].attrs["fingerprint"]


def test_alignment_pulls_at_one_time_of_a_layer(images: Tensor) -> None:
    net = Recurrent(in_place=False)
    with capture(net, ["V4@t=1"], detach=False) as seen:
        net(images)
    seen["V4@t=1"].square().sum().backward()
    gradient = net.V4[0].weight.grad
    assert gradient is not None
    reference = Recurrent()
    unrolled(reference, images)[1].square().sum().backward()
    torch.testing.assert_close(gradient, reference.V4[0].weight.grad)

"""The network for digits."""

from __future__ import annotations

import doctest

import pytest
import torch

from repalign import small_networks
from repalign.hooks import capture
from repalign.networks import load_network
from repalign.small_networks import DigitsCNN, build


def test_examples_run() -> None:
    assert doctest.testmod(small_networks).failed == 0


def test_card_builds_a_seeded_network_with_named_layers() -> None:
    first, again, other = (
        load_network(f"digits_cnn{twin}") for twin in ("", "@random:0", "@random:1")
    )
    assert first.name == "digits_cnn@random:0"
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    with capture(first.module, list(first.layers)) as seen:
        first.module(torch.rand(5, 3, 8, 8))
    shapes = {name: tuple(seen[name].shape[1:]) for name in first.layers}
    assert shapes == {"conv1": (32, 8, 8), "conv2": (64, 4, 4), "hidden": (128,), "readout": (10,)}
    assert min(seen[name].min() for name in ("conv1", "conv2", "hidden")) == 0  # after the ReLU


def test_grey_images_give_the_same_logits_with_one_channel_or_three() -> None:
    network = DigitsCNN()
    grey = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)))
    coloured = torch.rand(4, 3, 8, 8)
    permuted = coloured[:, [2, 0, 1]]
    torch.testing.assert_close(network(coloured), network(permuted))


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 2, 8, 8), (3, 8, 8)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected \\(image, 1 or 3, 8, 8\\)"):
        DigitsCNN()(torch.zeros(shape))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(
        ValueError, match="no small network is called 'digits'; use one of digits_cnn"
    ):
        build("digits")

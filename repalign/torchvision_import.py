"""Import torchvision even where its compiled operators cannot load, as beside a CPU-only torch."""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")
_libraries: list[torch.library.Library] = []  # a Library that is collected takes its schemas along
_lock = threading.Lock()


def import_torchvision() -> ModuleType:
    """Import torchvision, declaring its two detection operators first where it cannot do so.

    A torchvision wheel built for CUDA finds no CUDA libraries beside a CPU-only torch. It drops
    its compiled operators in silence, and then fails at import with "operator torchvision::nms
    does not exist", because it attaches shape functions to `nms` and `qnms` without asking
    whether they are there. Image models, transforms and feature extraction use neither. With the
    two schemas declared (no implementation is given) torchvision imports, and only detection
    models and `torchvision.io`'s decoders stay unavailable: they raise when called.

    Where torchvision's operators load, this is a plain import. Any other error passes through.
    Later calls, and a call after an `import torchvision` of your own that failed, are safe.

    Returns:
        The module `torchvision`.

    Raises:
        ModuleNotFoundError: torchvision is not installed.

    Example:
        >>> torchvision = import_torchvision()
        >>> torchvision.models.resnet18(weights=None).fc.out_features
        1000

    Notes:
        torchvision is software, not a method: it has no paper (https://github.com/pytorch/vision).
    """
    with _lock:
        try:
            return _fresh_import()
        except RuntimeError as error:
            if not _is_missing_operator(error):
                raise
        _declare_operators()
        return _fresh_import()


def _fresh_import() -> ModuleType:
    """Import torchvision without the submodules that an import which failed has left behind."""
    if "torchvision" not in sys.modules:
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]
    return importlib.import_module("torchvision")


def _is_missing_operator(error: RuntimeError) -> bool:
    return any(f"torchvision::{name} does not exist" in str(error) for name in _OPERATORS)


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):  # somebody else may have declared one
            schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)

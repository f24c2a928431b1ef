"""Compare brains with neural networks, and train networks toward brains.

Public names are loaded when they are first used, so that ``import repalign`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "CKA": "repalign.metrics",
    "METRICS": "repalign.metrics",
    "PLS": "repalign.metrics",
    "RECIPES": "repalign.recipes",
    "RSA": "repalign.metrics",
    "Network": "repalign.networks",
    "Procrustes": "repalign.metrics",
    "Ridge": "repalign.metrics",
    "Stimuli": "repalign.stimuli",
    "average_repeats": "repalign.recording",
    "capture": "repalign.hooks",
    "check_validity": "repalign.validity",
    "cka_of_layers": "repalign.layer_pairs",
    "check_recording": "repalign.recording",
    "compare": "repalign.comparison",
    "ingest": "repalign.loaders",
    "list_cards": "repalign.cards",
    "load_card": "repalign.cards",
    "load_network": "repalign.networks",
    "make_recording": "repalign.recording",
    "open_store": "repalign.store",
    "record": "repalign.activations",
    "select": "repalign.recording",
    "simulate": "repalign.simulation",
    "verify": "repalign.verification",
    "write_report": "repalign.reporting",
}
__all__ = [
    "CKA",
    "METRICS",
    "PLS",
    "RECIPES",
    "RSA",
    "Network",
    "Procrustes",
    "Ridge",
    "Stimuli",
    "__version__",
    "average_repeats",
    "capture",
    "check_recording",
    "check_validity",
    "cka_of_layers",
    "compare",
    "ingest",
    "list_cards",
    "load_card",
    "load_network",
    "make_recording",
    "open_store",
    "record",
    "select",
    "simulate",
    "verify",
    "write_report",
]

if TYPE_CHECKING:
    from repalign.activations import record
    from repalign.cards import list_cards, load_card
    from repalign.comparison import compare
    from repalign.hooks import capture
    from repalign.layer_pairs import cka_of_layers
    from repalign.loaders import ingest
    from repalign.metrics import CKA, METRICS, PLS, RSA, Procrustes, Ridge
    from repalign.networks import Network, load_network
    from repalign.recipes import RECIPES
    from repalign.recording import average_repeats, check_recording, make_recording, select
    from repalign.reporting import write_report
    from repalign.simulation import simulate
    from repalign.stimuli import Stimuli
    from repalign.store import open_store
    from repalign.validity import check_validity
    from repalign.verification import verify


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'repalign' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

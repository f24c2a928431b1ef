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
    "RSA": "repalign.metrics",
    "Network": "repalign.networks",
    "Ridge": "repalign.metrics",
    "Stimuli": "repalign.stimuli",
    "average_repeats": "repalign.recording",
    "capture": "repalign.hooks",
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
    "write_report": "repalign.reporting",
}
__all__ = [
    "CKA",
    "METRICS",
    "RSA",
    "Network",
    "Ridge",
    "Stimuli",
    "__version__",
    "average_repeats",
    "capture",
    "check_recording",
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
    "write_report",
]

if TYPE_CHECKING:
    from repalign.activations import record
    from repalign.cards import list_cards, load_card
    from repalign.comparison import compare
    from repalign.hooks import capture
    from repalign.loaders import ingest
    from repalign.metrics import CKA, METRICS, RSA, Ridge
    from repalign.networks import Network, load_network
    from repalign.recording import average_repeats, check_recording, make_recording, select
    from repalign.reporting import write_report
    from repalign.simulation import simulate
    from repalign.stimuli import Stimuli
    from repalign.store import open_store


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'repalign' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

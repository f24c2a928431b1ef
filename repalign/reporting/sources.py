"""What a report rests on: the software that ran, and the works to cite."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr

from repalign.cards import load_model_card, split_twin


def software() -> dict[str, str]:
    """What computed a result, and when."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "machine": platform.machine(),
    }


def citations(recording: xr.Dataset, models: Sequence[str]) -> list[str]:
    """What to cite for a recording and its models, each once."""
    texts = [_citation(str(recording.attrs.get("citation", "")), recording.attrs.get("doi"))]
    for model in models:
        card = load_model_card(split_twin(model)[0])
        texts.append(_citation(card.citation, card.doi or card.url))
    return [text for text in dict.fromkeys(texts) if text]


def _citation(text: str, address: Any) -> str:
    if not address or not text or str(address) in text:
        return text
    return f"{text} {f'https://doi.org/{address}' if str(address).startswith('10.') else address}"

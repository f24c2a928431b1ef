"""The cards of the alignment losses: formula, parameters, needs and reference."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from repalign.metrics.catalogue import markdown_table
from repalign.regularize.objectives import ALIGNMENT_LOSSES, FittedObjective, as_objective

COLUMNS = ("loss", "formula", "parameters", "needs", "reference")


def loss_card(loss: str) -> dict[str, str]:
    """What a loss minimises, as text.

    Args:
        loss: a name in ``ALIGNMENT_LOSSES``, with parameters where wanted.

    Raises:
        ValueError: an unknown name or parameter.

    Example:
        >>> loss_card("debiased-cka")["formula"]
        '1 − v, v = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L))'
    """
    made: Any = as_objective(loss)
    fitted = isinstance(made, FittedObjective)
    if isinstance(made, FittedObjective):
        made = made.make(1, mean=torch.ones(1), variance=torch.ones(1))
    factory = ALIGNMENT_LOSSES[loss.partition(":")[0]]
    fixed = getattr(factory, "keywords", {})
    given = inspect.signature(factory).parameters.values()
    return {
        "loss": loss,
        "formula": made.formula,
        "parameters": ", ".join(f"{p.name}={p.default}" for p in given if p.name not in fixed),
        "needs": f"{made.minimum_stimuli} stimuli" + (", read-outs of its own" if fitted else ""),
        "reference": made.reference,
    }


def loss_cards_page() -> str:
    """The section of docs/metrics.md on alignment losses."""
    cards = [loss_card(name) for name in sorted(ALIGNMENT_LOSSES)]
    table = markdown_table(COLUMNS, ([card[column] for column in COLUMNS] for card in cards))
    return f"# Alignment losses\n\nWhat `ra.AlignmentLoss` and `neural.loss` take.\n\n{table}\n"

"""What a recipe is, and what it gives."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class RecipeScore:
    """What a recipe gave.

    Args:
        recipe, version: which procedure.
        value: the number as it is published: divided by the ceiling where the recipe says so.
        raw: the number before that.
        error: its standard error as the recipe defines it, of ``raw``.
        ceiling: the noise ceiling, or its lower bound.
        ceiling_high: its upper bound, where the recipe has one.
        p: of the recipe's own test, where it has one.
        n_stimuli, n_neuroids, n_subjects: how much data entered.
        note: what a reader must know.
    """

    recipe: str
    version: int
    value: float
    raw: float
    error: float | None = None
    ceiling: float | None = None
    ceiling_high: float | None = None
    p: float | None = None
    n_stimuli: int = 0
    n_neuroids: int | None = None
    n_subjects: int | None = None
    note: str = ""

    def row(self) -> dict[str, Any]:
        """Return the fields as a row of a table; what is undefined is None."""
        row = dataclasses.asdict(self)
        undefined = [k for k, v in row.items() if isinstance(v, float) and not np.isfinite(v)]
        return row | dict.fromkeys(undefined)


class Recipe(Protocol):
    """A frozen set of choices with a call."""

    @property
    def name(self) -> str:
        """The name in ``RECIPES``."""

    @property
    def reference(self) -> str:
        """The paper, with its DOI."""

    def __call__(self, recording: xr.Dataset, activations: xr.Dataset, /) -> RecipeScore:
        """Score one layer of a network against one region of a recording."""

"""Recipes: the exact procedures behind published numbers, by the names people know."""

from __future__ import annotations

from repalign.recipes.majaj_hong import MajajHong2015PLS
from repalign.recipes.recipe_scores import Recipe, RecipeScore
from repalign.recipes.similarities import BrainScoreRSA, Kornblith2019, Nili2014

__all__ = [
    "RECIPES",
    "BrainScoreRSA",
    "Kornblith2019",
    "MajajHong2015PLS",
    "Nili2014",
    "Recipe",
    "RecipeScore",
]

RECIPES: dict[str, type[Recipe]] = {
    "brainscore-majajhong2015-pls": MajajHong2015PLS,
    "brainscore-rsa": BrainScoreRSA,
    "kornblith2019": Kornblith2019,
    "nili2014": Nili2014,
}

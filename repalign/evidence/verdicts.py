"""p values of one hypothesis in all regions, corrected together, and what they say in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from repalign.evidence.plans import Plan
from repalign.evidence.testing import Tested
from repalign.inference import CORRECTIONS


class Words(NamedTuple):
    """What a test asks, and what is said where nothing is shown, and of effects of either sign."""

    asks: str
    nothing: str
    above: str
    below: str


HYPOTHESES = {
    "chance": Words("differs from chance", "not told from chance", "above chance", "below chance"),
    "labels": Words(
        "related to the stimuli's labels", "no relation shown", "related", "related, inversely"
    ),
    "ceiling": Words(
        "differs from the lower noise ceiling",
        "not told from the lower ceiling",
        "above the lower ceiling",
        "below the ceiling",
    ),
    "pairs": Words("two models differ", "not told apart", "first", "second"),
}


def corrected(families: Sequence[Tested], plan: Plan) -> tuple[list[Tensor], float]:
    """Corrected p values of one hypothesis in all regions, and the least there can be."""
    if not families:
        return [], 1.0
    flat = [one.significance.p.flatten().double() for one in families]
    everything = torch.cat(flat)
    least = min(one.significance.smallest_p for one in families)
    if plan.correction == "none":
        return flat, least
    if plan.correction == "max-t":  # joint within a region, Bonferroni over regions
        k = len(families)
        joint = [one.significance.p_family for one in families]
        if any(p is None for p in joint):
            raise AssertionError("the plan was checked: this test has a joint null")
        return [(k * p.flatten()).clamp(max=1) for p in joint if p is not None], min(1, k * least)
    adjusted = CORRECTIONS[plan.correction](everything)
    sizes = [len(p) for p in flat]
    if plan.correction == "holm":
        least = min(1.0, least * len(everything))
    return list(torch.split(adjusted, sizes)), least


def verdict(hypothesis: str, effect: float, p: float, least: float, plan: Plan, n: int) -> str:
    """What a corrected p says, of which ``least`` is the smallest that n units can give."""
    words = HYPOTHESES[hypothesis]
    if least > plan.alpha:
        return (
            f"{words.asks}: cannot be significant, since no corrected p is below {least:.3g} with"
            f" {n} {'subjects' if plan.over != 'stimuli' else 'stimuli'}"
        )
    if p > plan.alpha:
        return words.nothing
    return words.above if effect > 0 else words.below

"""p values of one hypothesis in all regions, corrected together, and what they say in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Corrected:
    """Corrected p values of one region's tests of a hypothesis, with Monte Carlo errors of both."""

    p: Tensor
    p_error: Tensor
    p_corrected: Tensor
    p_corrected_error: Tensor

    def of(self, i: int) -> dict[str, float]:
        """The numbers of one test, by column."""
        return {name: float(values[i]) for name, values in vars(self).items()}


def corrected(families: Sequence[Tested], plan: Plan) -> tuple[list[Corrected], float]:
    """Corrected p values of one hypothesis in all regions, and the least there can be.

    The error of a corrected p is half the way that it goes if all p move by theirs, down and up.
    """
    if not families:
        return [], 1.0
    found = [one.significance for one in families]
    sizes = [one.p.numel() for one in found]
    p, error = (
        torch.cat([_flat(getattr(one, name)) for one in found]) for name in ("p", "p_error")
    )
    least = min(one.smallest_p for one in found)
    if plan.correction == "none":
        adjusted, moved = p, error
    elif plan.correction == "max-t":  # joint within a region, Bonferroni over regions
        joint, own = (
            len(found) * torch.cat([_flat(getattr(one, name)) for one in found])
            for name in ("p_family", "family_error")
        )
        adjusted, moved, least = joint.clamp(max=1), own, min(1, len(found) * least)
    else:
        correct = CORRECTIONS[plan.correction]
        tiny = torch.finfo(p.dtype).tiny
        ends = [correct((p + sign * error).clamp(min=tiny, max=1)) for sign in (-1, 1)]
        adjusted, moved = correct(p), (ends[1] - ends[0]) / 2
        least = min(1.0, least * len(p)) if plan.correction == "holm" else least
    columns = (torch.split(one, sizes) for one in (p, error, adjusted, moved))
    return [Corrected(*one) for one in zip(*columns, strict=True)], least


def _flat(values: Tensor | None) -> Tensor:
    if values is None:
        raise AssertionError("the plan was checked: this test has a joint null, and an error")
    return values.flatten().double()


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

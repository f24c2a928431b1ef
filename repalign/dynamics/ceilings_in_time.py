"""Noise ceilings of each time bin: what ``repalign.compare`` would find in it, all bins at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.ceiling import nili_ceiling
from repalign.dynamics.similarities import BLOCK_ELEMENTS, mean_of_half, prepare_frames
from repalign.dynamics.time_axes import TimedPopulation, frames_of
from repalign.metrics import CKA, RSA, InnerProductMetric
from repalign.metrics.gram import in_working_precision
from repalign.recording_ceilings import GROUP_SUBJECT, CeilingChoice
from repalign.split_half import MINIMUM_REPEATED, has_split_half, split_half_masks

SPLITS = 20


@dataclass(frozen=True)
class BinCeilings:
    """Ceilings of one region of one subject along time.

    Args:
        kind: ``split-half`` or ``nili``.
        low, high: the bounds.
        undefined: share of the splits without reliable signal, which the bounds leave out: about
            half where there is none at all.
    """

    kind: str
    low: Float[Tensor, "time"]
    high: Float[Tensor, "time"]
    undefined: Float[Tensor, "time"]


def bin_ceilings(
    parts: Sequence[TimedPopulation],
    prepared: Sequence[Float[Tensor, "time *prepared"]],
    metric: InnerProductMetric,
    choice: CeilingChoice,
    *,
    seed: int,
    device: torch.device,
) -> list[BinCeilings | None]:
    """The ceilings of each part, of which one species and region are each other's peers."""
    found: list[BinCeilings | None] = []
    groups: dict[tuple[str, ...], tuple[Tensor, ...]] = {}  # both bounds, time × subject
    for part in parts:
        recorded = _recorded(part)
        enough = int((recorded.sum(0) >= 2).sum()) >= MINIMUM_REPEATED
        peers = [
            i
            for i, other in enumerate(parts)
            if other.target[:2] == part.target[:2] and other.target.subject != GROUP_SUBJECT
        ]
        split = choice == "split-half" or (choice == "auto" and enough and has_split_half(metric))
        among = isinstance(metric, RSA) and len(peers) > 1 and part.target.subject != GROUP_SUBJECT
        if choice == "none":
            found.append(None)
        elif split:
            if not enough or not has_split_half(metric):
                raise ValueError(
                    f"{part.name}: a split-half ceiling needs {MINIMUM_REPEATED} or more stimuli"
                    f" with repetitions, and a metric of averages; {metric.name} as it is set, or"
                    " this recording, has none. Use ceiling='none'"
                )
            found.append(_split_half(part, recorded, metric, seed=seed, device=device))
        elif among and isinstance(metric, RSA):
            if part.target[:2] not in groups:
                rdms = torch.stack([prepared[i] for i in peers], 1)  # time × subject × pair
                bounds = [nili_ceiling(one, comparator=metric.comparator) for one in rdms]
                groups[part.target[:2]] = tuple(map(torch.stack, zip(*bounds, strict=True)))
            own = [parts[i] is part for i in peers].index(True)
            low, high = (of_all[:, own] for of_all in groups[part.target[:2]])
            found.append(BinCeilings("nili", low, high, torch.zeros(len(low))))
        elif choice == "nili":
            raise ValueError(
                f"{part.name}: a ceiling over subjects needs RSA, and 2 or more individual subjects"
                " of one species and region; use split-half or none"
            )
        else:
            found.append(None)
    return found


def _recorded(part: TimedPopulation) -> Bool[Tensor, "repeat stimulus"]:
    missing = torch.from_numpy(part.responses[..., 0]).isnan().all(-1)
    return ~missing


def _split_half(
    part: TimedPopulation,
    recorded: Bool[Tensor, "repeat stimulus"],
    metric: InnerProductMetric,
    *,
    seed: int,
    device: torch.device,
) -> BinCeilings:
    """√(⟨h₁, h₂⟩/⟨f, f⟩) of each bin, with the halves that ``split_half_ceiling`` draws.

    Every split is one product of its 0/1 halves with the presentations of all bins.
    """
    repeated = recorded.sum(0) >= 2
    recorded = recorded[:, repeated]
    level = not isinstance(metric, CKA)
    responses = part.responses[:, repeated.numpy()]
    size = max(1, BLOCK_ELEMENTS // responses[..., 0].size)
    low, high, undefined = [], [], []
    for start in range(0, responses.shape[-1], size):
        frames = in_working_precision(frames_of(responses[..., start : start + size], device))
        full = prepare_frames(metric, frames.nanmean(1))
        length = metric.inner(full, full)
        filled, ratios = frames.nan_to_num(), []
        for halves in split_half_masks(recorded, splits=SPLITS, seed=seed, level=level):
            first, second = (
                prepare_frames(metric, mean_of_half(filled, half.to(device))) for half in halves
            )
            ratios.append((metric.inner(first, second) / length).sqrt())
        values = torch.stack(ratios)
        ends = values.nanquantile(values.new_tensor([0.025, 0.975]), dim=0)
        low.append(ends[0])
        high.append(ends[1])
        undefined.append(values.isnan().double().mean(0))
    return BinCeilings("split-half", torch.cat(low), torch.cat(high), torch.cat(undefined))

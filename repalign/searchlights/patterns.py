"""Responses laid out for searchlights: a row a neuroid, so that a neighbourhood is a few rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from repalign.metrics.calls import Array, as_tensor
from repalign.metrics.gram import centre
from repalign.metrics.presentations import (
    Labels,
    Presentations,
    averages,
    from_labels,
    from_repeats,
    sums_by,
)

BLOCK_NEUROIDS = 4096  # that are brought to float64 at a time


@dataclass(frozen=True)
class Design:
    """Which presentation showed which stimulus in which fold, of all neuroids alike.

    Args:
        presentations: the presentations that exist, with no values of neuroids.
        rows: which rows of the responses these are.
        n_rows: how many rows of responses there are.
    """

    presentations: Presentations
    rows: Tensor
    n_rows: int

    @property
    def names(self) -> list[str]:
        """Names of the stimuli, for messages."""
        return self.presentations.names

    @property
    def complete(self) -> bool:
        """Whether all folds hold all stimuli equally often."""
        counts = self.presentations.cell_counts
        return bool((counts == counts[0]).all())

    @property
    def residual_freedom(self) -> int:
        """Degrees of freedom of what varies between presentations of a stimulus."""
        return len(self.rows) - self.presentations.n_stimuli


@dataclass(frozen=True)
class Patterns:
    """Responses of all neuroids, a row each.

    Args:
        sums: over the presentations of each stimulus in each fold, (neuroid, fold, stimulus); the
            averages, as one fold, where distances are not cross-validated.
        weight: for each two stimuli the number of pairs of their presentations in different folds,
            (stimulus, stimulus); None where distances are not cross-validated.
        residuals: (neuroid, residual), of which the covariance of noise is estimated; None without.
        freedom: their degrees of freedom.
    """

    sums: Float[Tensor, "neuroid fold stimulus"]
    weight: Float[Tensor, "stimulus stimulus"] | None = None
    residuals: Float[Tensor, "neuroid residual"] | None = None
    freedom: float = 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        parts = [self.sums, self.weight, self.residuals]
        return sum(part.nbytes for part in parts if part is not None)


def flatten_repeats(x: Array) -> tuple[Tensor, tuple[int, int] | None]:
    """Return responses as (row, neuroid), and repeats × stimuli where they were in three axes."""
    tensor = as_tensor(x).detach()
    if tensor.ndim not in (2, 3) or 0 in tensor.shape:
        raise ValueError(
            f"x has shape {tuple(tensor.shape)}; expected (stimulus, neuroid), (repeat, stimulus,"
            " neuroid), or (presentation, neuroid) with stimulus="
        )
    if tensor.ndim == 2:
        return tensor, None
    repeats, stimuli, neuroids = tensor.shape
    return tensor.reshape(-1, neuroids), (repeats, stimuli)


def check_neuroids(rows: Float[Tensor, "row neuroid"], names: Sequence[str] | None = None) -> None:
    """Raise a ValueError that names neuroids with values that are not finite, or never change.

    Rows that are NaN in all neuroids are presentations that are missing.
    """
    changed = torch.zeros(rows.shape[1], dtype=torch.bool, device=rows.device)
    broken = torch.zeros_like(changed)
    missing = rows.isnan().all(1)
    first = None
    for row in rows[~missing] if bool(missing.any()) else rows:
        first = row if first is None else first
        broken |= ~row.isfinite()
        changed |= row != first
    for bad, what, remedy in (
        (broken, "NaN or infinite values", ""),
        (~changed, "the same value in all presentations", ", as voxels outside the brain do"),
    ):
        places = bad.nonzero()[:, 0].tolist()
        if places and len(rows) > 1:
            name = names[places[0]] if names is not None else f"neuroid {places[0]}"
            raise ValueError(
                f"{len(places)} neuroids have {what} (first: {name}){remedy}; leave them out, by a"
                " mask, or by drop under [options] of the card"
            )


def design_of(
    n_rows: int,
    missing: Tensor,
    *,
    repeats: tuple[int, int] | None,
    stimulus: Labels | None,
    fold: Labels | None,
    cross_validated: bool,
) -> Design:
    """Return which row is which stimulus in which fold.

    Args:
        n_rows: how many rows.
        missing: which of them were not recorded.
        repeats: numbers of repeats and stimuli of rows that came in three axes.
        stimulus, fold: labels of rows that did not.
        cross_validated: whether folds are needed.

    Raises:
        ValueError: labels that do not fit, or a stimulus that was never recorded.
    """
    marks = torch.zeros(n_rows, 1, dtype=torch.float64).masked_fill(
        missing[:, None].cpu(), torch.nan
    )
    if stimulus is not None:
        found = from_labels(marks, stimulus, fold, folds_needed=cross_validated)
    else:
        shape = repeats or (1, n_rows)
        found = from_repeats(marks.reshape(*shape, 1))
        never = torch.bincount(found.stimulus, minlength=shape[1]) == 0
        if bool(never.any()):
            raise ValueError(
                f"{int(never.sum())} stimuli of x (first: row {int(never.nonzero()[0, 0])}) have no"
                " repetition at all; leave them out"
            )
    return Design(found, (~missing.cpu()).nonzero()[:, 0], n_rows)


def lay_out(
    rows: Float[Tensor, "row neuroid"],
    design: Design,
    *,
    cross_validated: bool,
    own_residuals: bool,
    residuals: Float[Tensor, "residual neuroid"] | None = None,
    freedom: float | None = None,
    shift: str = "none",
    dtype: torch.dtype = torch.float64,
    device: torch.device | None = None,
) -> Patterns:
    """Return the patterns of a design, some neuroids at a time.

    What may be subtracted without changing a distance is, in float64, so that nothing cancels
    later, and float32 keeps its digits whatever the baseline.

    Args:
        rows: responses, in the order of the design.
        design: which row is what.
        cross_validated: whether folds stay apart.
        own_residuals: whether noise is estimated from what varies between presentations.
        residuals: of a regression, say, instead of that.
        freedom: degrees of freedom of residuals; what the design or their number says if None.
        shift: what is subtracted: each neuroid's mean over ``stimuli``, each stimulus' mean over
            ``neuroids``, or ``none``.
        dtype: of the tensors.
        device: where they go.
    """
    shown, n = design.presentations, design.presentations.n_stimuli
    n_folds, n_neuroids = (shown.n_folds if cross_validated else 1), rows.shape[1]
    centred = design.complete or not cross_validated
    everything = len(design.rows) == design.n_rows
    sums = torch.empty(n_neuroids, n_folds, n, dtype=dtype, device=device)
    common = None
    if shift == "neuroids":
        of_rows = rows.mean(1, dtype=torch.float64).cpu()[design.rows, None]
        common = averages(shown._replace(values=of_rows))[:, 0]
    noise = None
    if own_residuals or residuals is not None:
        length = len(design.rows) if residuals is None else len(residuals)
        noise = torch.empty(n_neuroids, length, dtype=dtype, device=device)
    for start in range(0, n_neuroids, BLOCK_NEUROIDS):
        part = slice(start, min(start + BLOCK_NEUROIDS, n_neuroids))
        values = rows[:, part].to("cpu", torch.float64)
        values = values if everything else values[design.rows]
        block = shown._replace(values=values)
        means = averages(block)
        if cross_validated:
            cells = sums_by(values, shown.cell, n_folds * n)
            cells = cells.reshape(n_folds, n, -1).permute(2, 0, 1)
        else:
            cells = means.T[:, None]
        if common is not None:
            cells = cells - common
        elif shift == "stimuli" and centred:
            cells = centre(cells, 2)
        sums[part] = cells.to(device, dtype)
        if residuals is not None and noise is not None:
            own = residuals[:, part].to("cpu", torch.float64)
            noise[part] = (own - own.mean(0)).T.to(device, dtype)
        elif noise is not None:
            noise[part] = (values - means[shown.stimulus]).T.to(device, dtype)
    if freedom is None:
        freedom = design.residual_freedom if residuals is None else len(residuals) - 1
    return Patterns(
        sums,
        weight=_pair_counts(shown).to(device, dtype) if cross_validated else None,
        residuals=noise,
        freedom=freedom,
    )


def _pair_counts(shown: Presentations) -> Float[Tensor, "stimulus stimulus"]:
    counts = shown.cell_counts.reshape(shown.n_folds, -1).double()
    total = counts.sum(0)
    return total[:, None] * total - counts.T @ counts

"""The records of a recording's quality: numbers a target, of the whole, and their text."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repalign.recording import Target

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class TargetQuality:
    """The responses of one region of one subject.

    Attributes:
        target: species, region and subject.
        neuroid_id: of each neuroid; the arrays below have one value each.
        mean, spread: over presentations, the spread as the population standard deviation.
        reliability: of the average over repetitions; NaN where unknown, see ``reasons``.
        drift: share of variance that sessions explain beside stimuli; NaN where unknown.
        is_dead: constant over all presentations.
        is_copy: equal, in all presentations, to an earlier neuroid of the recording.
        is_incomplete: NaN or infinite where others of the target are not.
        is_drifting: with a drift above 0.05 that chance does not explain.
        repetitions: presentations of each stimulus; missing ones do not count.
        n_missing: presentations that are NaN in all neuroids.
        flat_stimuli: to which all neuroids respond the same in each presentation.
        minimum, maximum: of all responses.
        ceiling, ceiling_low, ceiling_high: split-half noise ceiling of RSA; NaN where unknown.
        ceiling_stimuli, ceiling_neuroids: how many the ceiling is of.
        bin_edges, bin_counts: histogram of all responses.
        part_means: mean response in each session or half.
        reasons: why a number is unknown, by its name.
    """

    target: Target
    neuroid_id: Array
    mean: Array
    spread: Array
    reliability: Array
    drift: Array
    is_dead: Array
    is_copy: Array
    is_incomplete: Array
    is_drifting: Array
    repetitions: Array
    n_missing: int
    flat_stimuli: tuple[str, ...]
    minimum: float
    maximum: float
    ceiling: float
    ceiling_low: float
    ceiling_high: float
    ceiling_stimuli: int
    ceiling_neuroids: int
    bin_edges: Array
    bin_counts: Array
    part_means: Array
    reasons: dict[str, str]

    def row(self) -> dict[str, Any]:
        """Return the numbers of a table; None where one is unknown."""
        counts = self.repetitions
        row = {
            **self.target._asdict(),
            "stimuli": len(counts),
            "neuroids": len(self.neuroid_id),
            "repetitions_min": int(counts.min()) if counts.size else 0,
            "repetitions_median": _whole(float(np.median(counts))) if counts.size else 0,
            "repetitions_max": int(counts.max()) if counts.size else 0,
            "missing": self.n_missing,
            "mean": median(self.mean),
            "spread": median(self.spread),
            "minimum": self.minimum,
            "maximum": self.maximum,
            "reliability": median(self.reliability),
            "reliability_unknown": int(np.isnan(self.reliability).sum()),
            "ceiling": self.ceiling,
            "ceiling_low": self.ceiling_low,
            "ceiling_high": self.ceiling_high,
            "ceiling_stimuli": self.ceiling_stimuli,
            "ceiling_neuroids": self.ceiling_neuroids,
            "drift": median(self.drift),
            "drifting": int(self.is_drifting.sum()),
            "dead": int(self.is_dead.sum()),
            "copies": int(self.is_copy.sum()),
            "incomplete": int(self.is_incomplete.sum()),
        }
        return {name: _plain(value) for name, value in row.items()}


@dataclass(frozen=True, eq=False)
class RdmQuality:
    """The published RDMs of one region of one subject.

    Attributes:
        target: species, region and subject.
        n_stimuli, n_sessions: of the RDMs.
        between_subjects: mean Spearman correlation with the other individual subjects of the
            species and region; NaN without any.
        between_sessions: mean Spearman correlation of the subject's own sessions; NaN for one.
        reasons: why a number is unknown, by its name.
    """

    target: Target
    n_stimuli: int
    n_sessions: int
    between_subjects: float
    between_sessions: float
    reasons: dict[str, str]

    def row(self) -> dict[str, Any]:
        """Return the numbers of a table; None where one is unknown."""
        row = {
            **self.target._asdict(),
            "stimuli": self.n_stimuli,
            "sessions": self.n_sessions,
            "between_subjects": self.between_subjects,
            "between_sessions": self.between_sessions,
        }
        return {name: _plain(value) for name, value in row.items()}


@dataclass(frozen=True, eq=False)
class RecordingQuality:
    """How good a recording is: see `repalign.quality.inspect_recording`.

    Attributes:
        dataset: its name.
        kind: ``responses``, or ``rdm`` of published dissimilarities.
        sizes: number of stimuli, presentations, neuroids and time bins, or of stimuli and entries.
        units: of the responses, "" where they are not stated.
        processing: steps that the recording went through already.
        part_kind: ``session``, or ``half`` where no coordinate tells sessions apart.
        part_names: of the sessions or halves.
        targets: one a (species, region, subject).
        rdm_correlations: Spearman correlation of each target's RDM with each other's, of published
            RDMs; else empty.
        notes: what a reader must know.
        warnings: what looks wrong, one sentence each.
        splits, seed: of the reliability.
        fingerprint: of the recording.
        version: of this package.
    """

    dataset: str
    kind: str
    sizes: dict[str, int]
    units: str
    processing: tuple[str, ...]
    part_kind: str
    part_names: tuple[str, ...]
    targets: tuple[TargetQuality, ...] | tuple[RdmQuality, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    splits: int
    seed: int
    fingerprint: str
    version: str
    rdm_correlations: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a (species, region, subject); JSON can hold it."""
        return [target.row() for target in self.targets]

    def to_dict(self) -> dict[str, Any]:
        """Return all that was found, with one value a neuroid; JSON can hold it, NaN is None."""
        found: dict[str, Any] = _plain(
            {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        )
        return found

    def extent(self) -> str:
        """Return the sizes in words."""
        return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in self.sizes.items())

    def __str__(self) -> str:
        """Return text of a few lines: sizes, a line a target, notes and warnings."""
        lines = [f"{self.dataset}: {self.extent()}" + f" ({self.units})" * bool(self.units)]
        for row in self.rows():
            name = " ".join(filter(None, (row["species"], row["region"], row["subject"])))
            if self.kind == "rdm":
                facts = [f"{row['stimuli']} stimuli", f"{row['sessions']} sessions"]
                numbers = ["between_subjects", "between_sessions"]
            else:
                low, high = row["repetitions_min"], row["repetitions_max"]
                times = str(low) if low == high else f"{low} to {high}"
                facts = [f"{row['neuroids']} neuroids", f"{row['stimuli']} stimuli × {times}"]
                numbers = ["reliability", "ceiling", "drift"]
            facts += [f"{one.replace('_', ' ')} {_number(row[one])}" for one in numbers]
            lines.append(f"  {name}: {', '.join(facts)}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines if self.warnings else [*lines, "no warnings"])


def median(values: Array) -> float:
    """The median of what is not NaN; NaN where all is."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else math.nan


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _plain(value: Any) -> Any:
    """The strict-JSON form of a value: a record is a dict, an array a list, NaN is None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Target):
        return value._asdict()
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {one.name: _plain(getattr(value, one.name)) for one in fields}
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

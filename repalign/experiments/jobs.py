"""What an experiment trains: conditions, and each of their runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repalign.experiments.configuration import ALIGNED


@dataclass(frozen=True)
class Condition:
    """One way to train: a name, what it is, and how strongly it is applied."""

    name: str
    title: str
    description: str
    strength: float
    reason: str = ""

    def entry(self) -> dict[str, Any]:
        """As the record has it."""
        return {
            "name": self.name,
            "title": self.title,
            "description": self.description,
            "lambda": self.strength,
            "applicable": not self.reason,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Job:
    """One run: a condition at a strength, with a seed."""

    name: str
    strength: float
    seed: int
    masking: bool = False
    brief: bool = False


def dose_row(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run as a point of the dose–response curve: λ, robustness, held-out alignment."""
    rows = [row for row in run["alignment"] if row["trained_metric"]]
    held_out = [row["value"] for row in rows if row["stimuli"] != "trained"]
    return {
        "condition": ALIGNED,
        "lambda": run["lambda"],
        "seed": run["seed"],
        "clean": run["clean"],
        "auc": run["curves"][0]["auc"],
        "alignment": held_out[0] if held_out else None,
    }

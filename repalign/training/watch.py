"""What validation has shown so far: what is best, and when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from repalign.training.sections import TrainingSection


@dataclass
class Watch:
    """The best values of validation, and how long ago anything improved.

    With the monitor ``both`` anything that improves counts as progress, so training stops only
    when neither does; the best weights are those with the greatest sum of the two. What was
    never defined is left out (read-outs that a run does not train have no alignment); where that
    leaves nothing, training goes on to its end, and the last weights count as the best.

    Args:
        task, alignment: the best values so far, larger being better.
        idle: validations in a row that improved nothing.
        best: step, value and monitor of the best weights.
    """

    task: float = -math.inf
    alignment: float = -math.inf
    idle: int = 0
    best: dict[str, Any] = field(default_factory=dict)

    def see(self, scores: dict[str, float | None], training: TrainingSection, step: int) -> bool:
        """Take in one validation; return whether its weights are the best so far.

        Args:
            scores: of ``task`` and ``alignment``, larger being better; None: undefined.
            training: the monitor and the smallest change that counts.
            step: of this validation.
        """
        monitor, stopping = training.monitored, training.early_stopping
        least = 0.0 if stopping is None else stopping.minimum_change
        seen = {
            name: -math.inf if value is None else value
            for name, value in scores.items()
            if monitor in (name, "both") and not self._never(name, value)
        }
        if not seen:
            self.best = {"step": step, "monitor": monitor, "value": None, **scores}
            return True
        improved = [name for name, value in seen.items() if value > getattr(self, name) + least]
        for name in improved:
            setattr(self, name, seen[name])
        self.idle = 0 if improved else self.idle + 1
        value = sum(seen.values())
        least_best = self.best.get("value")
        if least_best is not None and value <= least_best:
            return False
        self.best = {"step": step, "monitor": monitor, "value": value, **scores}
        return True

    def _never(self, name: str, value: float | None) -> bool:
        return value is None and getattr(self, name) == -math.inf

    def enough(self, training: TrainingSection) -> str:
        """Why training should stop now; empty while it should go on."""
        stopping = training.early_stopping
        if stopping is None or self.idle < stopping.patience:
            return ""
        return f"early: {stopping.monitor} has not improved for {self.idle} validations"

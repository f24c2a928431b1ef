"""Play and what an agent's network made of it, in one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import PRESENTATION

TRACE_NAMES = (
    *("value", "q", "reward_prediction_error", "advantage", "entropy"),
    *("reward", "action"),
)


@dataclass(frozen=True)
class Rollout:
    """Play, and what an agent's network made of it.

    Args:
        steps: observations, with action, reward, ends, value and the like as coordinates (see
            `repalign.agents.make_steps`); `repalign.agents.replay` takes them again.
        layers: activations by layer, as `repalign.record` gives them; the columns of ``steps``
            are coordinates of each.
        traces: ``value``, ``q``, ``reward_prediction_error``, ``advantage``, ``entropy``,
            ``reward`` and ``action`` (one-hot), each as a population of its own to compare with.
            One that is the same in all steps is left out, and of the others those steps where it
            is unknown.
    """

    steps: xr.Dataset
    layers: dict[str, xr.Dataset]
    traces: dict[str, xr.Dataset]

    @property
    def populations(self) -> dict[str, xr.Dataset]:
        """Layers, then traces, as so many populations to compare with."""
        return self.layers | {
            name if name not in self.layers else f"trace {name}": trace
            for name, trace in self.traces.items()
        }

    def episodes(self) -> list[dict[str, Any]]:
        """Return and length of each episode, and whether it was played to its end."""
        numbers = self.steps["episode"].values
        rewards = self.steps["reward"].values if "reward" in self.steps.coords else None
        cut = self.steps.attrs.get("cut_episode")
        return [
            {
                "episode": number,
                "return": None if rewards is None else float(rewards[numbers == number].sum()),
                "length": int((numbers == number).sum()),
                "complete": number != cut,
            }
            for number in dict.fromkeys(numbers.tolist())
        ]

    def summary(self) -> dict[str, Any]:
        """Mean and standard deviation of return and length, over episodes played to their end."""
        whole = [one for one in self.episodes() if one["complete"]]
        row: dict[str, Any] = {
            "agent": self.steps.attrs.get("model"),
            "environment": self.steps.attrs.get("environment"),
            "episodes": len(whole),
            "steps": self.steps.sizes[PRESENTATION],
        }
        for name in ("return", "length"):
            values = [one[name] for one in whole if one[name] is not None]
            row[f"{name}_mean"] = float(np.mean(values)) if values else None
            row[f"{name}_sd"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return row

"""Show recorded observations to an agent, and keep its layers, values and prediction errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.agents.loading import Agent
from repalign.agents.policies import check_output
from repalign.agents.rollout_records import Rollout
from repalign.agents.steps import FINAL, OBSERVATION, make_steps
from repalign.agents.traces import (
    following_values,
    generalised_advantages,
    policy_entropy,
    prediction_errors,
    state_values,
)
from repalign.evaluation import evaluating
from repalign.hooks import capture
from repalign.layer_list import wrong_shape
from repalign.metrics.calls import pick_device
from repalign.networks import chosen_layers, find_layers
from repalign.progress import track
from repalign.recording import PRESENTATION, make_activations

BATCH_SIZE = 256
MEMORY_BYTES = 16 << 30
TRACES = ("value", "reward_prediction_error", "advantage", "entropy")
Array = np.ndarray[Any, np.dtype[Any]]


def replay(
    agent: Agent,
    observations: xr.Dataset | Array,
    *,
    layers: str | Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Rollout:
    """Show recorded observations to an agent, whatever it would have done itself.

    The agent does not act: actions, rewards and ends are those of the recording, a human's or
    another agent's (teacher forcing). Value, entropy and layers need the observations alone;
    prediction errors and advantages need rewards and ends too.

    Args:
        agent: from `repalign.agents.load_agent`, or made of a module of your own.
        observations: what `repalign.agents.make_steps` made, the ``steps`` of a `Rollout`, or an
            array of shape (step, …): one episode, of which nothing else is known.
        layers: module names or patterns; the agent's own by default, else ``"all"``.
        batch_size: observations a forward pass.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar on stderr.

    Returns:
        Steps, layers and traces; V is the critic's, or the largest Q.

    Raises:
        ValueError: observations that do not fit the network, an unknown layer, or values that are
            not finite.

    Example:
        >>> from repalign.agent_cards import AgentSettings
        >>> class Small(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.hidden = torch.nn.Linear(4, 2)
        ...     def forward(self, observations):
        ...         hidden = self.hidden(observations.float())
        ...         return {"logits": hidden, "value": hidden.sum(1)}
        >>> small = Agent("small", Small(), AgentSettings(environment="CartPole-v1", gamma=0.9))
        >>> seen = replay(small, np.ones((5, 4)))
        >>> list(seen.layers), seen.steps["value"].shape
        (['hidden'], (5,))
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
    steps = observations if isinstance(observations, xr.Dataset) else make_steps(observations)
    if OBSERVATION not in steps or "episode" not in steps.coords:
        raise ValueError(
            "the dataset has no observations and episodes; make it with repalign.agents.make_steps,"
            " or take the steps of a Rollout"
        )
    steps = steps.drop_vars([*TRACES, "q"], errors="ignore")
    names = find_layers(agent.module, chosen_layers(layers, agent.layers or ["all"], agent.name))
    passed = _Pass(agent, names, batch_size, pick_device(device), progress)
    rows, output = passed.over(steps[OBSERVATION])
    final = passed.without_layers().over(steps[FINAL])[1] if FINAL in steps else {}
    steps = _annotated(agent, steps, output, final)
    return Rollout(
        steps,
        {name: _layer(agent, steps, name, values) for name, values in rows.items()},
        _traces(agent, steps, output),
    )


@dataclass(frozen=True)
class _Pass:
    """Forward passes over observations, batch by batch."""

    agent: Agent
    layers: Sequence[str]
    batch_size: int
    device: torch.device
    progress: bool

    def without_layers(self) -> _Pass:
        return dataclasses.replace(self, layers=(), progress=False)

    def over(self, observations: xr.DataArray) -> tuple[dict[str, Array], dict[str, Tensor]]:
        """Layers as step × unit … arrays, and what the network answered, in float64."""
        agent, count = self.agent, len(observations)
        rows: dict[str, Array] = {}
        outputs: dict[str, list[Tensor]] = {}
        starts = range(0, count, self.batch_size)
        label = f"{agent.name}: {count} observations"
        with evaluating(agent.module, self.device), capture(agent.module, self.layers) as seen:
            for start in track(starts, label, show=self.progress):
                block = np.array(observations[start : start + self.batch_size].values, order="C")
                seen.clear()
                answer = answer_to(agent, block, self.device)
                for key, tensor in answer.items():
                    outputs.setdefault(key, []).append(tensor.double().cpu())
                for name in self.layers:
                    if name not in seen:
                        raise ValueError(f"layer {name!r} is not used in the forward pass")
                if not rows:
                    rows = self._room(seen, count, len(block))
                for name in self.layers:
                    part = rows[name][start : start + len(block)]
                    part[...] = self._values(seen[name], name, start, part.shape)
        return rows, {key: torch.cat(parts) for key, parts in outputs.items()}

    def _room(self, seen: dict[str, Tensor], count: int, rows: int) -> dict[str, Array]:
        """Arrays for all steps, unless they cannot fit in memory."""
        for name in self.layers:
            wrong = wrong_shape(seen[name], rows)
            if wrong:
                raise ValueError(f"{self.agent.name}, layer {name!r} {wrong}")
        size = sum(4 * count * seen[name][0].numel() for name in self.layers)
        if size > MEMORY_BYTES:
            raise ValueError(
                f"the layers asked for take {size / 1e9:.0f} GB for {count} steps; choose fewer"
                " layers (--layers) or steps"
            )
        shapes = {name: (count, *seen[name].shape[1:]) for name in self.layers}
        return {name: np.empty(shape, dtype=np.float32) for name, shape in shapes.items()}

    def _values(self, output: Tensor, name: str, start: int, shape: tuple[int, ...]) -> Array:
        """A layer's output for the steps from ``start`` on."""
        wrong = wrong_shape(output, shape[0], shape[1:])
        if wrong:
            raise ValueError(f"{self.agent.name}, layer {name!r} {wrong}")
        values: Array = output.float().cpu().numpy()
        finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
        if not finite.all():
            step = start + int(np.argmin(finite))
            raise ValueError(
                f"{self.agent.name}, layer {name}: NaN or infinite activations for step {step}"
            )
        return values


def answer_to(agent: Agent, observations: Array, device: torch.device) -> dict[str, Tensor]:
    """What an agent's network says to a batch of observations, checked.

    Raises:
        ValueError: the observations do not fit the network.
    """
    if observations.dtype == np.float64:
        observations = observations.astype(np.float32)  # as torch's weights
    batch = torch.from_numpy(observations).to(device)
    try:
        answer = agent.module(batch)
    except (RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{agent.name} failed on observations of shape {observations.shape[1:]} and type"
            f" {observations.dtype} ({reason}); they must have the form of its environment,"
            f" {agent.settings.environment}"
        ) from error
    return check_output(answer, len(observations), agent.name)


def _annotated(
    agent: Agent, steps: xr.Dataset, output: dict[str, Tensor], final: dict[str, Tensor]
) -> xr.Dataset:
    """The steps with value, Q, prediction error, advantage and entropy, where they are known."""
    settings, found = agent.settings, {}
    entropy, value = policy_entropy(output), state_values(output)
    if entropy is not None:
        found["entropy"] = entropy.numpy()
    if value is not None:
        if settings.gamma is None:
            raise ValueError(f"{agent.name} has values and no discount; set gamma in its settings")
        values = value.numpy()
        found["value"] = values
        if "reward" in steps.coords:
            terminated = steps["terminated"].values
            ends = terminated | steps["truncated"].values
            after = np.full(int(ends.sum()), np.nan)
            last = state_values(final) if final else None
            after = after if last is None else last.numpy()
            errors = prediction_errors(
                values,
                following_values(values, after, ends),
                steps["reward"].values / settings.reward_scale,
                terminated,
                gamma=settings.gamma,
            )
            found["reward_prediction_error"] = errors
            found["advantage"] = generalised_advantages(
                errors,
                ends,
                gamma=settings.gamma,
                gae_lambda=1.0 if settings.gae_lambda is None else settings.gae_lambda,
            )
    steps = steps.assign_coords({name: (PRESENTATION, one) for name, one in found.items()})
    if "q" in output:
        steps = steps.assign({"q": ((PRESENTATION, "action_choice"), output["q"].numpy())})
    about = {
        name: getattr(settings, name)
        for name in ("gamma", "gae_lambda", "reward_scale")
        if getattr(settings, name) is not None
    }
    about |= {"model": agent.name, "agent_fingerprint": agent.fingerprint()}
    return steps.assign_attrs({"environment": settings.environment, **steps.attrs, **about})


def _layer(agent: Agent, steps: xr.Dataset, name: str, values: Array) -> xr.Dataset:
    flat = values.reshape(len(values), -1)
    ds = make_activations(flat, None, agent.name, name, values.shape[1:])
    coords = {key: one for key, one in steps.coords.items() if one.dims == (PRESENTATION,)}
    played_by = steps.attrs.get("played_by")
    ds = ds.assign_coords(coords)
    return ds if played_by is None else ds.assign_attrs(played_by=played_by)


def _traces(agent: Agent, steps: xr.Dataset, output: dict[str, Tensor]) -> dict[str, xr.Dataset]:
    columns: dict[str, Array] = {
        name: steps[name].values[:, None] for name in TRACES if name in steps.coords
    }
    if "q" in steps:
        columns["q"] = steps["q"].values
    if "reward" in steps.coords:
        columns["reward"] = steps["reward"].values[:, None]
    if "continuous_action" in steps:
        columns["action"] = steps["continuous_action"].values
    elif "action" in steps.coords:
        choices = next((output[k].shape[1] for k in ("logits", "q") if k in output), 0)
        actions = steps["action"].values
        if choices and (actions.min() < 0 or actions.max() >= choices):
            raise ValueError(
                f"actions reach from {actions.min()} to {actions.max()}, and {agent.name} has"
                f" {choices}: 0 to {choices - 1}"
            )
        columns["action"] = np.eye(choices or int(actions.max()) + 1)[actions]
    traces = {}
    for name, values in columns.items():
        known = np.isfinite(values).all(axis=1)
        if known.any() and np.ptp(values[known], axis=0).any():
            whole = _layer(agent, steps, name, values)
            traces[name] = whole if known.all() else whole.isel({PRESENTATION: known})
    return traces

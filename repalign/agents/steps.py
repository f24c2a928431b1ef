"""Recorded play in the schema: one presentation a step, with what was seen, done and earned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from repalign.recording import IMAGE_HASH, PRESENTATION, SCHEMA_VERSION, STIMULUS

EPISODE_END = "episode_end"
OBSERVATION, FINAL = "observation", "final_observation"
Array = np.ndarray[Any, np.dtype[Any]]


def make_steps(
    observations: Any,
    *,
    actions: Any = None,
    rewards: Any = None,
    terminated: Any = None,
    truncated: Any = None,
    episode: Any = None,
    final_observations: Any = None,
    stimulus_id: Sequence[str] | None = None,
    time_s: Any = None,
) -> xr.Dataset:
    """Play that was recorded, an agent's or a human's, as `repalign.agents.replay` takes it.

    Args:
        observations: what was seen before each action, shape (step, …) in the environment's own
            form and type, the steps of all episodes one after the other.
        actions: what was done then: integers (step,), or numbers (step, dimension).
        rewards: what it brought, (step,).
        terminated: whether the step ended in a state without a future, (step,).
        truncated: whether play was only cut off there, (step,); by default the last step of each
            episode that did not terminate.
        episode: number of the episode of each step; by default a new one begins after each
            terminated or truncated step.
        final_observations: what was seen after the last step of each episode, (episode, …).
            Without them the prediction error of a truncated last step is unknown.
        stimulus_id: name of each step; by default ``episode-0-step-00000`` and so on.
        time_s: when each step began, in seconds; stays where the recording has its own clock.

    Returns:
        ``observation(presentation, …)`` with a coordinate for all else; each observation's
        sha256 stands beside its id, so that equal ids never match unequal observations.

    Raises:
        ValueError: lengths that differ, an episode that goes on after it ended, or names that
            stand twice.

    Example:
        >>> steps = make_steps(np.zeros((3, 4)), terminated=[False, True, False])
        >>> steps["episode"].values.tolist(), steps["truncated"].values.tolist()
        ([0, 0, 1], [False, False, True])
    """
    seen = np.asarray(observations)
    if seen.ndim == 0 or len(seen) == 0 or seen.dtype.kind not in "fiub":
        raise ValueError(
            f"observations of type {seen.dtype} and shape {seen.shape}; expected numbers, one row"
            " a step"
        )
    _check_finite(seen, "observations")
    n_steps = len(seen)
    over = _column(terminated, n_steps, "terminated", bool)
    cut = _column(truncated, n_steps, "truncated", bool)
    numbers = _episodes(_column(episode, n_steps, "episode", np.int64), over, cut, n_steps)
    last = np.append(numbers[1:] != numbers[:-1], True)
    over = np.zeros(n_steps, dtype=bool) if over is None else over
    cut = last & ~over if cut is None else cut | (last & ~over)
    early = np.flatnonzero((over | cut) & ~last)
    if early.size:
        raise ValueError(
            f"episode {numbers[early[0]]} goes on after row {early[0]}, which is terminated or"
            " truncated; give the next row another episode"
        )
    firsts = np.flatnonzero(np.append(True, last[:-1]))
    within = np.arange(n_steps) - firsts[np.cumsum(np.append(False, last[:-1]))]
    coords: dict[str, Any] = {
        STIMULUS: (PRESENTATION, _names(stimulus_id, numbers, within)),
        "repetition": (PRESENTATION, np.zeros(n_steps, dtype=np.int64)),
        IMAGE_HASH: (PRESENTATION, np.array([observation_hash(one) for one in seen], object)),
        "episode": (PRESENTATION, numbers),
        "step": (PRESENTATION, within),
        "terminated": (PRESENTATION, over),
        "truncated": (PRESENTATION, cut),
    }
    reward = _column(rewards, n_steps, "rewards", np.float64)
    moment = _column(time_s, n_steps, "time_s", np.float64)
    coords |= {} if reward is None else {"reward": (PRESENTATION, reward)}
    coords |= {} if moment is None else {"time_s": (PRESENTATION, moment)}
    axes = [f"observation_axis_{axis}" for axis in range(seen.ndim - 1)]
    variables: dict[str, Any] = {OBSERVATION: ((PRESENTATION, *axes), seen)}
    if actions is not None:
        done = np.asarray(actions)
        if done.ndim not in (1, 2) or len(done) != n_steps or done.dtype.kind not in "fiu":
            raise ValueError(
                f"actions of type {done.dtype} and shape {done.shape} for {n_steps} steps;"
                " expected integers (step,) or numbers (step, dimension)"
            )
        if done.ndim == 1:
            coords["action"] = (PRESENTATION, done)
        else:
            variables["continuous_action"] = ((PRESENTATION, "action_dimension"), done)
    if final_observations is not None:
        final = np.asarray(final_observations)
        if final.shape != (len(firsts), *seen.shape[1:]):
            raise ValueError(
                f"final_observations have shape {final.shape}, expected one a episode:"
                f" {(len(firsts), *seen.shape[1:])}"
            )
        _check_finite(final, "final_observations")
        variables[FINAL] = ((EPISODE_END, *axes), final)
    return xr.Dataset(
        variables, coords=coords, attrs={"schema_version": SCHEMA_VERSION, "kind": "steps"}
    )


def observation_hash(observation: Array) -> str:
    """sha256 of one observation: its type, shape and values."""
    head = f"{observation.dtype.str}{observation.shape}".encode()
    digest = hashlib.sha256(head + np.ascontiguousarray(observation).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _column(values: Any, length: int, name: str, dtype: Any) -> Array | None:
    if values is None:
        return None
    column = np.asarray(values)
    if column.shape != (length,):
        raise ValueError(f"{name} has shape {column.shape}, expected ({length},): one a step")
    if column.dtype.kind == "f":
        _check_finite(column, name)
    with_type: Array = column.astype(dtype)
    if not np.array_equal(with_type, column):
        raise ValueError(f"{name} has values of type {column.dtype}, expected {np.dtype(dtype)}")
    return with_type


def _check_finite(values: Array, name: str) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise ValueError(f"{name} has NaN or infinite values, first in row {row}; mend or cut it")


def _episodes(given: Array | None, over: Array | None, cut: Array | None, length: int) -> Array:
    if given is not None:
        changes = np.flatnonzero(given[1:] != given[:-1])
        if len(set(given.tolist())) != len(changes) + 1:
            raise ValueError("episode returns to an earlier number; keep each one's steps together")
        return given
    ended = np.zeros(length, dtype=bool)
    for column in (over, cut):
        ended = ended if column is None else ended | column
    numbers: Array = np.concatenate([[0], np.cumsum(ended[:-1])]).astype(np.int64)
    return numbers


def _names(given: Sequence[str] | None, episode: Array, step: Array) -> Array:
    if given is None:
        pairs = zip(episode.tolist(), step.tolist(), strict=True)
        return np.array([f"episode-{e}-step-{s:05d}" for e, s in pairs], dtype=object)
    names = [str(name) for name in given]
    if len(names) != len(step) or len(set(names)) != len(names):
        raise ValueError(
            f"{len(names)} stimulus ids, {len(set(names))} of them distinct, for {len(step)} steps;"
            " each step needs a name of its own"
        )
    return np.array(names, dtype=object)

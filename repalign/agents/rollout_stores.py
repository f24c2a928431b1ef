"""Rollouts on disk: a folder that is whole or absent.

``layers.zarr`` and ``traces.zarr`` hold one store a layer or trace, which `repalign compare`
takes; ``steps.zarr`` holds the play itself, for a replay by another agent.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from repalign import __version__
from repalign.activations import open_activations
from repalign.agents.loading import Agent, load_agent
from repalign.agents.replays import replay
from repalign.agents.rollout_records import Rollout
from repalign.recording import SCHEMA_VERSION
from repalign.store import building, default_folder, open_store, write_store

LAYERS, TRACES, STEPS = "layers.zarr", "traces.zarr", "steps.zarr"


def write_rollout(rollout: Rollout, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a rollout as a folder of stores, which appears when all of it is written.

    Args:
        rollout: from `repalign.agents.rollout` or `repalign.agents.replay`.
        path: the folder.
        overwrite: replace what stands there.

    Raises:
        FileExistsError: something stands at the path, and ``overwrite`` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True (--overwrite) to replace it")
    if path.exists() and not is_rollout(path):
        raise FileExistsError(f"{path} is no rollout, so it is not replaced; name another folder")
    provenance = {"repalign": __version__, "torch": torch.__version__, **rollout.steps.attrs}
    with building(path) as folder:
        for store, parts in ((LAYERS, rollout.layers), (TRACES, rollout.traces)):
            for name, ds in parts.items():
                write_store(folder / store / name, {"": ds}, provenance=provenance)
        order = {"layers": list(rollout.layers), "traces": list(rollout.traces)}
        write_store(folder / STEPS, {"": rollout.steps.assign_attrs(order)}, provenance=provenance)


def open_rollout(path: str | Path) -> Rollout:
    """Open a rollout lazily.

    Raises:
        FileNotFoundError: there is none at the path.
        ValueError: a file of it is missing or damaged.
    """
    path = Path(path)
    if not is_rollout(path):
        raise FileNotFoundError(
            f"no rollout at {path}; make one with repalign rollout, or write_rollout"
        )
    steps = open_store(path / STEPS)
    layers, traces = (
        {name: open_activations(path / store / name) for name in steps.attrs[kind]}
        for store, kind in ((LAYERS, "layers"), (TRACES, "traces"))
    )
    return Rollout(steps, layers, traces)


def is_rollout(path: str | Path) -> bool:
    """Whether a rollout stands at a path."""
    return (Path(path) / STEPS).is_dir()


def stored_replay(
    agent: str | Path,
    on: str | Path,
    *,
    layers: Sequence[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    **where: Any,
) -> tuple[Rollout, Path]:
    """What an agent makes of the observations of a rollout, from the store where it is there.

    Args:
        agent: name or path of its card.
        on: folder of the rollout whose observations it is shown.
        layers, device, progress: as in `repalign.replay`.
        overwrite: replay again, even if it is there.
        **where: ``to``, ``mirror`` and ``offline``, as in `repalign.agents.load_agent`.

    Returns:
        The replay, and its folder.
    """
    loaded, recorded = load_agent(agent, **where), open_rollout(on).steps
    path = rollout_path(loaded, to=where.get("to"), layers=layers, on=recorded.attrs["fingerprint"])
    if overwrite or not path.exists():
        seen = replay(loaded, recorded, layers=layers, device=device, progress=progress)
        write_rollout(seen, path, overwrite=overwrite)
    return open_rollout(path), path


def rollout_path(agent: Agent, *, to: str | Path | None = None, **how: Any) -> Path:
    """Where a rollout is kept: a folder named after the agent and all that it depends on."""
    versions = [importlib.metadata.version(name) for name in ("gymnasium", "torch", "repalign")]
    content = json.dumps([agent.fingerprint(), how, versions, SCHEMA_VERSION], sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    name = agent.name.replace("@", "-").replace(":", "-")
    environment = agent.settings.environment.replace("/", "-")
    folder = Path(to) if to is not None else default_folder()
    return folder / "rollouts" / f"{name}--{environment}-{key}"

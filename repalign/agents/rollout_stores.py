"""Rollouts on disk: a folder that is whole or absent.

``layers.zarr`` and ``traces.zarr`` hold one store a layer or trace, which `repalign compare`
takes; ``steps.zarr`` holds the play itself, for a replay by another agent.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import torch

from repalign import __version__
from repalign.activations import open_activations
from repalign.agents.loading import Agent
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
    if path.exists() and not (path / STEPS).is_dir():
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
    if not (path / STEPS).is_dir():
        raise FileNotFoundError(
            f"no rollout at {path}; make one with repalign rollout, or write_rollout"
        )
    steps = open_store(path / STEPS)
    layers, traces = (
        {name: open_activations(path / store / name) for name in steps.attrs[kind]}
        for store, kind in ((LAYERS, "layers"), (TRACES, "traces"))
    )
    return Rollout(steps, layers, traces)


def rollout_path(agent: Agent, *, to: str | Path | None = None, **how: Any) -> Path:
    """Where a rollout is kept: a folder named after the agent and all that it depends on."""
    versions = [importlib.metadata.version(name) for name in ("gymnasium", "torch", "repalign")]
    content = json.dumps([agent.fingerprint(), how, versions, SCHEMA_VERSION], sort_keys=True)
    key = hashlib.sha256(content.encode()).hexdigest()[:12]
    name = agent.name.replace("@", "-").replace(":", "-")
    environment = agent.settings.environment.replace("/", "-")
    folder = Path(to) if to is not None else default_folder()
    return folder / "rollouts" / f"{name}--{environment}-{key}"

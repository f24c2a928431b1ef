"""A published choice of layers: which layer stands for which region, chosen on what, and how."""

from __future__ import annotations

import hashlib
import json
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from repalign.layer_regions.mapping_results import LayerMapping
from repalign.layer_regions.nested_choice import Disjoint
from repalign.local_files import write_file
from repalign.metrics import METRICS, Metric

LARGEST_FILE = 1 << 26  # bytes: a million ids


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ChosenOn(_Strict):
    """The data of the choice."""

    dataset: str
    fingerprint: str
    subjects: dict[str, list[str]]
    n_stimuli: int
    stimuli_sha256: str
    stimuli: list[str]

    @model_validator(mode="after")
    def _hash_is_right(self) -> ChosenOn:
        found = hash_of_ids(self.stimuli)
        if found != self.stimuli_sha256 or self.n_stimuli != len(self.stimuli):
            raise ValueError(
                f"{len(self.stimuli)} stimuli with hash {found}; n_stimuli says {self.n_stimuli}"
                f" and stimuli_sha256 {self.stimuli_sha256}: the list was changed after it was"
                " written"
            )
        return self


class HeldOut(_Strict):
    """A region's held-out score at the time of the choice."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    smallest_p: float | None = None


class Commitment(_Strict):
    """A choice of layers that can be published, and scored on other data.

    Args:
        kind, schema_version: what file this is.
        model: name of the network.
        layers: the layer of each region.
        candidates: fingerprint of each layer that there was to choose from.
        metric, metric_parameters: what chose, and what scores.
        disjoint, folds, n_permutations, seed: as `repalign.map_layers` took them.
        chosen_on: the data of the choice.
        held_out: each region's held-out score, for information.
        versions: of repalign, torch, numpy and Python.
    """

    kind: Literal["layer-commitment"]
    schema_version: Literal[1]
    model: str
    metric: str
    disjoint: Disjoint
    folds: int
    n_permutations: int
    seed: int
    layers: dict[str, str]
    candidates: dict[str, str]
    metric_parameters: dict[str, Any]
    chosen_on: ChosenOn
    held_out: dict[str, HeldOut]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _layers_are_candidates(self) -> Commitment:
        strange = sorted(set(self.layers.values()) - set(self.candidates))
        if strange:
            raise ValueError(f"layers names {strange[0]!r}, which is not among the candidates")
        return self

    def built_metric(self) -> Metric:
        """Return the metric with its parameters.

        Raises:
            ValueError: an unknown metric, or parameters that it has not.
        """
        if self.metric not in METRICS:
            raise ValueError(
                f"the commitment's metric is {self.metric!r}; expected one of {', '.join(METRICS)}"
            )
        given = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in self.metric_parameters.items()
        }
        try:
            return METRICS[self.metric](**given)
        except TypeError as error:
            raise ValueError(f"metric_parameters of the commitment: {error}") from error


def hash_of_ids(ids: list[str]) -> str:
    """Return the sha256 of the ids, in their order, as the JSON list of them."""
    return f"sha256:{hashlib.sha256(json.dumps(ids).encode()).hexdigest()}"


def commit(mapping: LayerMapping) -> Commitment:
    """Return what of a mapping is to be published."""
    held_out = {}
    for one in mapping.regions:
        ends = {} if one.interval is None else {"low": one.interval.low, "high": one.interval.high}
        held_out[one.region] = HeldOut(value=one.value, p=one.p, smallest_p=one.smallest_p, **ends)
    ids = list(mapping.stimuli)
    chosen_on = ChosenOn(
        dataset=mapping.dataset,
        fingerprint=mapping.fingerprints[0],
        subjects={one.region: list(one.subjects) for one in mapping.regions},
        n_stimuli=len(ids),
        stimuli_sha256=hash_of_ids(ids),
        stimuli=ids,
    )
    return Commitment(
        kind="layer-commitment",
        schema_version=1,
        model=mapping.model,
        metric=mapping.metric,
        disjoint=mapping.disjoint,
        folds=mapping.folds,
        n_permutations=mapping.n_permutations,
        seed=mapping.seed,
        layers={one.region: one.layer for one in mapping.regions},
        candidates=dict(mapping.fingerprints[1]),
        metric_parameters={
            name: list(value) if isinstance(value, tuple) else value
            for name, value in mapping.metric_parameters.items()
            if value is not None  # TOML has no null; it is the default
        },
        chosen_on=chosen_on,
        held_out=held_out,
        versions={
            "repalign": mapping.version,
            "torch": version_of("torch"),
            "numpy": version_of("numpy"),
            "python": ".".join(map(str, sys.version_info[:3])),
        },
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    raise TypeError(f"{value!r} has no place in a commitment file")


def _lines(table: Mapping[str, Any], path: str) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    lines = [f"\n[{path}]"] if path and (plain or not table) else []
    lines += [f"{_toml(key)} = {_toml(value)}" for key, value in plain.items() if value is not None]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _lines(value, f"{path}.{_toml(key)}" if path else _toml(key))
    return lines


def write_commitment(mapping: LayerMapping, path: str | Path) -> Path:
    """Write which layer stands for which region, chosen on what and how, as a TOML file.

    The file is data: model, region → layer, the candidates with their fingerprints, metric, folds,
    seed, dataset, subjects and stimuli with a hash, held-out scores, versions. The same mapping
    gives the same bytes.

    Args:
        mapping: from `repalign.map_layers`.
        path: a file that ends in .toml.

    Raises:
        ValueError: another suffix, or a region without a defined score.

    Example:
        >>> write_commitment(map_layers(recording, layers), "commitment.toml")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix != ".toml":
        raise ValueError(f"{path} does not end in .toml, as a commitment does")
    undefined = [one.region for one in mapping.regions if one.value != one.value]
    if undefined:
        raise ValueError(f"region {undefined[0]!r} has no defined score; leave it out of regions=")
    head = "# Layers chosen for brain regions. repalign.score_commitment scores them on other data."
    lines = _lines(commit(mapping).model_dump(), "")
    write_file(path, "\n".join([head, *lines]) + "\n")
    return path


def read_commitment(path: str | Path) -> Commitment:
    """Read a commitment file, which is data and names no code.

    Raises:
        ValueError: no TOML, a missing, unknown or wrong key, or stimuli that do not fit their hash.
        OSError: no such file.
    """
    path = Path(path)
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path} has {path.stat().st_size} bytes; a commitment is smaller")
    try:
        return Commitment.model_validate(tomllib.loads(path.read_bytes().decode("utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}"
            for item in error.errors(include_url=False)
        ]
        raise ValueError(f"{path} is no commitment: {'; '.join(found[:5])}") from error

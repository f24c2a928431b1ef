"""What a card of a dataset or a model says, key by key.

A card is data: it never runs anything by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from repalign.agent_cards import AgentSettings, check_agent
from repalign.network_cards import AlignedTo, Preprocessing, check_hub

HASH_LENGTHS = {"md5": 32, "sha1": 40, "sha256": 64, "sha512": 128}
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def _check_hash(value: str) -> str:
    algorithm, _, digits = value.partition(":")
    if HASH_LENGTHS.get(algorithm) != len(digits) or re.fullmatch("[0-9a-f]+", digits) is None:
        expected = ", ".join(f"{name}:<{length} hex>" for name, length in HASH_LENGTHS.items())
        raise ValueError(f"expected one of {expected}, in lower case")
    return value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileSource(_Strict):
    """One raw file of a dataset: a local path, or a name and the address it is published at."""

    path: str | None = None
    url: str | None = None
    name: str = Field(default="", pattern=r"^[^/\\]*$")
    hash: str | None = None

    @field_validator("hash")
    @classmethod
    def _hash(cls, value: str | None) -> str | None:
        return None if value is None else _check_hash(value)

    @field_validator("url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("https://", "http://", "ftp://", "doi:")):
            raise ValueError("expected an address that starts with https://")
        return value

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if isinstance(data, str):  # `responses = "file.npy"` is short for a local path
            data = {"path": data}
        if isinstance(data, dict) and not data.get("name"):
            source = data.get("path") or data.get("url")
            if not isinstance(source, str):
                raise ValueError('expected path = "a local file", url = "https://…" or a name')
            data = {**data, "name": Path(source.split("?")[0]).name}
        return data


class StimulusDisplay(_Strict):
    """How the stimuli were shown."""

    visual_degrees: float | None = Field(default=None, gt=0)


class Card(_Strict):
    """What dataset and model cards share."""

    name: str = Field(pattern=NAME)
    title: str = ""
    description: str = ""
    licence: str | None = None
    licence_note: str = ""
    citation: str = ""
    doi: str | None = Field(default=None, pattern=r"^10\.\d{4,9}/\S+$")
    url: str | None = None
    _path: Path = PrivateAttr()
    _trusted: bool = PrivateAttr(default=False)
    _sha256: str = PrivateAttr(default="")

    @field_validator("licence")
    @classmethod
    def _licence(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            return str(canonicalize_license_expression(value))
        except InvalidLicenseExpression as error:
            raise ValueError(
                "expected an SPDX identifier such as 'CC-BY-4.0', or 'LicenseRef-<name>'"
            ) from error

    @property
    def path(self) -> Path:
        """The file that the card was read from."""
        return self._path

    @property
    def trusted(self) -> bool:
        """Whether the user named the card's file or folder, so that its code may be imported."""
        return self._trusted

    @property
    def sha256(self) -> str:
        """The sha256 of the card's file."""
        return self._sha256


class DatasetCard(Card):
    """A neural recording: where it is published, how it is read, what it holds."""

    loader: str
    species: tuple[str, ...]
    regions: tuple[str, ...]
    modality: tuple[str, ...] = ()
    units: str = ""
    access: Literal["open", "agreement", "manual"] = "open"
    instructions: str = ""
    files: Mapping[str, FileSource]
    options: Mapping[str, Any] = Field(default_factory=dict)
    stimuli: StimulusDisplay = StimulusDisplay()

    @field_validator("species", "regions", "modality", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _instructions_where_needed(self) -> DatasetCard:
        if self.access != "open" and not self.instructions:
            raise ValueError(
                f'access = {self.access!r} needs instructions = "how to get the files"'
            )
        return self


class ModelCard(Card):
    """A network: where its code and weights come from, its input, its layers."""

    source: str
    weights: str = "random"
    weights_url: str | None = None
    weights_hash: str | None = None
    weights_hash_prefix: str | None = None
    revision: str | None = None
    layers: tuple[str, ...] = ()
    visual_degrees: float | None = Field(default=None, gt=0)
    preprocessing: Preprocessing = Preprocessing()
    features: Mapping[str, str] = Field(default_factory=dict)
    features_folder: str | None = None
    stimulus_ids: str | None = None
    aligned_to: AlignedTo | None = None
    agent: AgentSettings | None = None

    @field_validator("weights_hash")
    @classmethod
    def _hash(cls, value: str | None) -> str | None:
        return None if value is None else _check_hash(value)

    @model_validator(mode="after")
    def _features_where_needed(self) -> ModelCard:
        given = bool(self.features) + (self.features_folder is not None)
        if (self.source == "features") != (given == 1):
            raise ValueError(
                'source = "features" goes with a [features] table (layer = "file.npy") or a'
                " features_folder, one of the two"
            )
        if self.features_folder is not None and self.stimulus_ids is not None:
            raise ValueError(
                "stimulus_ids is for a [features] table; the files of a features_folder name their"
                " stimuli"
            )
        unknown = [name for name in self.layers if self.features and name not in self.features]
        if unknown:
            raise ValueError(f"layers names {unknown[0]!r}, which [features] has no file for")
        check_agent(self.source, self.agent)
        check_hub(self.source, self.weights, self.revision, self.weights_url)
        return self

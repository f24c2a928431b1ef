"""What a card says under [options], checked: one message for all loaders."""

from __future__ import annotations

import difflib
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from repalign.cards import DatasetCard


class LoaderOptions(BaseModel):
    """Frozen, and without unknown keys; each loader adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=BaseModel)


def read_options(card: DatasetCard, kind: type[Kind]) -> Kind:
    """The options of a card as the loader's own class.

    Raises:
        ValueError: an unknown key, or a value of another kind; the card's file is named.
    """
    try:
        return kind.model_validate(dict(card.options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(["options", *(str(part) for part in first["loc"])])
        reason = first["msg"].removeprefix("Value error, ")
        given = f"{key} = {first['input']!r}"
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(str(first["loc"][-1]), kind.model_fields, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            reason = f"unknown; {hint}there are {', '.join(kind.model_fields)}"
        elif first["type"] == "literal_error":
            reason = f"expected {first['ctx']['expected']}"
        raise ValueError(f"card {card.path}: {given}: {reason}") from error

"""What a card says under [options], checked: one message for all loaders."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from repalign.card_schemas import DatasetCard


class LoaderOptions(BaseModel):
    """Frozen, and without unknown keys; each loader adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


ANY_NAME = "NAME"  # ends a role that stands for all roles that begin like it


def check_roles(
    card: DatasetCard, files: Mapping[str, Path], *, needs: Sequence[str], knows: Sequence[str] = ()
) -> None:
    """Raise a ValueError unless a card's [files] have the roles that a loader reads, and no other.

    Args:
        card: whose files these are.
        files: path by role.
        needs: roles that must be there.
        knows: roles that may be there; ``roi_NAME`` stands for all that begin with ``roi_``.
    """
    starts = tuple(role.removesuffix(ANY_NAME) for role in knows if role.endswith(ANY_NAME))
    unknown = [
        r for r in files if r not in (*needs, *knows) and not r.startswith(starts or ("\0",))
    ]
    if unknown or not set(needs) <= set(files):
        also = f" and knows {', '.join(knows)}" if knows else ""
        raise ValueError(
            f"card {card.path}: [files] has {', '.join(files) or 'nothing'}; the loader"
            f" {card.loader!r} needs {', '.join(needs)}{also}"
        )


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

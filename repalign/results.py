"""Results: one comparison a row, with all that is needed to compute it again."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from repalign.reused_data import ReusedDataWarning

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """One score: a (species, region, subject) against one layer of one model.

    ``is_distance`` says whether a lower value is more similar. ``null_mean`` and ``null_sd`` are
    what the same responses score with their stimuli shuffled, given where there are few.
    ``ceiling_low`` and ``ceiling_high`` bound what a perfect model would score (see
    `repalign.ceiling`), with ``ceiling_error`` their standard error over stimuli; ``ci_low`` and
    ``ci_high`` bound the value over other stimuli (see `repalign.inference`). ``p`` is None until
    tested.
    """

    dataset: str
    species: str | None
    region: str | None
    subject: str | None
    model: str
    layer: str | None
    metric: str
    metric_parameters: Mapping[str, Any]
    is_distance: bool
    value: float
    null_mean: float | None
    null_sd: float | None
    ceiling_kind: str | None
    ceiling_low: float | None
    ceiling_high: float | None
    ceiling_error: float | None
    ci_low: float | None
    ci_high: float | None
    p: float | None
    n_stimuli: int
    n_neuroids: int | None
    seed: int
    version: str
    fingerprints: tuple[str, str] = field(default=("", ""), repr=False)

    def row(self) -> dict[str, Any]:
        """Return the fields of a result table, without the fingerprints; JSON can hold it."""
        row = dataclasses.asdict(self)
        del row["fingerprints"]
        row["metric_parameters"] = json.loads(json.dumps(row["metric_parameters"]))
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }


def similarity(value: float | None, is_distance: bool) -> float:
    """Return what is greater for the more similar: a distance's negative; undefined is least."""
    if value is None or math.isnan(value):
        return -math.inf
    return -value if is_distance else value


@dataclass(frozen=True)
class Comparisons(Sequence[Comparison]):
    """The results of one call: a sequence of comparisons, and how their stimuli were matched."""

    results: tuple[Comparison, ...]
    note: str = ""

    def __getitem__(self, index: Any) -> Any:
        """Return one comparison, or several as a tuple."""
        return self.results[index]

    def __len__(self) -> int:
        """Return the number of comparisons."""
        return len(self.results)

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a comparison."""
        return [comparison.row() for comparison in self.results]

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a comparison."""
        import pandas as pd

        return pd.DataFrame(self.rows())

    def best(self) -> Comparison:
        """Return the comparison with the most similar value.

        Warns:
            ReusedDataWarning: there were several layers of its model: the best one was chosen on
                the data that it is scored on, so that its value is too good. `repalign.map_layers`
                scores the choice on data that it never saw.
        """
        best = max(self.results, key=lambda c: similarity(c.value, c.is_distance))
        same = (best.model, best.region, best.subject, best.metric)
        n = len({c.layer for c in self if (c.model, c.region, c.subject, c.metric) == same})
        if n > 1:
            warnings.warn(
                f"{best.layer} is the best of {n} layers of {best.model} on the data that it is"
                " scored on, so that its value is too good; repalign.map_layers scores the choice"
                " on data that it never saw",
                ReusedDataWarning,
                stacklevel=2,
            )
        return best

    def __str__(self) -> str:
        """Return a text table and the note."""
        lines = [
            f"{'target':32} {'model':28} {'layer':14} {'metric':6} {'value':>7}"
            f" {'95 % interval':>16} {'ceiling':>16}"
        ]
        for c in self.results:
            target = " ".join(filter(None, (c.dataset, c.species, c.region, c.subject)))
            lines.append(
                f"{target:32} {c.model:28} {c.layer or '':14} {c.metric:6} {c.value:7.3f}"
                f" {_pair(c.ci_low, c.ci_high):>16} {_pair(c.ceiling_low, c.ceiling_high):>16}"
            )
        return "\n".join([*lines, self.note])


def _pair(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} … {high:.3f}"

"""The result of an inference: tables, all resamples by named dimensions, and what it claims."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repalign.evidence.printing import summary_of
from repalign.local_files import building

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

FORMAT = "repalign-inference-2"
RECORD, RESAMPLES = "inference.json", "resamples.nc"
TABLES = ("table", "tests", "pairs")


@dataclass(frozen=True, eq=False)
class Inference:
    """What `infer` found.

    Args:
        table: one row a region and model: ``value``, its interval ``low`` and ``high``, the value
            that ``chance`` gives, both noise ceilings with intervals of their own, p values of
            three tests with their corrected values and the smallest that can be, and a verdict in
            words: ``p`` against chance, ``labels_p`` by permuting the labels of the stimuli,
            ``ceiling_p`` against the lower noise ceiling. ``p_error`` and ``p_corrected_error`` are
            their Monte Carlo standard errors: how far they move with the seed. A test that does not
            apply has no columns, or NaN in the rows of a region without; ``notes`` say why.
        tests: the same tests, one row each.
        pairs: one row a region and pair of models: ``difference`` of the first and the second, with
            interval, p values and verdict.
        claim: of what it speaks, in one sentence.
        notes: how stimuli were matched, and which tests were left out and why.
        settings: what `infer` was called with, but for the data: metric, seed and the rest.
        provenance: versions, and fingerprints of recording and models.
    """

    table: pd.DataFrame
    tests: pd.DataFrame
    pairs: pd.DataFrame
    claim: str
    notes: tuple[str, ...]
    settings: Mapping[str, Any]
    provenance: Mapping[str, Any]
    _resamples: xr.Dataset = field(repr=False)

    def to_xarray(self) -> xr.Dataset:
        """All that the tables are computed from, by named dimensions.

        ``value(region, model)``, ``lower(region)`` and ``upper(region)`` are those of the data;
        ``models_over_X(region, resample, model)``, ``lower_over_X`` and ``upper_over_X`` those of
        every resample over X: ``stimuli``, ``subjects`` or ``both``; ``drawn_stimuli`` and
        ``drawn_subjects`` say how often each is in a resample; ``by_subject(region, subject,
        model)`` is what each subject gives. ``p(region, hypothesis, model)`` and
        ``difference_p(region, model, other_model)`` are not corrected; ``p_error`` and
        ``difference_p_error`` are their Monte Carlo standard errors. Settings, versions and
        fingerprints are attributes.
        """
        return self._resamples.assign_attrs(
            claim=self.claim,
            notes=list(self.notes),
            settings=json.dumps(self.settings),
            provenance=json.dumps(self.provenance),
        )

    def to_json(self) -> dict[str, Any]:
        """Tables, claim, notes and settings as JSON can hold them: no NaN, but None."""
        return {
            "claim": self.claim,
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "provenance": dict(self.provenance),
            **{name: _records(getattr(self, name)) for name in TABLES},
        }

    def summary(self) -> str:
        """A text table of models with ceilings, stars and p values, the pairs, and the claim."""
        return summary_of(self)

    def __str__(self) -> str:
        """Return the summary."""
        return self.summary()

    def __repr__(self) -> str:
        """Return sizes and the claim, in two lines."""
        sizes = self._resamples.sizes
        return (
            f"<Inference: {sizes['model']} models, {sizes['region']} regions,"
            f" {self.settings['metric']}, over {self.settings['over']},"
            f" {int(self.table['n_resamples'].iloc[0])} resamples>\n{self.claim}"
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write a folder: three Parquet tables, ``resamples.nc`` and ``inference.json``.

        It is written under another name and renamed, so that a killed process leaves the old
        folder or the new one.

        Raises:
            FileExistsError: something stands there, and ``overwrite`` is false or it is no folder
                of an inference.
        """
        path = Path(path).expanduser()
        if path.exists() and not (overwrite and (path / RECORD).is_file()):
            raise FileExistsError(
                f"{path} exists; pass overwrite=True to replace an inference that stands there"
            )
        with building(path) as folder:
            for name in TABLES:
                getattr(self, name).to_parquet(folder / f"{name}.parquet", index=False)
            packed = {
                name: {"zlib": True, "complevel": 4}
                for name, values in self._resamples.variables.items()
                if values.dtype.kind in "fiu" and values.ndim
            }
            self.to_xarray().to_netcdf(folder / RESAMPLES, engine="h5netcdf", encoding=packed)
            record = {
                "format": FORMAT,
                "claim": self.claim,
                "notes": list(self.notes),
                "settings": dict(self.settings),
                "provenance": dict(self.provenance),
            }
            (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Inference:
        """Read what `save` wrote.

        Raises:
            ValueError: no folder of an inference, or one of another format.
        """
        import pandas as pd
        import xarray as xr

        path = Path(path).expanduser()
        if not (path / RECORD).is_file():
            raise ValueError(
                f"{path} holds no {RECORD}; expected a folder that Inference.save wrote"
            )
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        if record.get("format") != FORMAT:
            raise ValueError(f"{path} has format {record.get('format')!r}; this reads {FORMAT}")
        with xr.open_dataset(path / RESAMPLES, engine="h5netcdf") as opened:
            resamples = opened.load()
        resamples.attrs = {}
        return cls(
            **{name: pd.read_parquet(path / f"{name}.parquet") for name in TABLES},
            claim=record["claim"],
            notes=tuple(record["notes"]),
            settings=record["settings"],
            provenance=record["provenance"],
            _resamples=resamples,
        )


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }
        for row in rows
    ]

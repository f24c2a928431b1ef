"""The history of a training run: rows of a CSV file, and of TensorBoard where it is asked for."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

COLUMNS = (
    "step",
    "epoch",
    "task_loss",
    "align_loss",
    "label_loss",
    "lambda",
    "val_task",
    "val_alignment",
    "lr",
)
WHOLE = ("step", "epoch")
FILE = "log.csv"


class TrainingLog:
    """Rows that are appended as training goes on, and cut back to a checkpoint at a resumption.

    Args:
        folder: gets ``log.csv``, and ``tensorboard/`` with ``tensorboard=True``.
        size: bytes of the log at the checkpoint that is resumed; None starts a new log.
        step: of that checkpoint.
        tensorboard: whether to write for TensorBoard too.

    Raises:
        ImportError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, folder: Path, *, size: int | None = None, step: int = 0, tensorboard: bool = False
    ) -> None:
        """Open the log, cut to ``size`` bytes."""
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        begun = size is not None and self.path.is_file()
        self._file = self.path.open("r+" if begun else "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        if begun:
            self._file.truncate(min(size or 0, self.path.stat().st_size))
            self._file.seek(0, os.SEEK_END)
        if self._file.tell() == 0:
            self._writer.writerow(COLUMNS)
        self._board = _tensorboard(folder / "tensorboard", step) if tensorboard else None

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row; what it does not name stays empty."""
        self._writer.writerow(
            ["" if row.get(name) is None else repr(row[name]) for name in COLUMNS]
        )
        self._file.flush()
        if self._board is not None:
            for name in COLUMNS[2:]:
                if row.get(name) is not None:
                    self._board.add_scalar(name, row[name], row["step"])

    def size(self) -> int:
        """Bring all rows to the disk, and return the log's bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> TrainingLog:
        """Return the log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of a log: one dict a row, with None where a cell is empty.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with TrainingLog(folder) as log:
        ...     log.write({"step": 1, "epoch": 0, "task_loss": 0.5})
        >>> read_history(folder)[0]["task_loss"]
        0.5
    """
    path = folder / FILE
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        {
            name: None if not text else int(text) if name in WHOLE else float(text)
            for name, text in row.items()
        }
        for row in rows
    ]


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "training.log with \"tensorboard\" needs: pip install 'repalign[train]'"
        ) from error
    # Events after the checkpoint that is resumed are hidden.
    return SummaryWriter(folder, purge_step=step + 1)

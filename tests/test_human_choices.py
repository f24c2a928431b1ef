"""Human choices: read whole or refused with the line, and compared by error patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repalign.experiments.human_choices import consistency_rows, read_choices

CLASSES = ("cat", "dog", "owl")


def written(folder: Path, text: str) -> Path:
    path = folder / "choices.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_are_matched_by_class_and_not_by_order(tmp_path: Path) -> None:
    path = written(tmp_path, "owl, cat,dog\n1,2,3\n0,5,1\n")
    assert read_choices(path, classes=CLASSES, n_images=2).tolist() == [[2, 3, 1], [5, 1, 0]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3\n0,5,1\n", "first line is 1, 2, 3; expected the names of the 3 classes"),
        ("", "first line is missing; expected the names"),
        ("cat,dog\n1,2\n0,1\n", "first line is cat, dog; expected"),
        ("cat,dog,dog\n1,2,3\n0,1,2\n", "each once: cat, dog, owl"),
        ("cat,dog,owl\n1,2,3\n", "1 rows below its first line; expected 2"),
        ("cat,dog,owl\n1,2,3\n1,2\n", "line 3: 1,2; expected 3 whole numbers"),
        ("cat,dog,owl\n1,2,3\n1,2,0.5\n", "line 3: 1,2,0.5; expected 3 whole numbers"),
        ("cat,dog,owl\n-1,2,3\n1,2,0\n", "line 2: -1,2,3; expected 3 whole numbers"),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_their_line(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read_choices(written(tmp_path, text), classes=CLASSES, n_images=2)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"human_choices names .*none\.csv"):
        read_choices(tmp_path / "none.csv", classes=CLASSES, n_images=2)


def test_an_observer_that_errs_as_people_do_is_told_from_one_that_does_not() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    first, second = (
        random.dirichlet(np.ones(3), size=90) * 0.6 + 0.4 * np.eye(3)[labels] for _ in range(2)
    )
    counts = random.multinomial(200, first)
    same, other = (
        consistency_rows(torch.from_numpy(shares), counts, torch.from_numpy(labels))
        for shares in (first, second)
    )
    assert [row["kind"] for row in same] == ["i1", "i2n"]
    assert all(row["corrected"] == pytest.approx(1.0, abs=0.1) for row in same)
    assert all(abs(row["corrected"]) < 0.4 for row in other)
    assert all(row["n_images"] == 90 for row in same)


def test_images_that_nobody_answered_leave_the_others_as_they_are() -> None:
    random = np.random.default_rng(1)
    labels = np.arange(60) % 3
    shares = random.dirichlet(np.ones(3), size=60)
    counts = random.multinomial(100, shares)
    counts[:4] = 0
    rows = consistency_rows(torch.from_numpy(shares), counts, torch.from_numpy(labels))
    assert all(row["corrected"] > 0.8 for row in rows)

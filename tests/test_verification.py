"""Every reference agrees with us here, and a metric that is off is caught."""

import doctest
import importlib.util

import pytest

from repalign import verification
from repalign.verification import REFERENCES, verify

INSTALLED = [
    library
    for library in REFERENCES
    if importlib.util.find_spec(verification.MODULES.get(library, library))
]


@pytest.fixture(scope="module")
def rows():
    return verify()


def test_most_references_are_installed_for_the_tests():
    assert {"rsatoolbox", "scipy", "scikit-learn", "himalaya"} <= set(INSTALLED)


@pytest.mark.parametrize("library", INSTALLED)
def test_our_numbers_are_those_of(library, rows):
    own = [row for row in rows if row.reference == library]
    assert own
    assert [row for row in own if not row.agrees] == []
    assert all(row.tolerance <= 1e-7 or row.ours == "PLS" for row in own)


def test_other_data_agree_too():
    assert [row for row in verify(seed=1) if row.agrees is False] == []


def test_a_metric_that_is_off_by_a_millionth_is_caught(monkeypatch):
    right = verification.rdm
    monkeypatch.setattr(verification, "rdm", lambda *x, **more: right(*x, **more) * (1 + 1e-6))
    caught = {(row.ours, row.reference) for row in verify() if row.agrees is False}
    assert {("rdm", "rsatoolbox"), ("rdm", "scipy")} <= caught


def test_a_library_that_is_missing_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(verification, "REFERENCES", {"no-such-library": lambda data: iter(())})
    [row] = verify()
    assert (row.version, row.agrees, row.difference) == ("not installed", None, None)


def test_examples_run():
    assert doctest.testmod(verification).failed == 0

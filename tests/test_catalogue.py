import doctest
import re
from pathlib import Path

import pytest

from repalign.metrics import COMPARATORS, METRICS, RDM_METHODS, Metric, catalogue
from repalign.metrics.catalogue import COLUMNS, card_of, cards_page, metric_cards
from repalign.validity import TRANSFORMATIONS

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_the_page_is_what_the_metrics_say():
    assert PAGE.read_text(encoding="utf-8") == cards_page(), "run python scripts/metric_cards.py"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_states_what_it_is(name):
    metric = METRICS[name]()
    card = card_of(metric)
    assert isinstance(metric, Metric)
    assert card["metric"] == name
    assert all(card[column] not in ("", None) for column in COLUMNS if column != "invariances")
    assert set(metric.invariances) <= set(TRANSFORMATIONS)
    assert metric.range[0] < metric.range[1]
    assert re.search(r"\d{4}.*https://(doi\.org/10|hdl\.handle\.net)", metric.reference)


def test_the_page_names_every_method_and_comparator():
    page = cards_page()
    assert [name for name in (*RDM_METHODS, *COMPARATORS) if f"| `{name}` |" not in page] == []
    assert [card["metric"] for card in metric_cards()] == sorted(METRICS)


def test_examples_run():
    assert doctest.testmod(catalogue).failed == 0

import doctest
import re
from pathlib import Path

import pytest

from repalign.cli import main
from repalign.metrics import COMPARATORS, METRICS, RDM_METHODS, Metric, catalogue
from repalign.metrics.catalogue import COLUMNS, card_of, cards_page, metric_cards
from repalign.regularize import ALIGNMENT_LOSSES
from repalign.regularize.loss_cards import loss_card, loss_cards_page
from repalign.validity import TRANSFORMATIONS

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def test_the_page_is_what_the_metrics_say():
    page = f"{cards_page()}\n{loss_cards_page()}"
    assert PAGE.read_text(encoding="utf-8") == page, "run python scripts/metric_cards.py"


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


def test_every_alignment_loss_has_a_card_that_the_command_line_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ALIGNMENT_LOSSES:
        card = loss_card(name)
        assert all(card[key] for key in ("formula", "needs", "reference")), name
    monkeypatch.setattr("sys.argv", ["repalign", "metrics", "log-cka:eps=1e-3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "formula: log(1 − v + 0.001), v = HSIC(K, L)" in capsys.readouterr().out

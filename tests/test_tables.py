"""What the terminal calls a metric."""

from dataclasses import asdict

from repalign.metrics import RSA, Ridge
from repalign.tables import _labels


def rows(*metrics) -> list[dict]:
    return [{"metric": one.name, "metric_parameters": asdict(one)} for one in metrics]


def test_usual_parameters_are_not_said():
    assert _labels(rows(RSA(), Ridge())) == ["rsa", "ridge"]


def test_unusual_ones_are_and_where_two_differ_both_are():
    assert _labels(rows(RSA(comparator="tau-a"))) == ["rsa: comparator=tau-a"]
    both = _labels(rows(RSA(), RSA(rdm="euclidean")))
    assert both == ["rsa: rdm=correlation", "rsa: rdm=euclidean"]


def test_a_metric_of_the_users_own_and_the_words_of_a_result_need_no_default():
    mine = {"metric": "mine", "metric_parameters": {"k": 3, "interval": "bootstrap, 10"}}
    other = {"metric": "mine", "metric_parameters": {"k": 4, "interval": "bootstrap, 20"}}
    assert _labels([mine, other]) == ["mine: k=3", "mine: k=4"]

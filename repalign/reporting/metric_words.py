"""What metrics are called in reports, with the parameters that tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from repalign.metrics import Metric


def _rsa_label(parameters: Mapping[str, Any]) -> str:
    comparator = str(parameters.get("comparator", "spearman")).replace("_", " ")
    names = {"corr": "Pearson", "pearson": "Pearson", "spearman": "Spearman", "bures": "Bures"}
    whitened = {"cosine cov": "whitened cosine", "corr cov": "whitened correlation"}
    comparator = (names | whitened).get(comparator, comparator)
    return f"RSA ({comparator} of {parameters.get('rdm', 'correlation')} RDMs)"


def _cka_label(parameters: Mapping[str, Any]) -> str:
    kernel = {"rbf": "RBF"}.get(str(parameters.get("kernel")), "linear")
    return f"CKA ({kernel}, {'debiased' if parameters.get('debiased', True) else 'biased'})"


def _predictivity_label(name: str) -> Callable[[Mapping[str, Any]], str]:
    scores = {"r2": "R²", "explained_variance": "explained variance"}
    return lambda own: f"{name} (median {scores.get(str(own.get('score')), 'Pearson r')})"


METRIC_LABELS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "rsa": _rsa_label,
    "cka": _cka_label,
    "ridge": _predictivity_label("ridge predictivity"),
    "banded-ridge": _predictivity_label("banded ridge predictivity"),
    "pls": _predictivity_label("PLS predictivity"),
    "single-unit": _predictivity_label("single-unit predictivity"),
    "procrustes": lambda own: f"Procrustes {own.get('kind', 'distance')}",
    "angular-shape": lambda _: "angular shape distance",
    "cca": lambda own: (
        "CCA (mean squared correlation)" if own.get("squared") else "CCA (mean correlation)"
    ),
    "svcca": lambda _: "SVCCA",
    "pwcca": lambda _: "PWCCA",
    "one-to-one": lambda _: "one-to-one matching (correlation)",
    "semi-matching": lambda _: "semi-matching (correlation)",
    "soft-matching": lambda _: "soft matching (correlation)",
    "soft-matching-distance": lambda _: "soft matching distance",
    "mutual-knn": lambda own: f"mutual {own.get('k', 10)} nearest neighbours",
    "cknna": lambda own: f"CKNNA ({own.get('k', 10)} neighbours)",
}
UNITS = {"angular-shape": " radians"}  # of those that have one


def metric_of(name: str, parameters: Mapping[str, Any]) -> Metric | None:
    """Return the metric of that name and parameters; None where it is a user's own."""
    from repalign.metrics import METRICS

    try:
        found: Metric = METRICS[name](**parameters)
    except (KeyError, TypeError, ValueError):
        return None
    return found


def axis_label(name: str, parameters: Mapping[str, Any]) -> str:
    """Return what an axis of a metric's values is called: its name, then range and direction.

    Example:
        >>> print(axis_label("angular-shape", {}))
        angular shape distance
        0 to 1.571 radians, lower is more similar
    """
    make = METRIC_LABELS.get(name)
    label = make(parameters) if make else name.replace("_", " ")
    metric = metric_of(name, parameters)
    if metric is None:
        return label
    low, high = (f"{bound:.4g}".replace("-", "−").replace("inf", "∞") for bound in metric.range)
    side = "higher" if metric.higher_is_more_similar else "lower"
    return f"{label}\n{low} to {high}{UNITS.get(name, '')}, {side} is more similar"

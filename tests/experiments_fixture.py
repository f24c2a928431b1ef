"""Synthetic records of experiments: images of known thresholds, networks of known robustness."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

EPS = (0.0, 0.05, 0.1, 0.15, 0.2)
ATTACKS = (("pgd", "Linf"), ("apgd", "Linf"))

# What each condition multiplies an image's threshold by.
ROBUSTNESS = {
    "baseline": 1.0,
    "aligned": 1.4,
    "row-shuffle": 1.0,
    "gaussian": 0.95,
    "one-hot": 1.38,
    "non-robust-teacher": 1.1,
    "jitter": 1.05,
    "adversarial-training": 2.0,
}
TITLES = {
    "baseline": "Baseline", "aligned": "Aligned to IT", "row-shuffle": "Row shuffle",
    "gaussian": "Gaussian", "one-hot": "One-hot labels", "jitter": "Jitter only",
    "non-robust-teacher": "Non-robust teacher", "adversarial-training": "Adversarial training",
    "other-region": "Other region",
}  # fmt: skip
NO_REGION = "the recording has one region, so there is no other one"


def make_experiment(
    seeds: Sequence[int] = (0, 1, 2),
    conditions: Mapping[str, float] = ROBUSTNESS,
    *,
    failing: Sequence[str] = (),
    inapplicable: Mapping[str, str] | None = None,
    noise: float = 0.02,
    n_images: int = 200,
    attacks: Sequence[tuple[str, str]] = ATTACKS,
    eps: Sequence[float] = EPS,
    random_state: int = 0,
    **changes: Any,
) -> dict[str, Any]:
    """An experiment whose conditions have planted robustness; ``changes`` replaces top entries."""
    random = np.random.default_rng(random_state)
    thresholds = random.gamma(4.0, 0.03, n_images)
    thresholds[random.random(n_images) < 0.04] = -1.0  # wrong without any attack
    not_run = {"other-region": NO_REGION} if inapplicable is None else inapplicable
    runs = [
        make_run(
            name, seed, thresholds * scale * (1 + noise * random.standard_normal()), random,
            passed=name not in failing, attacks=attacks, eps=eps,
        )
        for seed in seeds
        for name, scale in conditions.items()
    ]  # fmt: skip
    experiment: dict[str, Any] = {
        "title": "Digits aligned to a simulated IT",
        "configuration": {
            "task": {"data": "digits"}, "neural": {"layer": "hidden", "weight": 1.0},
            "optimizer": {"name": "SGD", "lr": 0.05},
        },
        "environment": {"repalign": "0.1.0", "torch": "2.6", "seconds": 214.3},
        "citations": ["Dapello et al. (2023). Aligning model and macaque IT."],
        "reference": "labels",
        "trained_on": {
            "layer": "hidden", "metric": "log-cka", "region": "IT", "stimuli": 300,
            "held_out_stimuli": 100, "subjects": ["simulated"],
        },
        "conditions": [
            {
                "name": name, "title": TITLES.get(name, name), "description": f"What {name} is.",
                "lambda": 0.0 if name in ("baseline", "jitter") else 1.0,
                "applicable": name not in not_run, "reason": not_run.get(name, ""),
            }
            for name in [*conditions, *not_run]
        ],
        "runs": runs,
        "dose": make_dose(seeds, random),
        "audit": {
            "outcome": "clear", "passed": True,
            "verdict": "clear: the trained metric (log-cka) rose by 0.300 on trained stimuli, by "
            "0.210 on held-out ones, where 2 of 2 other metrics rose.",
            "reasons": ["Held-out stimuli kept 70 % of the gain."],
            "rules": [{"rule": "stimuli", "says": "Held-out stimuli gain half or more.",
                       "passed": True, "text": "Held-out stimuli kept 70 % of the gain."}],
            "rows": [
                {"metric": "cka", "stimuli": "held out", "condition": "aligned", "change": 0.21,
                 "sd": None},
            ],
        },
        "error_patterns": [{"condition": "aligned", "kind": "i1", "value": 0.4, "corrected": 0.6}],
    }  # fmt: skip
    return experiment | changes


def make_run(
    name: str,
    seed: int,
    thresholds: np.ndarray,
    random: np.random.Generator,
    *,
    passed: bool = True,
    attacks: Sequence[tuple[str, str]] = ATTACKS,
    eps: Sequence[float] = EPS,
) -> dict[str, Any]:
    """One run; each attack after the first finds slightly smaller perturbations."""
    curves, correct = [], {}
    for place, (attack, norm) in enumerate(attacks):
        own = thresholds * 0.97**place * random.uniform(0.95, 1.05, len(thresholds))
        matrix = np.array([own > one for one in eps])
        accuracy = matrix.mean(1)
        area = float(np.trapezoid(accuracy, eps) / (eps[-1] - eps[0]))
        correct[f"{attack} {norm}"] = matrix.tolist()
        curves += [
            {
                "attack": attack, "norm": norm, "eps": one, "accuracy": float(value),
                "ci_low": max(0.0, float(value) - 0.05), "ci_high": min(1.0, float(value) + 0.05),
                "n_images": len(thresholds), "reference": "labels", "upper_bound": one > 0,
                "auc": area, "auc_low": area - 0.03, "auc_high": area + 0.03,
            }
            for one, value in zip(eps, accuracy, strict=True)
        ]  # fmt: skip
    aligned = name not in ("baseline", "jitter", "adversarial-training")
    return {
        "condition": name, "seed": seed, "lambda": float(aligned),
        "clean": float(np.mean(thresholds > 0)) + 0.004 * random.standard_normal(),
        "curves": curves,
        "correct": correct, "corruptions": make_corruptions(thresholds),
        "history": make_history(name, aligned, random), "alignment": make_alignment(name, random),
        "masking": {
            "passed": passed,
            "checks": [
                {"name": "multi-step is no weaker than FGSM", "passed": passed,
                 "detail": "PGD .300, FGSM .310" if passed else "PGD .500, FGSM .310"},
                {"name": "transfer", "passed": None, "detail": "no surrogate given"},
            ],
        },
        "folder": f"runs/{name}-{seed}",
    }  # fmt: skip


def make_corruptions(thresholds: np.ndarray) -> list[dict[str, Any]]:
    """Two corruptions of two categories at five severities."""
    return [
        {
            "corruption": corruption, "category": category, "severity": severity,
            "accuracy": float(np.mean(thresholds > weight * severity)), "ci_low": 0.0,
            "ci_high": 1.0, "n_images": len(thresholds), "reference": "labels",
        }
        for corruption, category, weight in (
            ("gaussian_noise", "noise", 0.02), ("fog", "weather", 0.012),
        )
        for severity in range(1, 6)
    ]  # fmt: skip


def make_history(name: str, aligned: bool, random: np.random.Generator) -> list[dict[str, Any]]:
    """Forty rows of a log; what a condition has not got is None, as JSON writes NaN."""
    return [
        {
            "step": 25 * place, "epoch": place // 10,
            "task_loss": 2.3 * math.exp(-place / (5 + len(name) / 2)) + 0.05 * random.random(),
            "align_loss": -0.2 - 0.001 * len(name) * place if aligned else None, "label_loss": None,
            "lambda": float(aligned), "val_task": 0.97 - 0.8 * math.exp(-place / 6),
            "val_alignment": 0.3 + (0.01 * place if aligned else 0.0), "lr": 0.05,
        }
        for place in range(40)
    ]  # fmt: skip


def make_alignment(name: str, random: np.random.Generator) -> list[dict[str, Any]]:
    """The trained metric and two others, trained and held-out stimuli, two subjects."""
    gain = {"aligned": 0.3, "one-hot": 0.2, "non-robust-teacher": 0.15}.get(name, 0.0)
    return [
        {
            "layer": "hidden", "metric": metric, "region": "IT", "subject": subject,
            "stimuli": stimuli, "neuroids": "trained" if subject == "A" else "held out",
            "trained_metric": metric == "log-cka",
            "value": level + gain * share * kept + 0.01 * random.standard_normal(),
            "ceiling": level + 0.4, "n_stimuli": 300, "n_neuroids": 80,
        }
        for metric, level, share in (
            ("log-cka", 0.35, 1.0), ("debiased-cka", 0.3, 0.9), ("rsa", 0.25, 0.5),
        )
        for subject in ("A", "B")
        for stimuli, kept in (("trained", 1.0), ("held out", 0.7))
    ]  # fmt: skip


def make_dose(seeds: Sequence[int], random: np.random.Generator) -> list[dict[str, Any]]:
    """Robustness that rises with λ at a clean accuracy that varies freely."""
    return [
        {
            "condition": "baseline" if dose == 0 else "aligned", "lambda": dose, "seed": seed,
            "clean": 0.95 + 0.01 * random.standard_normal(),
            "auc": 0.4 + 0.08 * dose + 0.01 * random.standard_normal(),
            "alignment": 0.3 + 0.1 * dose,
        }
        for seed in seeds
        for dose in (0.0, 0.5, 1.0, 2.0)
    ]  # fmt: skip

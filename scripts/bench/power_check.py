"""Predicted power beside the rejection rate in fresh simulations that know nothing of the tool.

python scripts/bench/power_check.py [--small] [--coverage] [--write]

The truth is a population of units that mix latent features of stimuli; its RDMs are computed from
responses. A pilot is drawn from it, power is predicted from that pilot alone, and data sets of each
design are then drawn from the truth, with new stimuli, and tested. With --coverage pilots are small
and many, and it is counted how often the interval of the power holds the rate in fresh data.
--write puts the table into docs/power.md.
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from repalign.designs import power
from repalign.designs.simulated_designs import TESTS
from repalign.metrics import rdm
from repalign.robustness.intervals import wilson

SMALL = "--small" in sys.argv
SIMULATIONS = 100 if SMALL else 1000
RESAMPLES = 200
LATENT, UNITS, VOXELS = 15, 60, 30
PILOT = (600, 30, 2)  # stimuli, subjects, sessions: large, so that its own error is small
DESIGNS = [(16, 8, 1), (16, 16, 1), (40, 8, 1), (40, 16, 1), (16, 8, 3), (40, 16, 3)]
NOISE = 1.2
PAGE = Path(__file__).parents[2] / "docs" / "power.md"
COVERAGE = "--coverage" in sys.argv
SMALL_PILOTS = [(60, 10, 2), (300, 20, 1)]
DESIGN = (40, 16, 1)
SIMULATED = 100  # data sets a pilot
PILOTS = 5 if SMALL else 40


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


class Truth:
    """Two layers that read out some of the same features, and brains nearer to the first."""

    def __init__(self, kind: str) -> None:
        draw = torch.Generator().manual_seed(7)
        self.kind = kind
        self.centres = 1.5 * normal(draw, 6, LATENT)
        self.first, self.second = normal(draw, 2, LATENT, UNITS) / LATENT**0.5
        strong = torch.linspace(1.5, 0.3, LATENT, dtype=torch.float64)
        self.first, self.second = (
            strong[:, None] * self.first,
            strong.flip(0)[:, None] * self.second,
        )
        self.brain = 0.6 * strong + 0.4 * strong.flip(0)

    def stimuli(self, n: int, draw: torch.Generator) -> Tensor:
        z = normal(draw, n, LATENT)
        if self.kind == "categories":
            z = z + self.centres[torch.randint(6, (n,), generator=draw)]
        return z

    def layers(self, z: Tensor) -> Tensor:
        return torch.stack([rdm((z @ w), method="euclidean") for w in (self.first, self.second)])

    def subjects(self, z: Tensor, n: int, sessions: int, draw: torch.Generator) -> Tensor:
        found = []
        for _ in range(n):
            signal = (z * self.brain) @ normal(draw, LATENT, VOXELS) / LATENT**0.5
            noisy = signal + NOISE * normal(draw, sessions, len(z), VOXELS)
            found.append(torch.stack([rdm(one, method="euclidean") for one in noisy]))
        return torch.stack(found)

    def data(self, n: int, n_subjects: int, repetitions: int, seed: int) -> tuple[Tensor, Tensor]:
        """Return layers' and subjects' RDMs; the responses of all repetitions are averaged."""
        draw = torch.Generator().manual_seed(seed)
        z = self.stimuli(n, draw)
        found = []
        for _ in range(n_subjects):
            signal = (z * self.brain) @ normal(draw, LATENT, VOXELS) / LATENT**0.5
            noise = NOISE * normal(draw, repetitions, n, VOXELS).mean(0)
            found.append(rdm(signal + noise, method="euclidean"))
        return self.layers(z), torch.stack(found)

    def pilot(self, size: tuple[int, int, int], seed: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(10_000 + seed)
        z = self.stimuli(size[0], draw)
        return self.layers(z), self.subjects(z, *size[1:], draw)


def rejection_rate(truth: Truth, test: str, design: tuple[int, int, int], n: int) -> float:
    """Return how often fresh data sets of the design are significant at .05."""
    hits = 0
    for seed in range(n):
        layers, subjects = truth.data(*design, seed=50_000 + seed)
        hits += TESTS[test][1](layers, subjects, "corr", RESAMPLES, seed)[1] <= 0.05
    return hits / n


def predicted(
    truth: Truth, test: str, pilot: tuple[int, int, int], seed: int, n: int
) -> list[float]:
    """Return the power of all designs, from one pilot."""
    layers, rdms = truth.pilot(pilot, seed)
    return [
        power(
            rdms, layers, n_stimuli=[d[0]], n_subjects=[d[1]], repetitions=[d[2]], test=test,
            n_simulations=n, n_resamples=RESAMPLES,
        ).designs[0].power
        for d in DESIGNS
    ]  # fmt: skip


def covered(truth: Truth, test: str, pilot: tuple[int, int, int], rate: float) -> str:
    """Return cells: intervals that hold the rate, simulations' own that do, width, and errors."""
    n, subjects, sessions = DESIGN
    hits = alone = 0
    widths, errors = [], []
    for seed in range(PILOTS):
        layers, rdms = truth.pilot(pilot, seed)
        given = {"n_stimuli": [n], "n_subjects": [subjects], "repetitions": [sessions]}
        found = power(
            rdms, layers, **given, test=test, n_simulations=SIMULATED, n_resamples=100, seed=seed
        ).designs[0]
        low, high = wilson(round(SIMULATED * found.power), SIMULATED)
        hits += found.low <= rate <= found.high
        alone += low <= rate <= high
        widths.append(found.high - found.low)
        errors.append(found.power - rate)
    mean, spread = sum(errors) / PILOTS, (sum(e**2 for e in errors) / PILOTS) ** 0.5
    return (
        f"{hits / PILOTS:.2f} | {alone / PILOTS:.2f} | {sum(widths) / PILOTS:.2f} | {mean:+.2f} |"
        f" {spread:.2f}"
    )


def coverage() -> tuple[list[str], str]:
    """Return a table of how often intervals hold the rate in fresh data, and a sentence."""
    design = " × ".join(map(str, DESIGN))
    lines = [
        f"| test | pilot (stimuli × subjects × sessions) | fresh data, {design} | intervals that"
        " hold it | without the pilot's part | mean width | mean error | root mean square error |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines))
    truth = Truth("Gaussian")
    for test in ("subjects", "two-factor"):
        rate = rejection_rate(truth, test, DESIGN, SIMULATIONS)
        for pilot in SMALL_PILOTS:
            size = " × ".join(map(str, pilot))
            lines.append(f"| {test} | {size} | {rate:.2f} | {covered(truth, test, pilot, rate)} |")
            print(lines[-1], flush=True)
    error = (0.05 * 0.95 / PILOTS) ** 0.5
    said = (
        f"{PILOTS} pilots a row, so that a coverage of .95 has a standard error of {error:.2f};"
        f" rates in fresh data are of {SIMULATIONS} data sets."
    )
    return lines, said


def main() -> None:
    begin = time.perf_counter()
    lines, said = coverage() if COVERAGE else comparison()
    print(f"\n{said} {time.perf_counter() - begin:.0f} s")
    if "--write" in sys.argv:
        name = "power_coverage" if COVERAGE else "power_check"
        first, last = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
        text = PAGE.read_text(encoding="utf-8")
        head, rest = text.split(first)
        table = "\n".join([first, "", *lines, "", said, ""])
        PAGE.write_text(head + table + last + rest.split(last)[1], encoding="utf-8")


def comparison() -> tuple[list[str], str]:
    """Return the table of predictions beside fresh data, and how far they are apart."""
    lines = [
        "| stimuli | test | design (stimuli × subjects × sessions) | fresh data | predicted, "
        f"pilot of {' × '.join(map(str, PILOT))} | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines))
    worst = 0.0
    for kind in ("Gaussian", "categories"):
        truth = Truth(kind)
        for test in ("subjects", "two-factor"):
            found = predicted(truth, test, PILOT, 0, SIMULATIONS)
            for design, value in zip(DESIGNS, found, strict=True):
                rate = rejection_rate(truth, test, design, SIMULATIONS)
                worst = max(worst, abs(value - rate))
                name = " × ".join(map(str, design))
                lines.append(
                    f"| {kind} | {test} | {name} | {rate:.2f} | {value:.2f} | {value - rate:+.2f} |"
                )
                print(lines[-1], flush=True)
    said = (
        f"Largest difference {worst:.2f}, with {SIMULATIONS} data sets on either side, whose"
        f" difference has a standard error of up to {(0.5 / SIMULATIONS) ** 0.5:.3f}."
    )
    return lines, said


if __name__ == "__main__":
    main()

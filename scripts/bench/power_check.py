"""Predicted power beside the rejection rate in fresh simulations that know nothing of the tool.

python scripts/bench/power_check.py [--small] [--write]

The truth is a population of units that mix latent features of stimuli; its RDMs are computed from
responses. A pilot is drawn from it, power is predicted from that pilot alone, and data sets of each
design are then drawn from the truth, with new stimuli, and tested. --write puts the table into
docs/power.md.
"""

import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from repalign.designs import power
from repalign.designs.simulated_designs import TESTS
from repalign.metrics import rdm

SMALL = "--small" in sys.argv
SIMULATIONS = 100 if SMALL else 1000
RESAMPLES = 200
LATENT, UNITS, VOXELS = 15, 60, 30
PILOT = (600, 30, 2)  # stimuli, subjects, sessions: large, so that its own error is small
DESIGNS = [(16, 8, 1), (16, 16, 1), (40, 8, 1), (40, 16, 1), (16, 8, 3), (40, 16, 3)]
NOISE = 1.2
PAGE = Path(__file__).parents[2] / "docs" / "power.md"
BEGIN, END = "<!-- begin: power_check -->", "<!-- end: power_check -->"


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


def main() -> None:
    lines = [
        "| stimuli | test | design (stimuli × subjects × sessions) | fresh data | predicted, "
        f"pilot of {' × '.join(map(str, PILOT))} | difference |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines))
    worst, begin = 0.0, time.perf_counter()
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
    print(f"\n{said} {time.perf_counter() - begin:.0f} s")
    if "--write" in sys.argv:
        text = PAGE.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        table = "\n".join([BEGIN, "", *lines, "", said, ""])
        PAGE.write_text(head + table + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main()

"""A model's accuracy under common corruptions, and its error relative to a baseline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repalign.robustness.corruptions import CORRUPTIONS, SEVERITIES, Corruption, check_severity
from repalign.robustness.intervals import wilson
from repalign.robustness.perturbations import Model
from repalign.robustness.predictions import (
    LABELS,
    OWN,
    Array,
    as_batches,
    as_model,
    count_batches,
    derived_seed,
    evaluating,
    logits_of,
    reference_and_correct,
    tracked,
)

if TYPE_CHECKING:
    from repalign.networks import Network

Cell = tuple[Corruption, int]


@dataclass(frozen=True, kw_only=True)
class CorruptionTable:
    """Accuracy by corruption and severity.

    Args:
        entries: one dict a corruption and severity: corruption, category, severity, accuracy,
            ci_low, ci_high (Wilson, over images), n_images, reference.
        clean: accuracy without corruption, on the same images.
        excluded: corruptions that these images cannot have, with the reason.
        seed: seed of the draws.
    """

    entries: tuple[dict[str, Any], ...]
    clean: float
    excluded: dict[str, str]
    seed: int

    def __str__(self) -> str:
        """Return a line a corruption, its accuracy by severity."""
        lines = [f"clean {self.clean:.3f}, mean over corruptions {self.mean_accuracy:.3f}"]
        for name in dict.fromkeys(entry["corruption"] for entry in self.entries):
            rows = [entry for entry in self.entries if entry["corruption"] == name]
            found = "  ".join(f"{row['severity']}: {row['accuracy']:.3f}" for row in rows)
            lines.append(f"{name:20} {found}")
        lines += [f"{name:20} left out: {reason}" for name, reason in self.excluded.items()]
        return "\n".join(lines)

    def rows(self) -> list[dict[str, Any]]:
        """Return the entries as rows of a table."""
        return [dict(entry) for entry in self.entries]

    @property
    def mean_accuracy(self) -> float:
        """The mean over corruptions and severities."""
        return float(np.mean([entry["accuracy"] for entry in self.entries]))

    def relative_error(self, baseline: CorruptionTable) -> float:
        """Return the mean corruption error relative to a baseline, 1 for the baseline itself.

        The mean over corruptions of Σ_severity error / Σ_severity error of the baseline. It is
        *not* normalised by AlexNet, as the published mCE on ImageNet-C is: figures of other
        papers are not comparable. NaN where the baseline makes no error under some corruption.

        Raises:
            ValueError: tables of other corruptions, severities, images or reference.
        """
        if self._design() != baseline._design():
            raise ValueError(
                "the two tables differ in corruptions, severities, number of images, reference or "
                "seed; they must be the same. Compute both with the same arguments."
            )
        own, other = self._errors(), baseline._errors()
        ratios = [own[name] / other[name] if other[name] else np.nan for name in own]
        return float(np.mean(ratios))

    def _design(self) -> set[tuple[Any, ...]]:
        keys = ("corruption", "severity", "n_images", "reference")
        return {(self.seed, *(entry[key] for key in keys)) for entry in self.entries}

    def _errors(self) -> Counter[str]:
        errors: Counter[str] = Counter()
        for entry in self.entries:
            # counts, so that no error is exactly none
            right = round(entry["accuracy"] * entry["n_images"])
            errors[entry["corruption"]] += entry["n_images"] - right
        return errors


def corruption_table(
    model: Model | Network,
    images: Array | Iterable[Any],
    labels: Array | None = None,
    *,
    corruptions: Sequence[str | Corruption] | None = None,
    severities: Sequence[int] = SEVERITIES,
    batch_size: int = 128,
    device: str | torch.device = "auto",
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool = True,
) -> CorruptionTable:
    """Return a model's accuracy under each corruption and severity.

    All severities of a corruption share their random draws, so that they can be compared.

    Args:
        model: from images (image, channel, height, width) in 0 … 1 to logits (image, class), or a
            `repalign.networks.Network`.
        images, labels: as in `repalign.robustness.predictions.as_batches`; without labels the
            table holds the agreement with the model's own clean prediction.
        corruptions: names in ``CORRUPTIONS`` or corruptions; None: all that the images can have
            (those of colour are left out for grey ones, and listed as excluded).
        severities: some of 1 to 5.
        batch_size: images at a time.
        device: where to compute: ``auto``, ``cuda``, ``mps``, ``cpu``.
        seed: seed of the draws.
        confidence: share within the intervals.
        progress: show a progress bar on stderr.

    Raises:
        ValueError: unknown corruptions or severities, or images, labels or logits that do not fit.

    Example:
        >>> def model(images):
        ...     return torch.stack([images.mean((1, 2, 3)), torch.full((len(images),), 0.5)], 1)
        >>> table = corruption_table(model, torch.rand(8, 1, 8, 8), corruptions=["contrast"],
        ...                          device="cpu", progress=False)
        >>> len(table.rows()), table.rows()[0]["reference"]
        (5, 'own clean prediction')
    """
    cells = _cells(corruptions, severities)
    function = as_model(model)
    total = count_batches(images, batch_size)
    steps = as_batches(images, labels, batch_size=batch_size)
    right: Counter[Cell] = Counter()
    excluded: dict[str, str] = {}
    n_images = n_clean = 0
    references = set()
    with evaluating(function, device=device, seed=seed) as where:
        for number, (pixels, classes) in enumerate(
            tracked(steps, total, "corruptions", show=progress)
        ):
            pixels = pixels.to(where)
            if corruptions is None and pixels.shape[1] != 3:
                excluded |= {c.name: _GREY for c, _ in cells if c.colour_only}
                cells = [cell for cell in cells if not cell[0].colour_only]
            expected, correct = reference_and_correct(function, pixels, classes)
            references.add(OWN if classes is None else LABELS)
            n_images, n_clean = n_images + len(pixels), n_clean + int(correct.sum())
            for corruption, severity in cells:
                own_seed = derived_seed(seed, number, *corruption.name.encode())
                generator = torch.Generator().manual_seed(own_seed)
                changed = corruption(pixels, severity, generator=generator)
                found = logits_of(function, changed).argmax(1)
                right[corruption, severity] += int((found == expected).sum())
    if len(references) > 1:
        raise ValueError("some batches have labels and some have none; give all of them labels.")
    entries = tuple(
        _entry(cell, right[cell], n_images, references.copy().pop(), confidence) for cell in cells
    )
    return CorruptionTable(entries=entries, clean=n_clean / n_images, excluded=excluded, seed=seed)


_GREY = "it changes colours, and these images have none"


def _entry(
    cell: Cell, n_right: int, n_images: int, reference: str, confidence: float
) -> dict[str, Any]:
    corruption, severity = cell
    low, high = wilson(n_right, n_images, confidence=confidence)
    return {
        "corruption": corruption.name,
        "category": corruption.category,
        "severity": severity,
        "accuracy": n_right / n_images,
        "ci_low": low,
        "ci_high": high,
        "n_images": n_images,
        "reference": reference,
    }


def _cells(corruptions: Sequence[str | Corruption] | None, severities: Sequence[int]) -> list[Cell]:
    if isinstance(corruptions, str):
        raise TypeError(f"corruptions is {corruptions!r}; expected a list of names.")
    chosen = []
    for corruption in CORRUPTIONS if corruptions is None else corruptions:
        if isinstance(corruption, str):
            if corruption not in CORRUPTIONS:
                raise ValueError(
                    f"{corruption!r} is no corruption; choose some of {', '.join(CORRUPTIONS)}."
                )
            corruption = CORRUPTIONS[corruption]
        chosen.append(corruption)
    names = [corruption.name for corruption in chosen]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"corruptions are {names}; expected one or more, each once.")
    if not severities or len(set(severities)) < len(severities):
        raise ValueError(f"severities are {list(severities)}; expected one or more, each once.")
    for severity in severities:
        check_severity(severity)
    return [(corruption, severity) for corruption in chosen for severity in severities]

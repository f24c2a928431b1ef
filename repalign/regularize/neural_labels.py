"""Labels of the neural stimuli: extra logits beside the network's own, and their cross-entropy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from repalign.recording import PRESENTATION, STIMULUS
from repalign.regularize.alignment_terms import UndefinedLossError
from repalign.regularize.neural_batches import NeuralBatch, NeuralBatches
from repalign.regularize.neural_pass import PassOutput, Probe

Labels = str | Sequence[Any] | np.ndarray[Any, Any] | Tensor


class AlignmentAndLabels(NamedTuple):
    """The two losses of a neural batch: alignment, times its scheduled weight, and labels."""

    alignment: Float[Tensor, ""]
    labels: Float[Tensor, ""]


class NeuralLabels(nn.Module):
    """Categories of the neural stimuli, as extra classes beside the task's.

    ``CE([network's logits, W f + b], n_task + class)``, f the input of the network's last linear
    layer.

    Args:
        labels: a column of the recording or of its stimuli, or one label an image.
        batches: the stimuli.
        probe: what is known of the network.
        n_classes: labels are numbers below it; None: the classes are those that occur.
        seed: of the head's weights; torch's global random numbers are not touched.

    Attributes:
        layer: the network's last linear layer.
        names: the classes, in the order of the extra logits.
        head: W and b.

    Raises:
        ValueError: labels that are missing or out of range, or a network whose output does not
            come from a linear layer.

    Reference:
        Dapello et al. 2023, ICLR (no DOI), https://openreview.net/forum?id=SMYdcXjJh1q
    """

    def __init__(
        self,
        labels: Labels,
        batches: NeuralBatches,
        probe: Probe,
        *,
        n_classes: int | None = None,
        seed: int = 0,
    ) -> None:
        """Draw the weights as torch draws those of a linear layer."""
        super().__init__()
        if probe.head is None:
            raise ValueError(
                "labels of the neural stimuli need a network whose output comes from an nn.Linear, "
                "beside which extra logits can stand; this one's does not. Leave labels out."
            )
        by_stimulus = labels_by_stimulus(labels, batches)
        self.codes, self.names = encode_labels(by_stimulus, batches.shared, n_classes=n_classes)
        self.layer = probe.head
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.head = nn.Linear(probe.features, len(self.names), device="cpu")

    def forward(self, found: PassOutput, batch: NeuralBatch) -> Float[Tensor, ""]:
        """Return the cross-entropy over the network's logits and the extra ones.

        Raises:
            ValueError: a batch that does not know its stimuli.
            UndefinedLossError: logits that are not finite (a ValueError).
        """
        if found.features is None or found.output is None or len(batch.rows) == 0:
            raise ValueError("labels need a batch of align.batches, which knows its stimuli.")
        extra = self.head(found.features.to(self.head.weight.dtype))
        logits = torch.cat([found.output.float(), extra.float()], dim=1)
        labels = self.codes[torch.from_numpy(batch.rows)].to(logits.device)
        loss = functional.cross_entropy(logits, labels + found.output.shape[1])
        if not bool(loss.isfinite()):
            raise UndefinedLossError(
                "labels",
                loss.item(),
                f"the label loss is {loss.item()}: the network's logits are not finite. Lower the "
                "learning rate, and go on from the last good checkpoint.",
            )
        return loss


def labels_by_stimulus(labels: Labels, batches: NeuralBatches) -> dict[str, Any]:
    """Return each shared stimulus' label.

    Args:
        labels: a column of the recording or of its stimuli, or one label an image in their order.
        batches: the stimuli.

    Raises:
        ValueError: no such column, or another number of labels than images.
    """
    if not isinstance(labels, str):
        values = labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)
        if len(values) != len(batches.base):
            raise ValueError(
                f"{len(values)} labels for {len(batches.base)} images; expected one a stimulus, in "
                "the order of the images."
            )
        return dict(zip(batches.base, values, strict=True))
    known: list[str] = []
    for ds in batches.recordings.values():
        known += [str(name) for name in ds.coords if ds[name].dims == (PRESENTATION,)]
        if labels in ds.coords and ds[labels].dims == (PRESENTATION,):
            pairs = zip(ds[STIMULUS].values, ds[labels].values.tolist(), strict=True)
            return {str(name): label for name, label in pairs}
    table = batches.stimuli.table if batches.stimuli is not None else {}
    if labels in table:
        return dict(zip(batches.base, table[labels].tolist(), strict=True))
    raise ValueError(
        f"no column {labels!r} of the stimuli; there are {', '.join({*known, *table})}. Pass one "
        "label a stimulus, or leave labels out."
    )


def encode_labels(
    by_stimulus: Mapping[str, Any], ids: Sequence[str], *, n_classes: int | None = None
) -> tuple[Int[Tensor, "stimulus"], tuple[Any, ...]]:
    """Return the class of each stimulus as a number, and the classes in their order.

    Args:
        by_stimulus: label of each stimulus: words, or whole numbers.
        ids: the stimuli wanted.
        n_classes: labels are numbers from 0 to one less; None: the classes are those that occur.

    Raises:
        ValueError: missing labels (None, NaN, an empty word, a negative number), or numbers out of
            range.
    """
    values: list[Any] = [by_stimulus.get(name) for name in ids]
    missing = [name for name, value in zip(ids, values, strict=True) if _is_missing(value)]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(ids)} stimuli have no label (first {missing[0]!r}: "
            f"{by_stimulus.get(missing[0])!r}). Leave these stimuli out, or the labels."
        )
    if n_classes is None:
        classes = tuple(sorted(set(values), key=lambda value: (isinstance(value, str), value)))
        place = {value: index for index, value in enumerate(classes)}
        return torch.tensor([place[value] for value in values]), classes
    wrong = [
        (name, value)
        for name, value in zip(ids, values, strict=True)
        if isinstance(value, str) or value not in range(n_classes)
    ]
    if wrong:
        name, value = wrong[0]
        raise ValueError(
            f"{len(wrong)} labels are out of range (first {value!r}, of {name!r}); expected whole "
            f"numbers from 0 to {n_classes - 1}."
        )
    return torch.tensor([int(value) for value in values]), tuple(range(n_classes))


def _is_missing(value: Any) -> bool:
    if value is None or value == "":
        return True
    return not isinstance(value, str) and (value != value or value < 0)

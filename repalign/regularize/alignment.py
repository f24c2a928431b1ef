"""The alignment loss: a layer of a network is drawn toward a population's responses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from repalign.metrics.calls import Device
from repalign.network_cards import Preprocessing
from repalign.networks import Network
from repalign.regularize.alignment_rows import ceiling_of, pairs_over_stimuli, row_of_term
from repalign.regularize.alignment_terms import (
    AlignmentTerm,
    AnyMetric,
    BoundTerm,
    bind_terms,
    chosen_terms,
    distinct_targets,
    readouts_of,
    warn_of_weakness,
)
from repalign.regularize.batch_statistics import BatchStatistics
from repalign.regularize.neural_batches import NeuralBatch, NeuralBatches, as_batch
from repalign.regularize.neural_labels import AlignmentAndLabels, Labels, NeuralLabels
from repalign.regularize.neural_pass import (
    PassOutput,
    as_parameters,
    evaluation_mode,
    exact_layer,
    home_of,
    isolated_random,
    probe_network,
    run_layers,
)
from repalign.regularize.neural_sources import Target
from repalign.regularize.objectives import as_objective
from repalign.regularize.schedules import Schedule
from repalign.stimuli import Stimuli


class AlignmentLoss(nn.Module):
    """How unlike a population's responses a network's layers are, as a loss to train on.

    ``schedule.weight(step) · Σ weight · loss(layer(images), responses)`` over the terms, on the
    next batch of neural images. Each call runs the network on that batch and moves on one step.

    The network is no submodule: ``parameters()`` and ``state_dict()`` hold trainable read-outs,
    batch statistics and the place in the stream. To train read-outs too, optimise
    ``[*model.parameters(), *align.readout_parameters()]``.

    Args:
        model: the network, or a `repalign.Network`, whose preprocessing and degrees of visual
            angle are then used.
        layer: exact name of the module that is drawn to ``target``.
        target: a recording, or an array whose rows are the images. Repetitions are averaged.
        metric: a differentiable metric, an objective, or a name such as ``"rsa:rdm=euclidean"``.
        terms: several layers, targets or metrics, instead of ``layer``, ``target`` and ``metric``;
            one forward pass serves all, on the stimuli that all targets share.
        images: `Stimuli`, or a tensor that the network takes as it is; None: the images that the
            first recording was ingested with. The rows of a tensor beside a recording are its
            stimuli in order of first presentation.
        preprocessing: from stimuli to the network's input, in place of a `Network`'s.
        stimulus_ids: the stimuli to train on (``"row 0"``, … of plain arrays); all by default.
        batch_size: neural stimuli a step; all of them where there are fewer.
        schedule: warm-up, ramp and mixing.
        batchnorm: what batch normalisation does with neural images: ``separate`` running
            statistics (the task's stay untouched), ``shared`` or ``frozen`` ones.
        labels: for `forward_terms`: a column of the recording or stimuli, or one label an image.
        label_classes: labels are numbers below it; None: the classes that occur.
        seed: of the order of stimuli, of dropout in the neural pass, and of the label head.
        device: of a network without parameters; else the parameters' device.
        prefetch: read the next batch in a thread.

    Attributes:
        last: each term's loss in the last step, by name, before weights; empty if it was skipped.
        last_weight: the schedule's weight of the last step.
        step: steps taken.
        batches: the `NeuralBatches`; ``batches.ids`` are the stimuli trained on.
        n_shared: stimuli that images and targets share.

    Raises:
        ValueError: an unknown layer, a metric without gradients, a batch smaller than it needs,
            images and targets that do not match, responses that are partly NaN, labels that are
            missing or out of range, or, while training, a loss that is not finite.

    Note:
        Where a target has time bins, a layer that runs once is compared with every bin and the mean
        taken; a layer that runs as often as there are bins (recurrent) is matched bin by bin; other
        numbers raise. Without time bins a layer that runs several times gives its last output.

        Torch's global random numbers are never used or changed, and with ``batchnorm="separate"``
        or ``"frozen"`` neither are the network's buffers: training with ``0.0 * align()`` equals
        training without, bit by bit. Layers above the last one needed are not computed. While the
        schedule's weight is 0 nothing is.

        Images come in the precision of the network's parameters; responses are compared in float64,
        also within autocast. Pass the bare module, not one wrapped by compile or for many GPUs.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> draw = torch.Generator().manual_seed(0)
        >>> images, responses = (torch.randn(40, n, generator=draw) for n in (12, 5))
        >>> align = AlignmentLoss(model, "2", responses, images=images, metric="debiased-cka")
        >>> loss = torch.zeros(()) + 0.5 * align()
        >>> loss.backward()
        >>> model[1].weight.grad.abs().sum() > 0
        tensor(True)

    Reference:
        Dapello et al. 2023, ICLR (no DOI), https://openreview.net/forum?id=SMYdcXjJh1q
    """

    def __init__(
        self,
        model: nn.Module | Network,
        layer: str | None = None,
        target: Target | None = None,
        *,
        metric: AnyMetric | None = None,
        terms: Sequence[AlignmentTerm] | None = None,
        images: Tensor | Stimuli | None = None,
        preprocessing: Preprocessing | None = None,
        stimulus_ids: Sequence[str] | None = None,
        batch_size: int = 128,
        schedule: Schedule | None = None,
        batchnorm: str = "separate",
        labels: Labels | None = None,
        label_classes: int | None = None,
        seed: int = 0,
        device: Device = None,
        prefetch: bool = True,
    ) -> None:
        """Match stimuli, look at the network once, and make the read-outs."""
        super().__init__()
        module = model.module if isinstance(model, Network) else model
        self._model = (module,)  # in a tuple, so that it is not registered
        self.schedule, self.seed = schedule or Schedule(), seed
        self._home = home_of(module, device)
        chosen = chosen_terms(layer, target, metric, terms)
        objectives = [as_objective(term.metric) for term in chosen]
        layers = [exact_layer(module, term.layer) for term in chosen]
        sources, source_of = distinct_targets(chosen)
        if isinstance(model, Network) and not isinstance(images, Tensor):
            preprocessing = preprocessing or model.preprocessing
        self.batches = NeuralBatches(
            sources,
            images=images,
            preprocessing=preprocessing,
            batch_size=batch_size,
            seed=seed,
            stimulus_ids=stimulus_ids,
            minimum=max(getattr(one, "minimum_stimuli", 2) for one in objectives),
            prefetch=prefetch,
            field_degrees=model.visual_degrees if isinstance(model, Network) else None,
            pin_memory=self.device.type == "cuda",
        )
        self.n_shared = self.batches.n_shared
        self.statistics = BatchStatistics(module, batchnorm)
        two = self.batches.read(self.batches.shared[:2]).images
        two = as_parameters(two, module, device=self.device)
        probe = probe_network(module, two, list(dict.fromkeys(layers)))
        self._calls = probe.calls
        self.terms = bind_terms(chosen, layers, source_of, self.batches, probe)
        self.readouts = readouts_of(self.terms)
        self.labels: NeuralLabels | None = None
        if labels is not None:
            self.labels = NeuralLabels(
                labels, self.batches, probe, n_classes=label_classes, seed=seed
            )
        elif label_classes is not None:
            raise ValueError("label_classes applies to labels; leave it out, or pass labels.")
        self.to(self.device)
        self.step, self.last_weight = 0, 0.0
        self.last: dict[str, Tensor] = {}
        self._ceilings: dict[tuple[str, tuple[str, ...]], float | None] = {}
        self._unwarned = {term.name for term in self.terms}

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((p.device for p in self._model[0].parameters()), self._home)

    def readout_parameters(self) -> list[nn.Parameter]:
        """Return what is trained beside the network: read-outs, and the head of the labels."""
        return list(self.parameters())

    def _run(self, images: Tensor, *, stop: bool) -> PassOutput:
        return run_layers(
            self._model[0],
            as_parameters(images, self._model[0], device=self.device),
            list(self._calls),
            every_call=[term.layer for term in self.terms if term.bins is not None],
            stop_after=self._calls if stop else None,
            features_of=self.labels.layer if self.labels is not None and not stop else None,
        )

    def forward(
        self, batch: NeuralBatch | tuple[Tensor, Tensor] | None = None
    ) -> Float[Tensor, ""]:
        """Return the alignment loss of a neural batch, the next one by default; one step.

        Args:
            batch: images and responses; of several targets a `NeuralBatch`.

        Raises:
            ValueError: a loss that is not finite, or a batch that does not fit.
            RuntimeError: the loss has labels, which `forward_terms` gives.
        """
        if self.labels is not None:
            raise RuntimeError("labels= were given: call align.forward_terms() for both losses.")
        return self.forward_terms(batch).alignment

    def forward_terms(
        self, batch: NeuralBatch | tuple[Tensor, Tensor] | None = None
    ) -> AlignmentAndLabels:
        """Return the alignment loss and the labels' of one neural batch; one step.

        The labels' is the cross-entropy over the network's and the extra logits (0 without
        labels). The schedule weighs and skips the alignment only.
        """
        step, self.step = self.step, self.step + 1
        weight, self.last = self.schedule.weight(step), {}
        self.last_weight = weight
        zero = torch.zeros((), device=self.device, requires_grad=torch.is_grad_enabled())
        if weight == 0 and self.labels is None:
            return AlignmentAndLabels(zero, zero)
        batch = next(self.batches) if batch is None else as_batch(batch)
        with isolated_random(self.device, self.seed, step), self.statistics.applied():
            found = self._run(batch.images, stop=self.labels is None)
        alignment = self._align(found, batch) * weight if weight else zero
        labels = zero if self.labels is None else self.labels(found, batch)
        return AlignmentAndLabels(alignment, labels)

    def _align(self, found: PassOutput, batch: NeuralBatch) -> Tensor:
        total: Tensor | None = None
        for term in self.terms:
            y = batch.responses[term.source].to(self.device)
            pairs = term.pairs(found.layers[term.layer], y)
            if term.name in self._unwarned:
                self._unwarned.discard(term.name)
                warn_of_weakness(term, pairs, stacklevel=8)
            with torch.autocast(self.device.type, enabled=False):
                loss = term.loss(pairs)
            self.last[term.name] = loss.detach()
            part = loss * term.weight
            total = part if total is None else total + part
        assert total is not None
        return total

    def evaluate(
        self,
        stimulus_ids: Sequence[str] | None = None,
        *,
        ceiling: bool = True,
        statistics: str = "task",
    ) -> list[dict[str, Any]]:
        """Return the value of each term's metric over a whole set of stimuli, beside its ceiling.

        Args:
            stimulus_ids: held-out ones, say; those trained on by default.
            ceiling: estimate the noise ceiling where the recording has repetitions.
            statistics: normalise with the ``task``'s running statistics, as the saved network
                will, or with the ``neural`` ones of ``batchnorm="separate"``.

        Returns:
            One row a term: name, layer, metric (``cka`` is the biased one), objective, value,
            higher_is_more_similar, ceiling (split half; None without repetitions), ceiled_value
            (value / ceiling), null (of unrelated responses, for the biased CKA), n_stimuli and
            n_neuroids. No step is taken.

        Raises:
            ValueError: fewer stimuli than a metric needs, an unknown stimulus, or ``neural``
                statistics where there are none.
        """
        if statistics not in ("task", "neural") or (
            statistics == "neural" and self.statistics.mode != "separate"
        ):
            raise ValueError(
                f"statistics is {statistics!r}; expected 'task', or 'neural' with "
                f"batchnorm='separate' (here {self.statistics.mode!r})."
            )
        ids = list(self.batches.ids if stimulus_ids is None else stimulus_ids)
        task = BatchStatistics(self._model[0], "shared")
        with (
            evaluation_mode(self._model[0]),
            evaluation_mode(self),
            isolated_random(self.device, self.seed),
            (self.statistics if statistics == "neural" else task).applied(),
        ):
            pairs = pairs_over_stimuli(
                self.terms, self.batches, ids, lambda images: self._run(images, stop=True)
            )
            ceilings = [self._ceiling(term, ids) if ceiling else None for term in self.terms]
            rows = zip(self.terms, pairs, ceilings, strict=True)
            return [row_of_term(term, pair, ceiling=best) for term, pair, best in rows]

    def _ceiling(self, term: BoundTerm, ids: Sequence[str]) -> float | None:
        key = term.name, tuple(ids)
        if key not in self._ceilings:
            recording = list(self.batches.recordings.values())[term.source]
            self._ceilings[key] = ceiling_of(term, recording, ids, seed=self.seed)
        return self._ceilings[key]

    def get_extra_state(self) -> dict[str, Any]:
        """Return the step, the place in the stream and the batch statistics, for ``state_dict``."""
        return {
            "step": self.step,
            "batches": self.batches.state_dict(),
            "statistics": self.statistics.state_dict(),
        }

    def set_extra_state(self, state: Any) -> None:
        """Go on where ``state_dict`` was taken."""
        self.batches.load_state_dict(state["batches"])
        self.statistics.load_state_dict(state["statistics"])
        self.step = int(state["step"])

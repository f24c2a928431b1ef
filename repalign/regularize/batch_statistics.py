"""Batch normalisation during the neural pass: statistics of its own, the task's, or frozen ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from repalign.metrics.comparators import check_choice

Statistics = dict[str, dict[str, Tensor]]


def normalisers(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that normalise with statistics of the batch, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, _NormBase)}


def _copied(part: nn.Module) -> dict[str, Tensor]:
    buffers = part._buffers.items()
    return {name: tensor.detach().clone() for name, tensor in buffers if tensor is not None}


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


@contextlib.contextmanager
def _separate(layers: Mapping[str, nn.Module], own: Statistics) -> Iterator[None]:
    """Lend each layer the neural statistics, and take them back as the pass left them."""
    lent: list[tuple[nn.Module, str, dict[str, Tensor | None]]] = []
    try:
        for name, part in layers.items():
            task = {key: part._buffers[key] for key in own[name]}
            lent.append((part, name, task))
            for key, mine in own[name].items():
                part._buffers[key] = mine.to(_present(task[key]).device)
        yield
    finally:
        for part, name, task in lent:
            for key, theirs in task.items():
                own[name][key], part._buffers[key] = _present(part._buffers[key]), theirs


@contextlib.contextmanager
def _shared(layers: Mapping[str, nn.Module], own: Statistics) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _frozen(layers: Mapping[str, nn.Module], own: Statistics) -> Iterator[None]:
    """Normalise with the task's running statistics and leave them as they are."""
    training = {name: part.training for name, part in layers.items()}
    try:
        for part in layers.values():
            part.training = False
        yield
    finally:
        for name, part in layers.items():
            part.training = training[name]


Mode = Callable[[Mapping[str, nn.Module], Statistics], contextlib.AbstractContextManager[None]]
BATCHNORM_MODES: dict[str, Mode] = {"frozen": _frozen, "separate": _separate, "shared": _shared}


class BatchStatistics:
    """What the normalisation layers of a network use while it sees neural images.

    Args:
        module: the network.
        mode: ``separate`` keeps running statistics for neural images beside the task's, which stay
            untouched; ``shared`` lets both update the same; ``frozen`` uses the task's running
            statistics and updates none.

    Raises:
        ValueError: another mode.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.BatchNorm1d(1))
        >>> statistics = BatchStatistics(net, "separate")
        >>> with statistics.applied():
        ...     _ = net(torch.tensor([[0.0], [10.0]]))
        >>> net[0].running_mean, statistics.own["0"]["running_mean"]
        (tensor([0.]), tensor([0.5000]))

    Reference:
        Separate statistics for two kinds of input: Xie et al. 2020,
        https://doi.org/10.48550/arXiv.1911.09665
    """

    def __init__(self, module: nn.Module, mode: str) -> None:
        """Start from the task's statistics."""
        check_choice(mode, BATCHNORM_MODES, "treatment of batch normalisation")
        self.mode, self.layers = mode, normalisers(module)
        self.own: Statistics = {}
        if mode == "separate":
            self.own = {name: _copied(part) for name, part in self.layers.items()}

    def applied(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which the network normalises as the mode says."""
        return BATCHNORM_MODES[self.mode](self.layers, self.own)

    def state_dict(self) -> Statistics:
        """Return copies of the neural statistics."""
        return {
            name: {key: tensor.detach().clone() for key, tensor in one.items()}
            for name, one in self.own.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take over statistics.

        Raises:
            ValueError: they are of other layers.
        """
        if state.keys() != self.own.keys():
            raise ValueError(
                f"the state has batch statistics of {len(state)} layers and this network "
                f"{len(self.own)} (batchnorm={self.mode!r}); resume with the same network and mode."
            )
        self.own = {
            name: {key: tensor.detach().clone() for key, tensor in one.items()}
            for name, one in state.items()
        }

"""Weights of stable-baselines3, loaded so that every key is used."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def load_weights(policy: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load a state dict whose keys must all be used, but for the copies that SB3 keeps.

    These are the target network of DQN, which must have the shapes of the network itself, and
    the features of actor and critic where they share them.

    Raises:
        ValueError: keys are missing, unknown or of another shape.
    """
    own = policy.state_dict()
    wanted = {name: tensor for name, tensor in weights.items() if not _is_copy(name, weights, own)}
    missing = [name for name in own if name not in wanted]
    unknown = [name for name in wanted if name not in own]
    shapes = [
        f"{name} has shape {tuple(wanted[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own
        if name in wanted and wanted[name].shape != own[name].shape
    ]
    wrong = [f"no {name}" for name in missing] + [f"unknown {name}" for name in unknown] + shapes
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise ValueError(f"the weights do not fit: {', '.join(wrong[:4])}{more}")
    policy.load_state_dict(wanted)


def _is_copy(name: str, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> bool:
    if name in own:
        return False
    head, _, tail = name.partition(".")
    if head == "q_net_target":
        twin = weights.get(f"q_net.{tail}")
        return twin is not None and twin.shape == weights[name].shape
    if head in ("pi_features_extractor", "vf_features_extractor"):
        twin = weights.get(f"features_extractor.{tail}")
        return twin is not None and torch.equal(twin, weights[name])
    return False


def without_shared_copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict without the critic's features where they equal the actor's."""
    own = {n: t for n, t in weights.items() if not n.startswith("vf_features_extractor.")}
    other = [n for n in weights if n not in own and not _is_copy(n, weights, {})]
    return dict(weights) if other else own

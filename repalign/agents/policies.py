"""Policy networks, with the names of modules that stable-baselines3 gives them.

Each maps a batch of observations to a dict: ``logits`` of discrete actions, or ``mean`` and
``log_std`` of continuous ones, the state's ``value``, or ``q`` of each action. A network of your
own is an agent as soon as it returns such a dict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from repalign.agent_cards import AgentSettings
from repalign.agents.policy_inputs import NatureFeatures, ObservationInput, shape_of

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
OUTPUTS = frozenset({"logits", "mean", "log_std", "value", "q"})


class _Perceptrons(nn.Module):
    """The hidden layers of the actor and of the critic, after layers that they may share."""

    def __init__(self, weights: Mapping[str, Tensor], activation: type[nn.Module]) -> None:
        super().__init__()
        where = "mlp_extractor."
        if any(name.startswith(f"{where}shared_net.") for name in weights):  # before SB3 1.8
            self.shared_net = _perceptron(weights, f"{where}shared_net.", activation)
        self.policy_net = _perceptron(weights, f"{where}policy_net.", activation)
        self.value_net = _perceptron(weights, f"{where}value_net.", activation)


class ActorCritic(nn.Module):
    """The policy of PPO and A2C: an actor and a critic, on features that they may share."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        settings: AgentSettings,
        activation: type[nn.Module],
        *,
        scale_images: bool = True,
    ) -> None:
        """Build for the shapes of a state dict."""
        super().__init__()
        images = "features_extractor.cnn.0.weight" in weights
        first = next((n for n in weights if n.endswith(".weight")), "")
        entries = 0 if images or not first else int(weights[first].shape[1])
        self.observation = ObservationInput(settings, entries=entries, scale_images=scale_images)
        if images:
            self.features_extractor = NatureFeatures(weights, "features_extractor.")
        if "vf_features_extractor.cnn.0.weight" in weights:
            self.vf_features_extractor = NatureFeatures(weights, "vf_features_extractor.")
        self.mlp_extractor = _Perceptrons(weights, activation)
        actions, inputs = shape_of(weights, "action_net.weight", axes=2)
        self.action_net = nn.Linear(inputs, actions)
        self.value_net = nn.Linear(shape_of(weights, "value_net.weight", axes=2)[1], 1)
        if "log_std" in weights:
            if weights["log_std"].ndim != 1:
                raise ValueError(
                    "log_std is a matrix: state-dependent exploration (use_sde) is not supported"
                )
            self.log_std = nn.Parameter(torch.zeros(actions))

    def forward(self, observations: Tensor) -> dict[str, Tensor]:
        """``value`` and ``logits``, or ``mean`` and ``log_std``, of a batch."""
        inputs = self.observation(observations)
        features = _features(self, "features_extractor", inputs)
        valued = (
            self.vf_features_extractor(inputs)
            if hasattr(self, "vf_features_extractor")
            else features
        )
        if hasattr(self.mlp_extractor, "shared_net"):
            features = self.mlp_extractor.shared_net(features)
            valued = self.mlp_extractor.shared_net(valued)
        acted = self.action_net(self.mlp_extractor.policy_net(features))
        value = self.value_net(self.mlp_extractor.value_net(valued)).squeeze(1)
        if hasattr(self, "log_std"):
            return {"mean": acted, "log_std": self.log_std.expand_as(acted), "value": value}
        return {"logits": acted, "value": value}

    def initialize(self) -> None:
        """Draw weights as SB3 does: orthogonal, gain √2, and 0.01 and 1 for the two outputs."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                gain = {"action_net": 0.01, "value_net": 1.0}.get(name, math.sqrt(2))
                nn.init.orthogonal_(module.weight, gain=gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class _QNetwork(nn.Module):
    def __init__(self, weights: Mapping[str, Tensor], activation: type[nn.Module]) -> None:
        super().__init__()
        if "q_net.features_extractor.cnn.0.weight" in weights:
            self.features_extractor = NatureFeatures(weights, "q_net.features_extractor.")
        self.q_net = _perceptron(weights, "q_net.q_net.", activation, ends_linear=True)

    def forward(self, inputs: Tensor) -> Tensor:
        q: Tensor = self.q_net(_features(self, "features_extractor", inputs))
        return q


class QPolicy(nn.Module):
    """The network of DQN: the value of each action in a state."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        settings: AgentSettings,
        activation: type[nn.Module],
        *,
        scale_images: bool = True,
    ) -> None:
        """Build for the shapes of a state dict."""
        super().__init__()
        entries = int(shape_of(weights, "q_net.q_net.0.weight", axes=2)[1])
        self.observation = ObservationInput(settings, entries=entries, scale_images=scale_images)
        self.q_net = _QNetwork(weights, activation)

    def forward(self, observations: Tensor) -> dict[str, Tensor]:
        """``q`` of a batch."""
        return {"q": self.q_net(self.observation(observations))}

    def initialize(self) -> None:
        """Keep the weights that torch drew, as SB3's DQN does."""


POLICIES: dict[str, type[ActorCritic] | type[QPolicy]] = {
    "PPO": ActorCritic,
    "A2C": ActorCritic,
    "DQN": QPolicy,
}


def build_policy(
    algorithm: str,
    weights: Mapping[str, Tensor],
    settings: AgentSettings,
    *,
    scale_images: bool = True,
) -> ActorCritic | QPolicy:
    """The network that fits a state dict of stable-baselines3, still without its weights.

    Args:
        algorithm: ``PPO``, ``A2C`` or ``DQN``.
        weights: the state dict, whose shapes say how many layers of which size there are.
        settings: the card's ``[agent]`` table.
        scale_images: whether images were divided by 255 in training.

    Raises:
        ValueError: keys that are those of another algorithm or kind of network.

    Example:
        >>> weights = {"q_net.q_net.0.weight": torch.zeros(2, 4)}
        >>> policy = build_policy("DQN", weights, AgentSettings(environment="CartPole-v1"))
        >>> policy(torch.ones(3, 4))["q"].shape
        torch.Size([3, 2])
    """
    kind = POLICIES[algorithm]
    name = settings.activation or ("relu" if kind is QPolicy else "tanh")
    return kind(weights, settings, ACTIVATIONS[name], scale_images=scale_images)


def _features(module: nn.Module, name: str, inputs: Tensor) -> Tensor:
    features: Tensor = getattr(module, name)(inputs) if hasattr(module, name) else inputs.flatten(1)
    return features


def _perceptron(
    weights: Mapping[str, Tensor],
    where: str,
    activation: type[nn.Module],
    *,
    ends_linear: bool = False,
) -> nn.Module:
    """Linear layers at 0, 2, 4, …, each followed by an activation but for a linear last one."""
    pattern = re.compile(re.escape(where) + r"(\d+)\.weight")
    found = sorted(int(match[1]) for match in map(pattern.fullmatch, weights) if match)
    if found != list(range(0, 2 * len(found), 2)) or (ends_linear and not found):
        raise ValueError(
            f"the layers of {where.rstrip('.')} are numbered {found}, expected 0, 2, 4, …: linear"
            " layers and activations in turn"
        )
    layers: list[nn.Module] = []
    for index in found:
        outputs, inputs = shape_of(weights, f"{where}{index}.weight", axes=2)
        layers += [nn.Linear(inputs, outputs), activation()]
    if not layers:
        return nn.Identity()
    return nn.Sequential(*(layers[:-1] if ends_linear else layers))


def check_output(output: Any, rows: int, name: str) -> dict[str, Tensor]:
    """What a policy answered, after a check that it is a dict of one row an observation.

    Raises:
        TypeError, ValueError: it is no such dict, or has nothing to act on.
    """
    if not isinstance(output, dict) or not set(output) <= OUTPUTS:
        found = sorted(output) if isinstance(output, dict) else type(output).__name__
        raise TypeError(
            f"{name}: forward gave {found}, expected a dict with {', '.join(sorted(OUTPUTS))}"
        )
    if not {"logits", "mean", "q"} & set(output):
        raise ValueError(f"{name}: forward gave {sorted(output)}, and no logits, mean or q to act")
    for key, tensor in output.items():
        if tensor.ndim != (1 if key == "value" else 2) or len(tensor) != rows:
            axes = "(step,)" if key == "value" else "(step, action)"
            raise ValueError(
                f"{name}: {key} has shape {tuple(tensor.shape)} for {rows} observations, expected"
                f" {axes}"
            )
    return output

"""Agents: from a model card to a policy network and the world it acts in.

``NAME`` is the agent as its card says, ``NAME@random`` its untrained twin (seed 0), and
``NAME@random:7`` the twin with seed 7: the same network, before any training.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repalign.agent_cards import AgentSettings
from repalign.agents.checkpoints import CHECKPOINTS, Checkpoint, read_checkpoint
from repalign.agents.policies import build_policy
from repalign.agents.policy_weights import load_weights, without_shared_copies
from repalign.card_schemas import FileSource, ModelCard
from repalign.cards import import_code, load_model_card, split_twin
from repalign.fetch import fetch_file
from repalign.networks import Network
from repalign.store import default_folder


@dataclass(frozen=True)
class Agent:
    """A policy network and the environment it acts in.

    Args:
        name: how results call it.
        module: maps observations to a dict of ``logits``, or ``mean`` and ``log_std``, ``value``,
            or ``q`` (see `repalign.agents.policies`); its named modules are the layers.
        settings: environment, discount and preparation of observations; ``gamma`` is needed where
            the agent has values.
        layers: names of the modules that are recorded by default; every one without children,
            where there are none.
    """

    name: str
    module: nn.Module
    settings: AgentSettings
    layers: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """sha256 of the weights, the module's structure and code, and the settings."""
        network = Network(self.name, self.module).fingerprint()
        text = f"{network} {self.settings.model_dump_json()}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def load_agent(
    agent: str | Path | ModelCard,
    *,
    to: str | Path | None = None,
    mirror: str | Path | None = None,
    offline: bool | None = None,
) -> Agent:
    """Build the agent of a model card, with its weights, in evaluation mode.

    Nothing is unpickled but tensors. The checkpoint's shapes say how large the network is; its
    card says the algorithm and the environment, and more where the checkpoint says it in a pickle.

    Args:
        agent: name of a card or path of a card file, each with ``@random`` or ``@random:SEED``
            for the untrained twin; or a card.
        to, mirror, offline: where weights are kept and looked for, as in
            `repalign.fetch.fetch_files`.

    Raises:
        ValueError: the card is no agent's, or the checkpoint is damaged, holds code, or does not
            fit the algorithm.
        FileNotFoundError: the checkpoint cannot be had; the message says what to do.

    Example:
        >>> load_agent("ppo_cartpole@random:7").name   # doctest: +SKIP
        'ppo_cartpole@random:7'
    """
    seed: int | None = None
    if isinstance(agent, ModelCard):
        card = agent
    else:
        text, seed = split_twin(str(agent))
        card = load_model_card(text)
    if card.agent is None:
        raise ValueError(
            f"{card.name} is no agent: its card has no table [agent]; repalign record shows images"
            " to a network"
        )
    if seed is None and card.weights == "random":
        seed = 0
    if seed is not None and card.weights == "package":
        raise ValueError(f"{card.name} brings its own weights, so it has no untrained twin")
    where: dict[str, Any] = {"to": to, "mirror": mirror, "offline": offline}
    kind, _, algorithm = card.source.partition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        if kind == "sb3":
            module, settings = _stable_baselines(card, algorithm, trained=seed is None, **where)
        else:
            module, settings = _own_network(card, trained=seed is None, **where), card.agent
    name = card.name if seed is None else f"{card.name}@random:{seed}"
    return Agent(name, module.eval(), settings, card.layers)


def _stable_baselines(
    card: ModelCard, algorithm: str, *, trained: bool, **where: Any
) -> tuple[nn.Module, AgentSettings]:
    path = _checkpoint_path(card, **where)
    found = read_checkpoint(path)
    settings = _settings(card, found)
    weights = without_shared_copies(found.weights)
    try:
        policy = build_policy(algorithm, weights, settings, scale_images=found.scale_images)
        if trained:
            load_weights(policy, weights)
        else:
            policy.initialize()
    except ValueError as error:
        raise ValueError(f"{path} does not fit {card.source}: {error}") from error
    if found.was_normalised and trained and not settings.observation_mean:
        warnings.warn(
            f"{card.name} was trained on normalised observations (VecNormalize), whose statistics"
            " are not in its checkpoint; it sees them raw, and its actions and values may be off."
            " Give observation_mean, observation_variance and reward_scale under [agent] of its"
            " card",
            stacklevel=4,
        )
    return policy, settings


def _settings(card: ModelCard, found: Checkpoint) -> AgentSettings:
    """The card's settings, completed by what the checkpoint says."""
    assert card.agent is not None
    known = {"gamma": found.gamma, "gae_lambda": found.gae_lambda, "activation": found.activation}
    missing = {key: value for key, value in known.items() if getattr(card.agent, key) is None}
    settings = card.agent.model_copy(update=missing)
    if settings.gamma is None:
        raise ValueError(
            f"card {card.path}: neither the checkpoint nor the card says the discount; put"
            " gamma = 0.99, or what it was trained with, under [agent]"
        )
    return settings


def _own_network(card: ModelCard, *, trained: bool, **where: Any) -> nn.Module:
    """The module of a user's own function, with weights of a file where the card names one."""
    if not card.source.partition(":")[2]:
        raise ValueError(
            f"card {card.path}: source = {card.source!r}, expected sb3:PPO, sb3:A2C, sb3:DQN or"
            " your own 'module:function'"
        )
    module = import_code(card, card.source, "source")()
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"card {card.path}: {card.source} gave a {type(module).__name__}, no nn.Module"
        )
    if trained and card.weights != "package":
        path = _checkpoint_path(card, **where)
        try:
            load_weights(module, read_checkpoint(path).weights)
        except ValueError as error:
            raise ValueError(f"{path} does not fit {card.source}: {error}") from error
    return module


def _checkpoint_path(
    card: ModelCard,
    *,
    to: str | Path | None,
    mirror: str | Path | None,
    offline: bool | None,
) -> Path:
    """The checkpoint beside the card, or fetched under the name that the card gives it."""
    if not card.weights.endswith(CHECKPOINTS):
        raise ValueError(
            f"card {card.path}: weights = {card.weights!r}, expected a file that ends in"
            f" {', '.join(CHECKPOINTS)}"
        )
    if card.weights_url is None:
        path = card.path.parent / Path(card.weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"card {card.path}: weights = {card.weights!r}: no file {path}")
        return path
    expected = card.weights_hash or card.weights_hash_prefix
    source = FileSource(url=card.weights_url, name=card.weights, hash=expected)
    cache = (Path(to) if to is not None else default_folder()) / "downloads" / card.name
    return fetch_file(source, card, cache=cache, mirror=mirror, offline=offline)

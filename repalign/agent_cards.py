"""The ``[agent]`` table of a model card: the world that an agent was trained in, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

ALGORITHMS = ("PPO", "A2C", "DQN")


class AgentSettings(BaseModel):
    """What a checkpoint does not say, or says in a pickle, which is never read.

    Attributes:
        environment: gymnasium's id, such as ``CartPole-v1``, ``MinAtar/Breakout-v1``,
            ``MiniGrid-Empty-5x5-v0`` or ``ALE/Breakout-v5``.
        environment_options: keyword arguments of the environment.
        observation_key: which part of a dictionary of observations the agent sees.
        atari: 84 × 84 grey frames, one in four, the last four stacked (Mnih et al. 2015).
        max_episode_steps: longest episode; the environment's own limit by default.
        step_seconds: duration of a step, of an environment that has one.
        gamma: discount a step; the checkpoint's by default.
        gae_lambda: λ of the advantage; the checkpoint's by default, else 1.
        activation: of hidden layers; the checkpoint's by default, else tanh for PPO and A2C and
            relu for DQN.
        observation_mean: subtracted from observations, one value an entry.
        observation_variance: by whose root observations are divided; goes with the mean.
        observation_clip: normalised observations are cut at ± this.
        reward_scale: rewards are divided by it before they meet the value that the agent learned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    environment: str = Field(min_length=1)
    environment_options: Mapping[str, Any] = Field(default_factory=dict)
    observation_key: str | None = None
    atari: bool = False
    max_episode_steps: int | None = Field(default=None, ge=1)
    step_seconds: float | None = Field(default=None, gt=0)
    gamma: float | None = Field(default=None, ge=0, le=1)
    gae_lambda: float | None = Field(default=None, ge=0, le=1)
    activation: Literal["tanh", "relu", "elu", "leaky_relu", "gelu", "silu"] | None = None
    observation_mean: tuple[float, ...] = ()
    observation_variance: tuple[float, ...] = ()
    observation_clip: float = Field(default=10.0, gt=0)
    reward_scale: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _mean_and_variance(self) -> AgentSettings:
        lengths = len(self.observation_mean), len(self.observation_variance)
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"observation_mean has {lengths[0]} values and observation_variance {lengths[1]};"
                " give one of each for every entry of an observation"
            )
        if any(variance < 0 for variance in self.observation_variance):
            raise ValueError("observation_variance has a negative value; expected variances")
        return self


def check_agent(source: str, agent: AgentSettings | None) -> None:
    """Raise a ValueError where a model card's source and its ``[agent]`` table do not fit."""
    kind, _, algorithm = source.partition(":")
    if kind != "sb3":
        if agent is not None and kind in ("torchvision", "timm", "hf", "repalign", "features"):
            raise ValueError(f"an [agent] table does not apply to source = {source!r}")
        return
    if algorithm not in ALGORITHMS:
        known = ", ".join(f"sb3:{name}" for name in ALGORITHMS)
        raise ValueError(f"source = {source!r}, expected one of {known}")
    if agent is None:
        raise ValueError(
            f'source = {source!r} needs a table [agent] with environment = "CartPole-v1" or'
            " whichever it plays"
        )

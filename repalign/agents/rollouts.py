"""Let an agent act in its environment, and keep what happened and what its network computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from repalign.agents.environments import check_actions, make_environment
from repalign.agents.loading import Agent
from repalign.agents.replays import BATCH_SIZE, answer_to, replay
from repalign.agents.rollout_records import Rollout
from repalign.agents.steps import make_steps
from repalign.evaluation import evaluating
from repalign.metrics.calls import pick_device
from repalign.progress import track

Array = np.ndarray[Any, np.dtype[Any]]


def rollout(
    agent: Agent,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    deterministic: bool = True,
    epsilon: float = 0.0,
    layers: str | Sequence[str] | None = None,
    batch_size: int = BATCH_SIZE,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Rollout:
    """Let an agent play, then record its layers, values and prediction errors on what it saw.

    Each episode has a seed of its own, drawn from ``seed`` and its number. What is recorded comes
    from a second pass over the observations, `repalign.agents.replay`: replaying
    ``rollout(...).steps`` gives the same numbers, bit by bit.

    Args:
        agent: from `repalign.agents.load_agent`, or made of a module of your own.
        episodes: stop after so many.
        steps: stop after so many in all, if that is sooner; the last episode is then truncated,
            and left out of mean returns. At least one of the two is needed.
        seed: of environment and actions, 0 or more.
        deterministic: take the most probable action (the mean, of continuous ones; the largest Q);
            False draws from the policy, which an agent of Q values does not have.
        epsilon: probability of a uniformly random action at each step; 1 is the uniformly random
            policy, whose states the agent's network then sees.
        layers, batch_size, device, progress: as in `repalign.agents.replay`.

    Returns:
        Steps, layers and traces.

    Raises:
        ImportError: the environment's package is missing; the message names the extra.
        ValueError: a bad argument, or an environment with other observations or actions.

    Example:
        >>> played = rollout(load_agent("ppo_cartpole"), episodes=3)   # doctest: +SKIP
        >>> played.summary()["return_mean"]                            # doctest: +SKIP
        500.0
    """
    if episodes is None and steps is None:
        raise ValueError("say how long to play: episodes=10, or steps=5000")
    for name, value in (("episodes", episodes), ("steps", steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected 1 or more")
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}, expected a probability, 0 to 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected 0 or more")
    environment = make_environment(agent.settings)
    where = pick_device(device)
    try:
        actor = _Actor(agent, environment, where, seed, deterministic, epsilon)
        play = _play(environment, actor, seed, episodes, steps)
        taken: list[_Step] = []
        label = f"{agent.name}: playing {agent.settings.environment}"
        with evaluating(agent.module, where):
            for _ in track(range(episodes or steps or 0), label, show=progress):
                for step in play:
                    taken.append(step)
                    if episodes is None or step.last:
                        break
    finally:
        environment.close()
    recorded = _as_steps(agent, taken)
    recorded.attrs |= {
        "environment": agent.settings.environment,
        "played_by": agent.name,
        "seed": seed,
        "deterministic": int(deterministic),
        "epsilon": float(epsilon),
    }
    if not (taken[-1].terminated or taken[-1].truncated):
        recorded.attrs["cut_episode"] = taken[-1].episode
    return replay(
        agent, recorded, layers=layers, batch_size=batch_size, device=where, progress=progress
    )


class _Step(NamedTuple):
    """One step of play; ``after`` is what was seen at an episode's end."""

    episode: int
    observation: Array
    action: Any
    reward: float
    terminated: bool
    truncated: bool
    last: bool
    after: Array | None


class _Actor:
    """Chooses actions, with random numbers of its own."""

    def __init__(
        self,
        agent: Agent,
        environment: Any,
        device: torch.device,
        seed: int,
        deterministic: bool,
        epsilon: float,
    ) -> None:
        self.agent, self.device, self.space = agent, device, environment.action_space
        self.deterministic, self.epsilon = deterministic, epsilon
        child = np.random.SeedSequence([seed, 0]).generate_state(3)  # apart from the episodes'
        self.random = np.random.default_rng(int(child[0]))
        self.generator = torch.Generator().manual_seed(int(child[1]))
        self.space.seed(int(child[2]))
        first = np.asarray(environment.reset(seed=0)[0])
        with evaluating(agent.module, device):
            output = answer_to(agent, first[None], device)
        if not deterministic and "logits" not in output and "log_std" not in output:
            raise ValueError(
                f"{agent.name} has Q values and no action probabilities to draw from; use"
                " epsilon= (--epsilon) for exploration, with deterministic=True"
            )
        kind = "continuous" if "mean" in output else "discrete"
        width = next(output[key].shape[1] for key in ("logits", "mean", "q") if key in output)
        check_actions(environment, kind, width, agent.name)

    def __call__(self, observation: Array) -> Any:
        """An action in the environment's own form."""
        if self.epsilon and self.random.random() < self.epsilon:
            return self.space.sample()
        output = answer_to(self.agent, observation[None], self.device)
        if "mean" in output:
            action: Array = self._continuous(output).numpy()
            return np.clip(action, self.space.low, self.space.high).astype(self.space.dtype)
        return int(self._discrete(output)) + int(self.space.start)

    def _continuous(self, output: dict[str, Tensor]) -> Tensor:
        mean = output["mean"][0].float().cpu()
        if self.deterministic:
            return mean
        noise = torch.randn(mean.shape, generator=self.generator)
        return mean + output["log_std"][0].float().cpu().exp() * noise

    def _discrete(self, output: dict[str, Tensor]) -> Tensor:
        preferences = output["logits" if "logits" in output else "q"][0].float().cpu()
        if self.deterministic:
            return preferences.argmax()
        return torch.multinomial(preferences.softmax(0), 1, generator=self.generator)[0]


def _play(
    environment: Any, actor: _Actor, seed: int, episodes: int | None, steps: int | None
) -> Iterator[_Step]:
    taken, episode = 0, 0
    while True:
        child = np.random.SeedSequence([seed, 1, episode]).generate_state(1)
        observation = np.array(environment.reset(seed=int(child[0]))[0])  # some reuse their buffer
        terminated = truncated = False
        while not (terminated or truncated):
            action = actor(observation)
            after, reward, terminated, truncated, _ = environment.step(action)
            after, taken = np.array(after), taken + 1
            last = bool(terminated or truncated or taken == steps)
            ends = (bool(terminated), bool(truncated), last, after if last else None)
            yield _Step(episode, observation, action, float(reward), *ends)
            if taken == steps:
                return
            observation = after
        episode += 1
        if episode == episodes:
            return


def _as_steps(agent: Agent, taken: Sequence[_Step]) -> xr.Dataset:
    first: dict[int, int] = {}
    for row, step in enumerate(taken):
        first.setdefault(step.episode, row)
    seconds = agent.settings.step_seconds
    within = np.array([row - first[step.episode] for row, step in enumerate(taken)])
    return make_steps(
        np.stack([step.observation for step in taken]),
        actions=np.array([step.action for step in taken]),
        rewards=np.array([step.reward for step in taken]),
        terminated=np.array([step.terminated for step in taken]),
        truncated=np.array([step.last and not step.terminated for step in taken]),
        episode=np.array([step.episode for step in taken]),
        final_observations=np.stack([step.after for step in taken if step.after is not None]),
        time_s=None if seconds is None else within * seconds,
    )

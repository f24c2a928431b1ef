"""What an agent expects and how it errs, step by step: value, prediction error, advantage, entropy.

Row t of a trace belongs to the state s_t in which action a_t was taken. Reward r_t and prediction
error δ_t come about at the end of that step, when the next observation arrives.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

Array = np.ndarray


def prediction_errors(
    values: Float[Array, " step"],
    next_values: Float[Array, " step"],
    rewards: Float[Array, " step"],
    terminated: Bool[Array, " step"],
    *,
    gamma: float,
) -> Float[Array, " step"]:
    """Reward-prediction error δ_t = r_t + γ V(s_{t+1}) (1 − terminated_t) − V(s_t).

    An episode that was only cut off (truncated) has a future, so its last state keeps its value.

    Args:
        values: V of each state, in the rewards' unit.
        next_values: V of the state after it; NaN where that was not observed.
        rewards: reward of each step.
        terminated: whether the step ended in a state without a future.
        gamma: discount a step.

    Returns:
        One error a step; NaN where the next value is unknown and counts.

    Example:
        >>> two, end = np.array([0.5, 0.5]), np.array([False, True])
        >>> prediction_errors(two, np.array([0.5, np.nan]), np.ones(2), end, gamma=0.5)
        array([0.75, 0.5 ])

    Reference:
        Schultz, Dayan & Montague (1997). doi:10.1126/science.275.5306.1593
    """
    future = np.where(terminated, 0.0, next_values)
    return np.asarray(rewards + gamma * future - values, dtype=np.float64)


def generalised_advantages(
    errors: Float[Array, " step"], ends: Bool[Array, " step"], *, gamma: float, gae_lambda: float
) -> Float[Array, " step"]:
    """Generalised advantage A_t = Σ_k (γλ)^k δ_{t+k}, summed to the end of the episode.

    Args:
        errors: reward-prediction error of each step.
        ends: the last step of each episode, terminated or truncated.
        gamma, gae_lambda: discount, and weight of later errors; λ = 0 leaves the error itself.

    Returns:
        One advantage a step; NaN where an error on the way to the episode's end is NaN.

    Example:
        >>> generalised_advantages(np.ones(3), np.array([False, True, True]),
        ...                        gamma=0.5, gae_lambda=1.0)
        array([1.5, 1. , 1. ])

    Reference:
        Schulman et al. (2016). High-dimensional continuous control using generalized advantage
        estimation. ICLR. arXiv:1506.02438
    """
    advantages = np.empty(len(errors), dtype=np.float64)
    later = 0.0
    for step in range(len(errors) - 1, -1, -1):
        later = float(errors[step]) + (0.0 if ends[step] else gamma * gae_lambda * later)
        advantages[step] = later
    return advantages


def following_values(
    values: Float[Array, " step"],
    final_values: Float[Array, " episode"],
    ends: Bool[Array, " step"],
) -> Float[Array, " step"]:
    """V of the state after each step: that of the next row, or of an episode's final observation.

    Example:
        >>> following_values(np.array([1.0, 2.0]), np.array([3.0]), np.array([False, True]))
        array([2., 3.])
    """
    following = np.append(values[1:], np.nan).astype(np.float64)
    following[ends] = final_values
    return following


def policy_entropy(output: dict[str, Tensor]) -> Tensor | None:
    """Entropy of the policy in nats, of each state; None for a network that has only Q values.

    −Σ_a π(a) log π(a) of discrete actions, and Σ_i (½ log 2πe + log σ_i) of Gaussian ones.

    Example:
        >>> import torch
        >>> round(float(policy_entropy({"logits": torch.zeros(1, 2)})), 4)
        0.6931
    """
    if "logits" in output:
        log_p = output["logits"].log_softmax(dim=1)
        return -(log_p.exp() * log_p).sum(dim=1)
    if "mean" in output and "log_std" in output:
        log_std = output["log_std"]
        return (0.5 * math.log(2 * math.pi * math.e) + log_std).sum(dim=1)
    return None


def state_values(output: dict[str, Tensor]) -> Tensor | None:
    """V(s): what the critic says, else the largest Q; None where there is neither."""
    if "value" in output:
        return output["value"]
    return output["q"].amax(dim=1) if "q" in output else None

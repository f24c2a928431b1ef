"""Environments by gymnasium's ids: the only module that imports gymnasium and what extends it."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from repalign.agent_cards import AgentSettings

LONGEST_EPISODE = 27_000  # steps, where an environment has no limit: 30 minutes of Atari
FRAMES = 4
# What an id begins with: the module that registers it, and what to install.
PACKAGES = {
    "MinAtar/": ("minatar", "rl"),
    "MiniGrid-": ("minigrid", "rl"),
    "BabyAI-": ("minigrid", "rl"),
    "ALE/": ("ale_py", "atari"),
}


def make_environment(settings: AgentSettings) -> Any:
    """The environment that an agent's card names, a ``gymnasium.Env``.

    Args:
        settings: the card's ``[agent]`` table.

    Raises:
        ImportError: a package is missing; the message names the extra to install.
        ValueError: no such environment, version, option, or observations that are a dictionary.

    Example:
        >>> env = make_environment(AgentSettings(environment="CartPole-v1"))
        >>> env.reset(seed=0)[0].shape
        (4,)
    """
    try:
        import gymnasium
    except ImportError as error:
        raise ImportError("environments need: pip install 'repalign[rl]'") from error
    name = settings.environment
    _register(gymnasium, name)
    options = dict(settings.environment_options)
    if settings.atari:
        options = {"frameskip": 1, **options}  # the wrapper skips, and takes a maximum
    try:
        if settings.max_episode_steps is not None:
            options["max_episode_steps"] = settings.max_episode_steps
        with warnings.catch_warnings():  # Box2D's, as an error, ends the process
            warnings.simplefilter("ignore", DeprecationWarning)
            environment = gymnasium.make(name, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        reason = " ".join(str(error).split())
        raise ImportError(
            f"{name} needs a package that is missing: {reason}. 'repalign[rl]' has those of"
            " classic control, Box2D, MinAtar and MiniGrid"
        ) from error
    except (gymnasium.error.Error, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"environment = {name!r} with options {options} failed: {reason}"
        ) from error
    environment = _observed(gymnasium, environment, settings)
    if environment.spec is not None and environment.spec.max_episode_steps is None:
        environment = gymnasium.wrappers.TimeLimit(environment, LONGEST_EPISODE)
    return environment


def _register(gymnasium: Any, name: str) -> None:
    """Import the package that registers an environment, where it is not gymnasium's own."""
    found = next((PACKAGES[prefix] for prefix in PACKAGES if name.startswith(prefix)), None)
    if found is None:
        return
    package, extra = found
    try:
        if package == "minatar":
            registers = importlib.import_module("minatar.gym").register_envs
            if name not in gymnasium.registry:
                registers()
            return
        gymnasium.register_envs(importlib.import_module(package))
    except ImportError as error:
        raise ImportError(
            f"environment {name!r} needs {package}: pip install 'repalign[{extra}]'"
        ) from error


def _observed(gymnasium: Any, environment: Any, settings: AgentSettings) -> Any:
    """The environment as the agent sees it: one array a step."""
    name, wrappers = settings.environment, gymnasium.wrappers
    if settings.atari:
        try:
            environment = wrappers.AtariPreprocessing(environment)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ImportError("atari = true needs OpenCV: pip install 'repalign[atari]'") from error
        environment = wrappers.FrameStackObservation(environment, FRAMES, padding_type="zero")
    space, key = environment.observation_space, settings.observation_key
    if isinstance(space, gymnasium.spaces.Dict):
        if key not in space.spaces:
            raise ValueError(
                f"{name} gives a dictionary of observations; observation_key = {key!r}, expected"
                f" one of {', '.join(map(repr, space.spaces))}"
            )
        part = space[key]
        environment = wrappers.TransformObservation(environment, lambda one: one[key], part)
    elif key is not None:
        raise ValueError(f"observation_key = {key!r}, but {name} gives no dictionary")
    space = environment.observation_space
    if not isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
        raise ValueError(f"{name} gives observations of {space}, expected a Box or Discrete")
    return environment


def check_actions(environment: Any, kind: str, width: int, name: str) -> None:
    """Raise a ValueError where an agent's actions are not those of the environment.

    Args:
        environment: a ``gymnasium.Env``.
        kind: ``discrete`` or ``continuous``.
        width: number of actions, or of their dimensions.
        name: of the agent.
    """
    import gymnasium

    space = environment.action_space
    if isinstance(space, gymnasium.spaces.Discrete):
        fits = kind == "discrete" and int(space.n) == width
    else:
        fits = (
            isinstance(space, gymnasium.spaces.Box)
            and kind == "continuous"
            and space.shape == (width,)
        )
    if not fits:
        raise ValueError(
            f"{name} has {width} {kind} actions, but {environment.spec.id} takes {space}; its card"
            " names another environment than it was trained in, or other options"
        )

"""Agents of reinforcement learning as representations: load, play, replay, compare."""

from repalign.agent_cards import AgentSettings
from repalign.agents.environments import make_environment
from repalign.agents.loading import Agent, load_agent
from repalign.agents.replays import replay
from repalign.agents.rollout_records import TRACE_NAMES, Rollout
from repalign.agents.rollout_stores import (
    is_rollout,
    open_rollout,
    rollout_path,
    stored_replay,
    write_rollout,
)
from repalign.agents.rollouts import rollout
from repalign.agents.steps import make_steps

__all__ = [
    "TRACE_NAMES",
    "Agent",
    "AgentSettings",
    "Rollout",
    "is_rollout",
    "load_agent",
    "make_environment",
    "make_steps",
    "open_rollout",
    "replay",
    "rollout",
    "rollout_path",
    "stored_replay",
    "write_rollout",
]

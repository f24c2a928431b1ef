"""Agents at play: known returns, planted prediction errors, replays, stores and comparisons."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from test_agents_loading import trained, write_card
from typer.testing import CliRunner

import repalign as ra
from repalign.agent_cards import AgentSettings
from repalign.agents import (
    Agent,
    load_agent,
    make_environment,
    make_steps,
    open_rollout,
    replay,
    rollout,
    rollout_path,
    rollout_stores,
    write_rollout,
)
from repalign.agents.traces import following_values, generalised_advantages, prediction_errors
from repalign.cli import agents as cli_agents
from repalign.metrics import CKA, Ridge
from repalign.recording import make_recording
from repalign.recording_checks import check_recording

gym = pytest.importorskip("gymnasium", reason="gymnasium is an extra")


class Critic(torch.nn.Module):
    """A critic that knows the value of each state of a chain, and an indifferent actor."""

    def __init__(self, values, actions=2):
        super().__init__()
        self.register_buffer("table", torch.tensor(values, dtype=torch.float64))
        self.hidden = torch.nn.Identity()
        self.actions = actions

    def forward(self, observations):
        state = self.hidden(observations).flatten().long()
        return {"value": self.table[state], "logits": torch.zeros(len(state), self.actions)}


class Actor(torch.nn.Module):
    """A network with random weights on CartPole's four numbers."""

    def __init__(self, seed, kind="logits"):
        super().__init__()
        torch.manual_seed(seed)
        sizes = ((4, 32), (32, 32), (32, 32))
        self.layers = torch.nn.ModuleList(torch.nn.Linear(*size) for size in sizes)
        self.head = torch.nn.Linear(32, 2)
        if kind == "logits":
            self.critic = torch.nn.Linear(32, 1)
        self.act = torch.nn.ModuleList(torch.nn.ReLU() for _ in sizes)
        self.kind = kind
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.normal_(std=(3.0 if layer is self.layers[0] else 1.5) / 4)
                layer.bias.normal_(std=0.5)

    def forward(self, observations):
        hidden = observations.float() * torch.tensor([2.0, 1.0, 10.0, 1.0])
        for layer, act in zip(self.layers, self.act, strict=True):
            hidden = act(layer(hidden))
        if self.kind == "q":
            return {"q": self.head(hidden)}
        return {"logits": self.head(hidden), "value": self.critic(hidden)[:, 0]}


CARTPOLE = AgentSettings(environment="CartPole-v1", gamma=0.9, gae_lambda=0.8, step_seconds=0.02)


def cartpole(seed=0, kind="logits"):
    return Agent(f"actor-{seed}", Actor(seed, kind).eval(), CARTPOLE)


def test_a_critic_that_knows_the_truth_is_never_surprised():
    gamma, rewards = 0.5, np.array([1.0, 0.0, 4.0])
    values = [1 + gamma * gamma * 4, gamma * 4, 4.0]
    agent = Agent("critic", Critic(values), AgentSettings(environment="none", gamma=gamma))
    states = np.array([[0.0], [1.0], [2.0]])
    steps = make_steps(states, rewards=rewards, terminated=[False, False, True])
    seen = replay(agent, steps)
    np.testing.assert_allclose(seen.steps["reward_prediction_error"], 0, atol=1e-12)
    surprise = make_steps(states, rewards=[1, 0, 5], terminated=[False, False, True])
    errors = replay(agent, surprise).steps["reward_prediction_error"].values
    np.testing.assert_allclose(errors, [0, 0, 1])  # an unexpected reward of 1, where it came


def test_truncation_keeps_the_future_and_termination_does_not():
    agent = Agent("c", Critic([1.0, 2.0, 3.0]), AgentSettings(environment="none", gamma=0.5))
    states, rewards = np.array([[0.0], [1.0]]), [0.0, 0.0]
    make = {"rewards": rewards, "final_observations": np.array([[2.0]])}
    over = replay(agent, make_steps(states, terminated=[False, True], **make)).steps
    cut = replay(agent, make_steps(states, truncated=[False, True], **make)).steps
    assert over["reward_prediction_error"].values.tolist() == [0.0, -2.0]
    assert cut["reward_prediction_error"].values.tolist() == [0.0, 0.5 * 3 - 2]
    unseen = replay(agent, make_steps(states, rewards=rewards))
    assert np.isnan(unseen.steps["reward_prediction_error"].values).tolist() == [False, True]
    assert "reward_prediction_error" not in unseen.traces or (
        unseen.traces["reward_prediction_error"].sizes["presentation"] == 1
    )


def test_rewards_are_scaled_to_the_unit_of_the_value():
    settings = AgentSettings(environment="none", gamma=0.5, reward_scale=4.0)
    steps = make_steps(np.array([[0.0]]), rewards=[8.0], terminated=[True])
    seen = replay(Agent("c", Critic([1.5]), settings), steps).steps
    assert seen["reward_prediction_error"].values.tolist() == [8 / 4 - 1.5]
    assert seen["reward"].values.tolist() == [8.0]


def test_advantage_is_the_sum_of_its_definition(random):
    gamma, lam = 0.9, 0.7
    ends = np.zeros(40, dtype=bool)
    ends[[9, 10, 30, 39]] = True
    errors = random.normal(size=40)
    wanted = []
    for t in range(40):
        stop = t + int(np.argmax(ends[t:])) + 1
        wanted.append(sum((gamma * lam) ** (k - t) * errors[k] for k in range(t, stop)))
    found = generalised_advantages(errors, ends, gamma=gamma, gae_lambda=lam)
    np.testing.assert_allclose(found, wanted)


def test_advantage_equals_stable_baselines(random):
    buffers = pytest.importorskip("stable_baselines3.common.buffers", reason="the reference")
    n, gamma, lam = 50, 0.95, 0.8
    box, choice = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
    buffer = buffers.RolloutBuffer(n, box, choice, device="cpu", gae_lambda=lam, gamma=gamma)
    rewards, values = random.normal(size=(2, n))
    terminated = random.random(n) < 0.1
    starts = np.append(True, terminated[:-1])
    for step in range(n):
        value, log_p = torch.tensor([values[step]]), torch.zeros(1)
        row = (np.zeros((1, 1)), np.zeros((1, 1)), rewards[step : step + 1])
        buffer.add(*row, starts[step : step + 1], value, log_p)
    last = 0.3
    buffer.compute_returns_and_advantage(torch.tensor([last]), dones=terminated[-1:])
    ends = terminated.copy()
    ends[-1] = True
    after = np.full(int(ends.sum()), np.nan)
    after[-1] = last
    following = following_values(values, after, ends)
    errors = prediction_errors(values, following, rewards, terminated, gamma=gamma)
    found = generalised_advantages(errors, ends, gamma=gamma, gae_lambda=lam)
    np.testing.assert_allclose(found, buffer.advantages[:, 0], atol=1e-5)


@pytest.mark.parametrize("kind", ["logits", "q"])
def test_replay_of_its_own_observations_is_bit_identical(kind, tmp_path):
    agent = cartpole(3, kind)
    played = rollout(agent, steps=300, epsilon=0.3, seed=4, layers=["act.1", "head"])
    write_rollout(played, tmp_path / "play")
    for again in (
        replay(agent, played.steps, layers=["act.1", "head"]),
        replay(agent, open_rollout(tmp_path / "play").steps, layers=["act.1", "head"]),
        open_rollout(tmp_path / "play"),
    ):
        for name in ("value", "reward_prediction_error", "advantage"):
            np.testing.assert_array_equal(again.steps[name].values, played.steps[name].values)
        assert list(again.layers) == list(played.layers)
        for name, ds in played.layers.items():
            np.testing.assert_array_equal(again.layers[name]["response"], ds["response"])
        assert list(again.traces) == list(played.traces)
    small = replay(agent, played.steps, batch_size=7)
    np.testing.assert_allclose(small.steps["value"], played.steps["value"], atol=1e-5)


def test_the_same_seed_plays_the_same_and_another_does_not():
    agent = cartpole()
    how = {"episodes": 3, "epsilon": 0.2, "deterministic": False}
    first, again, other = (rollout(agent, seed=seed, **how) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.steps["observation"], again.steps["observation"])
    np.testing.assert_array_equal(first.steps["action"], again.steps["action"])
    assert (
        first.steps["observation"].shape != other.steps["observation"].shape
        or (first.steps["observation"].values != other.steps["observation"].values).any()
    )
    starts = first.steps["observation"].values[first.steps["step"].values == 0]
    assert len(np.unique(starts, axis=0)) == 3  # each episode has a seed of its own


def test_rollout_records_what_the_environment_did():
    agent = cartpole()
    played = rollout(agent, episodes=4, epsilon=0.5, seed=9).steps
    observations, ends = played["observation"].values, played["terminated"] | played["truncated"]
    env = gym.make("CartPole-v1").unwrapped
    finals = iter(played["final_observation"].values)
    for row, action in enumerate(played["action"].values):
        env.reset(seed=0)
        env.state = observations[row].astype(np.float64)
        wanted = next(finals) if ends.values[row] else observations[row + 1]
        np.testing.assert_allclose(env.step(int(action))[0], wanted, atol=1e-5)
    np.testing.assert_allclose(played["time_s"], played["step"] * 0.02)


def test_actions_equal_stable_baselines(tmp_path):
    model = trained("PPO", "MlpPolicy", gym.make("CartPole-v1"), tmp_path / "agent.zip")
    agent = load_agent(write_card(tmp_path, "mine", "sb3:PPO", "agent.zip"))
    played = rollout(agent, episodes=5).steps
    wanted, _ = model.predict(played["observation"].values, deterministic=True)
    np.testing.assert_array_equal(played["action"], wanted)


WORLDS = {
    "minatar": ("MlpPolicy", {"environment": "MinAtar/Breakout-v1"}),
    "minigrid": (
        "MlpPolicy",
        {"environment": "MiniGrid-Empty-5x5-v0", "observation_key": "image"},
    ),
    "ale_py": ("CnnPolicy", {"environment": "ALE/Breakout-v5", "atari": True}),
}


@pytest.mark.parametrize("package", WORLDS)
def test_actions_in_other_worlds_equal_stable_baselines(package, tmp_path):
    pytest.importorskip(package, reason="an extra")
    policy, settings = WORLDS[package]
    if settings.get("atari"):
        pytest.importorskip("cv2", reason="an extra")
    env = make_environment(AgentSettings(**settings))
    model = trained("PPO", policy, env, tmp_path / "agent.zip")
    env.close()
    agent = load_agent(write_card(tmp_path, "mine", "sb3:PPO", "agent.zip", **settings))
    played = rollout(agent, steps=40, epsilon=0.5, layers="value_net")
    seen = played.steps["observation"].values
    np.testing.assert_allclose(
        played.steps["value"],
        [model.policy.predict_values(model.policy.obs_to_tensor(one)[0]).item() for one in seen],
        rtol=1e-4,
        atol=1e-4,
    )


def test_sampled_actions_follow_the_policy():
    agent = cartpole(1)
    played = rollout(agent, steps=4000, deterministic=False).steps
    with torch.no_grad():
        seen = torch.from_numpy(played["observation"].values)
        p = agent.module(seen)["logits"].softmax(1)[:, 1].numpy()
    surplus = played["action"].values - p
    assert abs(surplus.mean()) < 4 * np.sqrt((p * (1 - p)).mean() / len(p))
    assert 0 < played["action"].values.mean() < 1


def test_continuous_actions_are_clipped_and_recorded(tmp_path):
    trained("PPO", "MlpPolicy", gym.make("Pendulum-v1"), tmp_path / "agent.zip")
    card = write_card(tmp_path, "mine", "sb3:PPO", "agent.zip", environment="Pendulum-v1")
    played = rollout(load_agent(card), steps=50, deterministic=False)
    actions = played.steps["continuous_action"].values
    assert actions.shape == (50, 1)
    assert np.abs(actions).max() <= 2
    np.testing.assert_array_equal(played.traces["action"]["response"], actions)


def test_the_uniform_policy_is_epsilon_one():
    played = rollout(cartpole(), episodes=200, epsilon=1.0)
    summary = played.summary()
    assert 18 < summary["return_mean"] < 27  # a published baseline: about 22
    assert 0.45 < played.steps["action"].values.mean() < 0.55


def test_a_limit_of_steps_truncates_and_is_left_out_of_returns():
    played = rollout(cartpole(), steps=120, epsilon=1.0)
    assert played.steps.sizes["presentation"] == 120
    assert bool(played.steps["truncated"].values[-1])
    assert not played.episodes()[-1]["complete"]
    assert played.summary()["episodes"] == len(played.episodes()) - 1
    assert np.isfinite(played.steps["reward_prediction_error"].values).all()


def test_layers_and_traces_are_in_the_schema():
    played = rollout(cartpole(), steps=100, epsilon=0.5)
    assert "reward" not in played.traces  # always 1: nothing to compare
    for ds in (*played.layers.values(), *played.traces.values()):
        assert ds["response"].dims == ("presentation", "neuroid")
        assert {"stimulus_id", "episode", "step", "action", "reward", "value"} <= set(ds.coords)
        full = ds.assign_coords(
            {
                name: ("neuroid", [f"{name}-{i}" for i in range(ds.sizes["neuroid"])])
                for name in ("neuroid_id", "species", "subject", "region")
            }
        )
        check_recording(full)
    one_hot = played.traces["action"]["response"].values
    assert (one_hot.sum(1) == 1).all()
    np.testing.assert_array_equal(one_hot.argmax(1), played.steps["action"])


def plant(layer, seed=0, neuroids=200, noise=0.3):
    """A recording that reads a layer out linearly, with noise."""
    random = np.random.default_rng(seed)
    x = layer["response"].values.astype(np.float64)
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    y = x @ random.normal(size=(x.shape[1], neuroids)) / np.sqrt(x.shape[1])
    y = y + noise * y.std() * random.normal(size=y.shape)
    return make_recording(
        y, stimulus_id=layer["stimulus_id"].values.tolist(), region="striatum", species="human"
    )


@pytest.mark.parametrize("metric", [CKA(debiased=True), Ridge()], ids=["cka", "ridge"])
def test_compare_finds_the_planted_layer_above_others_and_the_twin(metric):
    agent = cartpole(0)
    played = rollout(agent, steps=400, epsilon=0.7, layers="act.*")
    brain = plant(played.layers["act.1"])
    twin = replay(cartpole(1), played.steps, layers="act.*")
    results = {one.layer: one.value for one in ra.compare(brain, played.layers, metric)}
    others = {one.layer: one.value for one in ra.compare(brain, twin.layers, metric)}
    assert max(results, key=results.__getitem__) == "act.1"
    assert results["act.1"] > max(others.values())


def test_compare_finds_the_planted_prediction_error():
    played = rollout(cartpole(0), steps=600, epsilon=0.7, layers="head")
    error = played.traces["reward_prediction_error"]
    brain = plant(error, neuroids=10, noise=1.0)
    values = {one.layer: one.value for one in ra.compare(brain, played.traces, Ridge())}
    assert max(values, key=values.__getitem__) == "reward_prediction_error"
    assert values["reward_prediction_error"] > 0.5
    assert values["reward_prediction_error"] > values["value"] + 0.1
    assert values["reward_prediction_error"] > values["action"] + 0.1


def test_two_different_plays_never_match_by_their_ids():
    first, second = (rollout(cartpole(), steps=40, epsilon=1.0, seed=s) for s in (0, 1))
    with pytest.raises(ValueError, match="stand for different images"):
        ra.compare(first.layers["head"], second.layers["head"], CKA())


def test_a_killed_write_leaves_nothing_or_the_old(tmp_path, monkeypatch):
    played = rollout(cartpole(), steps=30, epsilon=1.0, layers="head")
    calls = []

    def failing(*args, **keywords):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")
        return real(*args, **keywords)

    real = rollout_stores.write_store
    monkeypatch.setattr(rollout_stores, "write_store", failing)
    with pytest.raises(OSError, match="disk full"):
        write_rollout(played, tmp_path / "play")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="no rollout at"):
        open_rollout(tmp_path / "play")
    write_rollout(played, tmp_path / "play")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_rollout(played, tmp_path / "play")
    calls.clear()
    with pytest.raises(OSError, match="disk full"):
        write_rollout(played, tmp_path / "play", overwrite=True)
    np.testing.assert_array_equal(
        open_rollout(tmp_path / "play").steps["value"], played.steps["value"]
    )
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="is no rollout"):
        write_rollout(played, tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "episodes=10, or steps=5000"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": 5, "epsilon": 2.0}, "epsilon is 2.0"),
        ({"steps": 5, "seed": -1}, "seed is -1"),
        ({"steps": 5, "layers": "heat"}, "no layer 'heat'; near matches: head"),
        ({"steps": 5, "batch_size": 0}, "batch_size is 0"),
    ],
)
def test_bad_arguments_are_one_clear_error(how, message):
    with pytest.raises(ValueError, match=message):
        rollout(cartpole(), **how)


def test_agents_that_do_not_fit_are_one_clear_error():
    agent = cartpole()
    acrobot = AgentSettings(environment="Acrobot-v1", gamma=0.9)
    with pytest.raises(ValueError, match=r"failed on observations of shape \(6,\)"):
        rollout(Agent("a", agent.module, acrobot), steps=5)
    three = Agent(
        "c", Critic([0.0] * 16, actions=3), AgentSettings(environment="FrozenLake-v1", gamma=0.9)
    )
    with pytest.raises(ValueError, match=r"3 discrete actions, but FrozenLake-v1 takes Discrete"):
        rollout(three, steps=5)
    with pytest.raises(ValueError, match="no action probabilities to draw from"):
        rollout(cartpole(kind="q"), steps=5, deterministic=False)
    no_discount = Agent("n", agent.module, AgentSettings(environment="CartPole-v1"))
    with pytest.raises(ValueError, match="no discount"):
        rollout(no_discount, steps=5)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"rewards": [0.0, 1.0]}, r"rewards has shape \(2,\), expected \(3,\)"),
        ({"rewards": [0.0, 1.0, np.nan]}, "rewards has NaN"),
        ({"episode": [0, 1, 0]}, "returns to an earlier number"),
        ({"episode": [0, 0, 0], "terminated": [True, False, False]}, "goes on after row 0"),
        ({"stimulus_id": ["a", "a", "b"]}, "2 of them distinct"),
        ({"final_observations": np.zeros((2, 4))}, r"expected one a episode: \(1, 4\)"),
        ({"actions": [[[0]], [[1]], [[0]]]}, "actions of type"),
    ],
)
def test_bad_steps_are_one_clear_error(how, message):
    with pytest.raises(ValueError, match=message):
        make_steps(np.zeros((3, 4)), **how)


def test_bad_replays_are_one_clear_error():
    with pytest.raises(ValueError, match=r"actions reach from 0 to 5"):
        replay(cartpole(), make_steps(np.zeros((3, 4)), actions=[0, 5, 1]))
    with pytest.raises(ValueError, match="make it with repalign.agents.make_steps"):
        replay(cartpole(), make_recording(np.zeros((2, 2)), stimulus_id=["a", "b"], region="x"))
    with pytest.raises(ValueError, match="observations has NaN"):
        replay(cartpole(), np.full((2, 4), np.nan))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: torch.complex(x, x), "layer 'odd' gives torch.complex64 numbers"),
        (lambda x: x[:, : len(x)], r"layer 'odd' gives an output of shape \(1, 1\) .* rest \(2,\)"),
        (lambda x: x.sum(), r"layer 'odd' gives an output of shape \(\)"),
        (lambda x: x / 0, "layer odd: NaN or infinite activations for step 0"),
    ],
)
def test_a_layer_that_is_not_step_by_real_unit_is_one_clear_error(change, message):
    agent = cartpole()

    class Odd(torch.nn.Module):
        def forward(self, x):
            return change(x)

    agent.module.add_module("odd", Odd())
    agent.module.register_forward_pre_hook(lambda module, inputs: (module.odd(*inputs), None)[1])
    with pytest.raises(ValueError, match=message):
        replay(agent, np.ones((3, 4)), layers="odd", batch_size=2, device="cpu")


KNOWN = {
    "ppo_cartpole": (500, 0.01),
    "a2c_cartpole": (500, 0.01),
    "dqn_cartpole": (500, 0.01),
    "ppo_acrobot": (-73, 8),  # -77 to -82 where observations are not normalised
    "dqn_mountaincar": (-100, 12),
}


@pytest.mark.parametrize("name", KNOWN)
def test_given_agents_reach_their_known_returns(name, data_folder):
    agent = load_agent(name, mirror=data_folder)
    summary = rollout(agent, episodes=30, layers=agent.layers[-1]).summary()
    wanted, tolerance = KNOWN[name]
    assert summary["return_mean"] == pytest.approx(wanted, abs=tolerance)
    if wanted == 500:
        assert summary["return_sd"] == 0


def test_a_given_lander_lands(data_folder):
    pytest.importorskip("Box2D", reason="an extra")
    agent = load_agent("ppo_lunarlander", mirror=data_folder)
    assert rollout(agent, episodes=10, layers="action_net").summary()["return_mean"] > 150


@pytest.fixture
def command(tmp_path, monkeypatch):
    app = typer.Typer()
    app.command()(cli_agents.rollout)
    app.command("other")(lambda: None)
    monkeypatch.setenv("REPALIGN_CARDS", str(tmp_path))
    runner = CliRunner()
    return lambda *words: runner.invoke(app, ["rollout", *map(str, words), "--to", tmp_path])


def test_command_line_plays_replays_and_keeps(command, tmp_path):
    trained("PPO", "MlpPolicy", gym.make("CartPole-v1"), tmp_path / "agent.zip")
    write_card(tmp_path, "mine", "sb3:PPO", "agent.zip")
    layers = ["--layers", "observation,mlp_extractor.value_net.1"]
    done = command("mine", "--episodes", 3, *layers, "--json")
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)[0]
    assert row["episodes"] == 3
    assert row["return_mean"] == row["length_mean"]
    path = Path(row["store"])
    kept = (path / "steps.zarr" / "manifest.json").stat().st_mtime_ns
    again = command("mine", "--episodes", 3, *layers, "--json")
    assert json.loads(again.stdout)[0] == row
    assert (path / "steps.zarr" / "manifest.json").stat().st_mtime_ns == kept
    twin = command("mine@random", "--on", path, *layers, "--json")
    other = json.loads(twin.stdout)[0]
    assert (other["agent"], other["steps"]) == ("mine@random:0", row["steps"])
    wrong = command("mine", "--on", path, "--seed", 3)
    assert "do not apply" in str(wrong.exception)
    table = command("mine", "--steps", 20, *layers)
    assert "store:" in table.stdout
    from repalign.inputs import open_model

    played = open_rollout(path)
    brain = plant(played.layers["mlp_extractor.value_net.1"])
    found = open_model(str(path / "layers.zarr"), brain, None, "cpu", None, {})
    values = {one.layer: one.value for one in ra.compare(brain, found, CKA(debiased=True))}
    wanted = ra.compare(brain, played.layers, CKA(debiased=True))
    assert values == {one.layer: one.value for one in wanted}
    assert max(values, key=values.__getitem__) == "mlp_extractor.value_net.1"
    assert open_model(str(path / "traces.zarr"), brain, ["value"], "cpu", None, {})
    everything = open_model(str(path), brain, None, "cpu", None, {})
    assert set(everything) == {*played.layers, *played.traces}
    card, where = str(tmp_path / "mine.toml"), {"to": tmp_path}
    shown = open_model(card, brain, None, "cpu", None, where, on=path)
    assert {*played.traces, "mlp_extractor.policy_net.1"} <= set(shown)
    layer = "mlp_extractor.value_net.1"
    np.testing.assert_array_equal(shown[layer]["response"], played.layers[layer]["response"])
    one = open_model(card, brain, ["reward_prediction_error"], "cpu", None, where, on=path)
    assert list(one) == ["reward_prediction_error"]
    with pytest.raises(ValueError, match="--on"):
        open_model(card, brain, None, "cpu", None, where)


def test_the_place_of_a_rollout_depends_on_all_that_matters(tmp_path):
    paths = {
        rollout_path(agent, to=tmp_path, **how)
        for agent in (cartpole(0), cartpole(1))
        for how in ({"episodes": 1}, {"episodes": 2}, {"episodes": 1, "seed": 1})
    }
    assert len(paths) == 6

"""Agents from checkpoints: equal to stable-baselines3, and nothing in them is ever run."""

from __future__ import annotations

import io
import json
import pickle
import re
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from repalign.agent_cards import AgentSettings
from repalign.agents import checkpoints as checkpoints_module
from repalign.agents import load_agent, make_environment, replay
from repalign.cards import list_cards, load_model_card

gym = pytest.importorskip("gymnasium", reason="gymnasium is an extra")


class Pixels(gym.Env):
    """Random images, channels last or first, with discrete actions."""

    def __init__(self, shape=(40, 40, 3)):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.integers(0, 256, self.observation_space.shape, np.uint8), {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


class Rooms(gym.Env):
    """A discrete observation space."""

    observation_space = gym.spaces.Discrete(7)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return int(self.np_random.integers(7)), {}

    def step(self, action):
        return self.reset()[0], 0.0, False, False, {}


def write_card(folder: Path, name: str, source: str, weights: str, **agent: Any) -> Path:
    table = {"environment": "CartPole-v1", **agent}
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    path = folder / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nsource = "{source}"\nweights = "{weights}"\n\n[agent]\n'
        + "\n".join(lines)
    )
    return path


def trained(algorithm: str, policy: str, env: Any, path: Path, **options: Any) -> Any:
    """A model of stable-baselines3 whose weights are far from their start, saved."""
    sb3 = pytest.importorskip("stable_baselines3", reason="the reference is an extra")
    if algorithm == "DQN":
        options = {"buffer_size": 10, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(sb3, algorithm)(policy, env, device="cpu", seed=1, **options)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in model.policy.parameters():
            tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    model.save(path)
    return model


def observe(env: Any, count: int = 20) -> np.ndarray:
    return np.stack([np.array(env.reset(seed=i)[0]) for i in range(count)])


def reference_input(model: Any, observations: np.ndarray) -> torch.Tensor:
    return model.policy.obs_to_tensor(observations)[0]


ACTOR_CRITICS = {
    "ppo": ("PPO", "MlpPolicy", lambda: gym.make("CartPole-v1"), {}),
    "a2c": ("A2C", "MlpPolicy", lambda: gym.make("CartPole-v1"), {}),
    "unequal depths, relu": (
        "PPO",
        "MlpPolicy",
        lambda: gym.make("CartPole-v1"),
        {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [16, 5]}, "activation_fn": torch.nn.ReLU}},
    ),
    "no hidden layers": (
        "PPO",
        "MlpPolicy",
        lambda: gym.make("CartPole-v1"),
        {"policy_kwargs": {"net_arch": []}},
    ),
    "one-hot states": ("PPO", "MlpPolicy", Rooms, {}),
    "images": ("PPO", "CnnPolicy", Pixels, {}),
    "images, channels first": ("A2C", "CnnPolicy", lambda: Pixels((2, 40, 44)), {}),
    "images, two feature networks": (
        "PPO",
        "CnnPolicy",
        Pixels,
        {"policy_kwargs": {"share_features_extractor": False}},
    ),
    "small images, perceptron": ("PPO", "MlpPolicy", lambda: Pixels((7, 7, 3)), {}),
}


@pytest.mark.parametrize("case", ACTOR_CRITICS)
def test_actor_critics_equal_stable_baselines(case, tmp_path):
    algorithm, policy, make, options = ACTOR_CRITICS[case]
    env = make()
    model = trained(algorithm, policy, env, tmp_path / "agent.zip", **options)
    agent = load_agent(write_card(tmp_path, "mine", f"sb3:{algorithm}", "agent.zip"))
    seen = observe(env)
    played = replay(agent, seen, device="cpu")
    inputs = reference_input(model, seen)
    with torch.no_grad():
        wanted = model.policy.predict_values(inputs)[:, 0].numpy()
        distribution = model.policy.get_distribution(inputs)
        actions = torch.zeros(len(seen))
        entropy = model.policy.evaluate_actions(inputs, actions)[2].numpy()
        ours = agent.module(torch.from_numpy(seen))["logits"].log_softmax(1)
    # Float32 rounds the sums of 10,000 products of a convolution otherwise in another order.
    tolerance = {"atol": 1e-5 if seen.dtype == np.uint8 else 1e-6, "rtol": 2e-6}
    np.testing.assert_allclose(played.steps["value"], wanted, **tolerance)
    np.testing.assert_allclose(played.steps["entropy"], entropy, **tolerance)
    np.testing.assert_allclose(ours, distribution.distribution.logits, **tolerance)
    assert (agent.settings.gamma, agent.settings.gae_lambda) == (model.gamma, model.gae_lambda)


def test_continuous_actions_equal_stable_baselines(tmp_path):
    env = gym.make("Pendulum-v1")
    model = trained("PPO", "MlpPolicy", env, tmp_path / "agent.zip")
    agent = load_agent(write_card(tmp_path, "mine", "sb3:PPO", "agent.zip"))
    seen = observe(env)
    played = replay(agent, seen)
    with torch.no_grad():
        inputs = reference_input(model, seen)
        output = agent.module(inputs)
        wanted = model.policy.get_distribution(inputs)
        entropy, stddev = wanted.entropy(), wanted.distribution.stddev
    np.testing.assert_allclose(output["mean"], wanted.distribution.mean, atol=1e-6)
    np.testing.assert_allclose(output["log_std"].detach().exp(), stddev, atol=1e-6)
    np.testing.assert_allclose(played.steps["entropy"], entropy, atol=1e-6)


@pytest.mark.parametrize("policy", ["MlpPolicy", "CnnPolicy"])
def test_q_values_equal_stable_baselines(policy, tmp_path):
    env = gym.make("CartPole-v1") if policy == "MlpPolicy" else Pixels()
    model = trained("DQN", policy, env, tmp_path / "agent.zip", gamma=0.9)
    agent = load_agent(write_card(tmp_path, "mine", "sb3:DQN", "agent.zip"))
    seen = observe(env)
    played = replay(agent, seen)
    with torch.no_grad():
        wanted = model.q_net(reference_input(model, seen)).numpy()
    np.testing.assert_allclose(played.steps["q"], wanted, atol=1e-5)
    np.testing.assert_allclose(played.steps["value"], wanted.max(1), atol=1e-5)
    assert not any("target" in name for name in played.layers)


def test_normalised_observations_equal_stable_baselines(tmp_path):
    vec = pytest.importorskip("stable_baselines3.common.vec_env", reason="the reference")
    plain = vec.DummyVecEnv([lambda: gym.make("CartPole-v1")])
    env = vec.VecNormalize(plain)
    env.seed(0)
    env.reset()
    for _ in range(50):
        env.step([env.action_space.sample()])
    model = trained("PPO", "MlpPolicy", env, tmp_path / "agent.zip", n_steps=8, batch_size=8)
    model.learn(8)
    model.save(tmp_path / "agent.zip")
    bare = write_card(tmp_path, "bare", "sb3:PPO", "agent.zip")
    with pytest.warns(UserWarning, match="VecNormalize.*observation_mean"):
        load_agent(bare)
    mean, variance = env.obs_rms.mean.tolist(), env.obs_rms.var.tolist()
    card = write_card(
        tmp_path,
        "mine",
        "sb3:PPO",
        "agent.zip",
        observation_mean=mean,
        observation_variance=variance,
    )
    seen = observe(gym.make("CartPole-v1"))
    played = replay(load_agent(card), seen)
    with torch.no_grad():
        inputs = reference_input(model, env.normalize_obs(seen))
        wanted = model.policy.predict_values(inputs)[:, 0].numpy()
    np.testing.assert_allclose(played.steps["value"], wanted, atol=1e-5)


@pytest.mark.parametrize("algorithm", ["PPO", "DQN"])
def test_untrained_twin_is_drawn_as_stable_baselines_draws(algorithm, tmp_path):
    model = trained(algorithm, "MlpPolicy", gym.make("CartPole-v1"), tmp_path / "agent.zip")
    card = write_card(tmp_path, "mine", f"sb3:{algorithm}", "agent.zip")
    first, again, other = (load_agent(f"{card}@random:{seed}") for seed in (1, 1, 2))
    assert first.name == "mine@random:1"
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    assert first.fingerprint() != load_agent(card).fingerprint()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh = type(model)("MlpPolicy", gym.make("CartPole-v1"), device="cpu", seed=3)
    wanted = fresh.policy.state_dict()
    for name, tensor in first.module.state_dict().items():
        reference = wanted[name]
        if reference.ndim == 2 and algorithm == "PPO":  # orthogonal: the Gram matrix is fixed
            wide = reference.shape[0] <= reference.shape[1]
            gram = [one @ one.T if wide else one.T @ one for one in (tensor, reference)]
            torch.testing.assert_close(gram[0], gram[1], atol=1e-5, rtol=0)
        elif reference.ndim == 2:
            bound = 1 / reference.shape[1] ** 0.5
            assert tensor.abs().max() <= bound
            assert tensor.std() == pytest.approx(bound / 3**0.5, rel=0.25)
        elif algorithm == "PPO":
            assert not tensor.any()


class Booby:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def rewrite(path: Path, **members: bytes) -> None:
    """Replace members of a zip; underscores in a keyword stand for dots."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content |= {name.replace("__", "."): value for name, value in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            archive.writestr(name, value)


@pytest.fixture
def saved(tmp_path):
    trained("PPO", "MlpPolicy", gym.make("CartPole-v1"), tmp_path / "agent.zip")
    return tmp_path


def test_code_in_a_checkpoint_is_never_run(saved):
    card, trap = write_card(saved, "mine", "sb3:PPO", "agent.zip"), saved / "trapped"
    buffer = io.BytesIO()
    torch.save({"weights": Booby(trap)}, buffer)
    with zipfile.ZipFile(saved / "agent.zip") as archive:
        fields = json.loads(archive.read("data"))
    import base64

    poison = base64.b64encode(pickle.dumps(Booby(trap))).decode()
    for value in fields.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = poison
    rewrite(saved / "agent.zip", data=json.dumps(fields).encode())
    load_agent(card)  # pickles in the data are never opened
    assert not trap.exists()
    rewrite(saved / "agent.zip", policy__pth=buffer.getvalue())
    with pytest.raises(ValueError, match=r"policy\.pth holds no plain tensors.*nothing.*was run"):
        load_agent(card)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Booby(trap)))
    assert trap.exists()  # the trap works


def test_a_checkpoint_of_another_algorithm_is_one_clear_error(saved):
    card = write_card(saved, "mine", "sb3:DQN", "agent.zip")
    with pytest.raises(ValueError, match=r"agent\.zip does not fit sb3:DQN: .*q_net\.q_net"):
        load_agent(card)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("value_net.bias"), "no value_net.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "unknown extra"),
        (lambda w: w.update({"value_net.bias": torch.zeros(3)}), "value_net.bias has shape"),
        (lambda w: w.update({"mlp_extractor.policy_net.7.weight": torch.ones(2, 2)}), "0, 2, 4"),
        (lambda w: w.update({"log_std": torch.zeros(64, 2)}), "use_sde"),
    ],
)
def test_wrong_keys_are_named(saved, change, message):
    with zipfile.ZipFile(saved / "agent.zip") as archive:
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    change(weights)
    torch.save(weights, saved / "policy.pth")
    card = write_card(saved, "mine", "sb3:PPO", "policy.pth", gamma=0.9)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_agent(card)


def test_bare_weights_need_a_discount_from_the_card(saved):
    with zipfile.ZipFile(saved / "agent.zip") as archive:
        (saved / "policy.pth").write_bytes(archive.read("policy.pth"))
    with pytest.raises(ValueError, match=r"gamma = 0\.99"):
        load_agent(write_card(saved, "mine", "sb3:PPO", "policy.pth"))
    agent = load_agent(write_card(saved, "yours", "sb3:PPO", "policy.pth", gamma=0.5))
    assert agent.settings.gamma == 0.5


def test_damaged_and_inflated_zips_are_refused(saved, monkeypatch):
    card = write_card(saved, "mine", "sb3:PPO", "agent.zip")
    whole = (saved / "agent.zip").read_bytes()
    monkeypatch.setattr(checkpoints_module, "MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(ValueError, match=r"policy\.pth unpacks to more than 1000 bytes"):
        load_agent(card)
    monkeypatch.undo()
    (saved / "agent.zip").write_bytes(whole[:2000])
    with pytest.raises(ValueError, match="no zip of stable-baselines3, or is damaged"):
        load_agent(card)
    with zipfile.ZipFile(saved / "agent.zip", "w") as archive:
        archive.writestr("../other", "x")
    with pytest.raises(ValueError, match=r"has no policy\.pth in it, but \.\./other"):
        load_agent(card)
    (saved / "agent.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*agent\.zip"):
        load_agent(card)


@pytest.mark.parametrize(
    ("source", "agent", "message"),
    [
        ("sb3:SAC", {}, "expected one of sb3:PPO, sb3:A2C, sb3:DQN"),
        ("sb3:PPO", {"observation_mean": [1.0]}, "observation_mean has 1 values"),
        ("sb3:PPO", {"gama": 0.9}, "gama"),
        ("sb3:PPO", {"gamma": 2}, "less than or equal to 1"),
        ("torchvision:resnet18", {}, r"\[agent\] table does not apply"),
    ],
)
def test_bad_cards_are_one_clear_error(tmp_path, source, agent, message):
    with pytest.raises(ValueError, match=message):
        load_agent(write_card(tmp_path, "mine", source, "agent.zip", **agent))


def test_a_network_is_no_agent():
    with pytest.raises(ValueError, match="resnet18 is no agent"):
        load_agent("resnet18")


OWN = """
import torch
class Own(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = torch.nn.Linear(4, 3)
        self.head = torch.nn.Linear(3, 2)
    def forward(self, observations):
        return {"logits": self.head(self.hidden(observations.float()).tanh())}
def broken():
    return torch.nn.Sequential(torch.nn.Linear(4, 2))
"""


def test_plain_torch_policies_load_from_the_users_own_cards(tmp_path, monkeypatch):
    (tmp_path / "own_policies_of_test.py").write_text(OWN)
    card = write_card(tmp_path, "own", "own_policies_of_test:Own", "random", gamma=0.9)
    agent = load_agent(card)
    assert agent.name == "own@random:0"
    torch.save(agent.module.state_dict(), tmp_path / "own.pth")
    saved = load_agent(write_card(tmp_path, "saved", "own_policies_of_test:Own", "own.pth"))
    seen = np.ones((3, 4), dtype=np.float32)
    both = [replay(one, seen).steps["entropy"].values for one in (agent, saved)]
    np.testing.assert_array_equal(*both)
    wrong = load_agent(write_card(tmp_path, "wrong", "own_policies_of_test:broken", "random"))
    with pytest.raises(TypeError, match="forward gave Tensor, expected a dict"):
        replay(wrong, seen)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"environment": "Cartpole-v1"}, ValueError, "CartPole"),
        ({"environment": "LunarLander-v2"}, ValueError, "LunarLander-v3"),
        ({"environment": "CartPole-v1", "environment_options": {"no": 1}}, ValueError, "'no'"),
        ({"environment": "CartPole-v1", "observation_key": "image"}, ValueError, "no dictionary"),
        ({"environment": "Nobody/Knows-v0"}, ValueError, "Nobody"),
    ],
)
def test_unknown_environments_are_one_clear_error(settings, error, message):
    with pytest.raises(error, match=message):
        make_environment(AgentSettings(**settings))


@pytest.mark.parametrize(
    ("environment", "package", "extra"),
    [
        ("MinAtar/Breakout-v1", "minatar", "rl"),
        ("MiniGrid-Empty-5x5-v0", "minigrid", "rl"),
        ("ALE/Breakout-v5", "ale_py", "atari"),
        ("CartPole-v1", "gymnasium", "rl"),
    ],
)
def test_a_missing_package_names_its_extra(environment, package, extra, monkeypatch):
    for name in [one for one in sys.modules if one.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=re.escape(f"pip install 'repalign[{extra}]'")):
        make_environment(AgentSettings(environment=environment))


@pytest.mark.parametrize(
    ("package", "settings", "shape"),
    [
        ("minatar", {"environment": "MinAtar/Breakout-v1"}, (10, 10, 4)),
        (
            "minigrid",
            {"environment": "MiniGrid-Empty-5x5-v0", "observation_key": "image"},
            (7, 7, 3),
        ),
        ("ale_py", {"environment": "ALE/Breakout-v5", "atari": True}, (4, 84, 84)),
    ],
)
def test_environments_of_other_packages_are_seeded(package, settings, shape):
    pytest.importorskip(package, reason="an extra")
    if settings.get("atari"):
        pytest.importorskip("cv2", reason="an extra")
    frames = []
    for _ in range(2):
        env = make_environment(AgentSettings(**settings))
        frames.append([env.reset(seed=5)[0], *(env.step(i % 3)[0] for i in range(20))])
        env.close()
    assert np.shape(frames[0][0]) == shape
    np.testing.assert_array_equal(np.array(frames[0]), np.array(frames[1]))


AGENTS = [n for n in list_cards("model") if load_model_card(n).source.startswith("sb3:")]


@pytest.mark.parametrize("name", AGENTS)
def test_given_agents_load_as_their_cards_say(name, data_folder, recwarn):
    agent = load_agent(name, mirror=data_folder)
    names = [one for one, _ in agent.module.named_modules()]
    assert set(agent.layers) <= set(names)
    env = make_environment(agent.settings)
    played = replay(agent, observe(env, 3), layers=agent.layers)
    assert list(played.layers) == list(agent.layers)
    assert not recwarn.list

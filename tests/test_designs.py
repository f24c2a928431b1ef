"""Power of designs: components of planted pilots, prediction beside fresh data, bad input."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import repalign as ra
from repalign.designs import Components, estimate_components, power
from repalign.designs.pilot_components import kernels_of
from repalign.designs.power_intervals import power_interval
from repalign.designs.simulated_designs import TESTS, Design, simulate_design
from repalign.metrics import compare_rdms, rdm
from repalign.metrics.pairs import square_form
from repalign.recording import make_activations, make_rdm_recording, make_recording
from repalign.reporting.figures import figure_bytes
from repalign.reporting.power_figure import power_curves
from repalign.robustness.intervals import wilson

CHECK = Path(__file__).parents[1] / "scripts" / "bench" / "power_check.py"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def pilot_of(n: int, subjects: int, sessions: int, directions: int, noise: float, seed: int = 0):
    """RDMs of subjects who each read eight features in some directions, with noise a session."""
    z = normal(n, 8, seed=seed)
    draw = np.random.default_rng(seed + 1)
    found = []
    for _ in range(subjects):
        signal = z @ torch.from_numpy(draw.normal(size=(8, directions)))
        noisy = signal + noise * torch.from_numpy(draw.normal(size=(sessions, n, directions)))
        found.append(torch.stack([rdm(one, method="euclidean") for one in noisy]))
    layers = torch.stack([rdm(z[:, :4], method="euclidean"), rdm(z[:, 4:], method="euclidean")])
    return torch.stack(found), layers


@pytest.mark.parametrize(("directions", "noise"), [(10, 0.5), (30, 3.0), (60, 1.5)])
def test_components_of_a_planted_pilot_are_found(directions, noise):
    rdms, layers = pilot_of(80, 40, 3, directions, noise)
    found = estimate_components(rdms, layers)
    assert found.dimensions == pytest.approx(directions, rel=0.12)
    variance = noise**2 / (8 + noise**2) / 80  # of a trace of 1
    assert found.noise == pytest.approx(variance, rel=0.2)
    assert found.explained > 0.95  # both layers together are all that subjects share


def test_without_sessions_noise_is_part_of_subjects():
    rdms, layers = pilot_of(60, 30, 1, 20, 1.0)
    found = estimate_components(rdms, layers)
    assert found.noise is None
    assert found.dimensions == pytest.approx(20, rel=0.15)
    square = square_form(rdms[:, 0])
    again = estimate_components(square, layers)
    assert again.dimensions == found.dimensions
    torch.testing.assert_close(again.root @ again.root.T, found.root @ found.root.T)


def test_what_subjects_share_beside_the_layers_is_told_from_their_own_deviations():
    """Few subjects' mean holds their own deviations; these are not shared."""
    rdms, _ = pilot_of(50, 4, 1, 10, 0.0)
    strange = torch.stack([rdm(normal(50, 6, seed=s), method="euclidean") for s in (8, 9)])
    few = estimate_components(rdms, strange)
    many = estimate_components(pilot_of(50, 60, 1, 10, 0.0)[0], strange)
    centring = torch.eye(50, dtype=torch.float64) - 1 / 50

    def length(components: Components) -> float:
        kernel = components.root @ components.root.T
        rest = kernel - (kernel * centring).sum() / 49 * centring
        return float(rest.norm())

    raw = kernels_of(rdms[:, 0])
    raw = (raw / raw.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]).mean(0)
    inflated = float((raw - raw.trace() / 49 * centring).norm())
    assert inflated > 1.1 * length(many)
    assert abs(length(few) / length(many) - 1) < 0.05


def test_simulated_subjects_are_like_the_pilots():
    rdms, layers = pilot_of(80, 40, 2, 15, 2.0)
    components = estimate_components(rdms, layers)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(60):
        models, subjects = simulate_design(components, layers, Design(40, 20, 1), generator)
        values.append(compare_rdms(models[:, None], subjects[None], method="corr", batch_dims=2))
    of_pilot = compare_rdms(layers[:, None], rdms[None, :, 0], method="corr", batch_dims=2)
    found = torch.stack(values)
    torch.testing.assert_close(found.mean((0, 2)), of_pilot.mean(1), atol=0.03, rtol=0)
    assert float(found.std(2).mean()) == pytest.approx(float(of_pilot.std(1).mean()), rel=0.35)


def test_copies_of_a_stimulus_are_never_compared():
    rdms, layers = pilot_of(10, 3, 1, 5, 0.0)
    components = estimate_components(rdms, layers)
    models, subjects = simulate_design(
        components, layers, Design(30, 2, 1), torch.Generator().manual_seed(1)
    )
    assert models.shape == (2, 435)
    assert bool((models.isnan() == subjects.isnan().all(0)).all())
    assert bool((models[~models.isnan()] > 0).all())


@pytest.mark.slow
def test_predicted_power_is_the_rejection_rate_in_fresh_simulations():
    """The truth is written out in the bench script and shares no code with the prediction.

    The pilot is large, so that its own noise does not hide errors of the method.
    """
    truth = runpy.run_path(str(CHECK))["Truth"]("Gaussian")
    layers, pilot = truth.pilot((600, 30, 2), 0)
    for design in ((16, 8, 1), (32, 16, 1)):
        n, subjects, sessions = design
        found = power(
            pilot,
            layers,
            n_stimuli=[n],
            n_subjects=[subjects],
            repetitions=[sessions],
            test="subjects",
            n_simulations=500,
        ).designs[0]
        hits = 0
        for seed in range(500):
            data = truth.data(n, subjects, sessions, seed=seed)
            hits += TESTS["subjects"][1](*data, "corr", 200, seed)[1] <= 0.05
        assert abs(found.power - hits / 500) < 0.08  # .05, and what 500 data sets leave open
        assert 0.1 < found.power < 0.9


def test_the_interval_holds_what_the_pilot_leaves_open_of_the_effect():
    rdms, layers = pilot_of(40, 8, 1, 20, 2.0)
    layers[0] = 0.5 * layers[0] + 0.5 * layers.mean(0)
    given = {"n_stimuli": [20], "n_subjects": [10], "test": "subjects", "n_simulations": 100}
    found = power(rdms, layers, **given)
    one = found.designs[0]
    alone = power(found.components, layers, **given)
    assert alone.designs[0].power == one.power
    k = round(100 * one.power)
    assert (alone.designs[0].low, alone.designs[0].high) == pytest.approx(wilson(k, 100), abs=1e-12)
    assert np.isnan(alone.pilot_reach)
    assert one.low <= alone.designs[0].low
    assert one.high >= alone.designs[0].high
    assert one.high - one.low > 1.2 * (alone.designs[0].high - alone.designs[0].low)
    # the interval of the difference is that of infer
    table = ra.infer(
        make_rdm_recording(
            square_form(rdms[:, 0]).numpy(), stimulus_id=[f"i{k}" for k in range(40)],
            subject=[f"s{k}" for k in range(8)], species="human", region="IT",
        ),
        {
            name: make_rdm_recording(
                square_form(layer)[None].numpy(), stimulus_id=[f"i{k}" for k in range(40)],
                subject=["s"], species="network", region="x",
            )
            for name, layer in zip("ab", layers, strict=True)
        },
        ra.RSA(rdm="euclidean", comparator="corr"), over="both", n_resamples=200,
    ).pairs.iloc[0]  # fmt: skip
    assert found.pilot_difference == pytest.approx(table["difference"], abs=1e-9)
    assert found.pilot_reach == pytest.approx((table["high"] - table["low"]) / 2, rel=1e-6)


def test_power_is_read_at_both_ends_of_the_pilots_interval():
    effects = torch.linspace(1.0, 3.0, 200, dtype=torch.float64)

    def p_of(effect):
        return lambda shifts: torch.where(effect + shifts > 2, 0.01, 0.5)

    tests = [p_of(effect) for effect in effects]
    low, high = wilson(100, 200)
    assert power_interval(tests, effects, alpha=0.05, pilot=None) == pytest.approx((low, high))
    # m/d is 1/2: shifts of up to ±.4 turn a fifth of the data sets
    found = power_interval(tests, effects, alpha=0.05, pilot=(4.0, 0.8))
    expected = 0.5 - np.hypot(0.2, 0.5 - low), 0.5 + np.hypot(0.2, high - 0.5)
    assert found == pytest.approx(expected, abs=0.006)
    assert power_interval(tests, effects, alpha=0.05, pilot=(4.0, 80.0)) == (0.0, 1.0)
    assert power_interval(tests, effects, alpha=0.05, pilot=(0.0, 80.0)) == (0.0, 1.0)


@pytest.mark.slow
def test_intervals_of_small_pilots_hold_the_rate_in_fresh_data():
    """20 pilots: of a coverage of .95, fewer than 15 hits come by once in ten thousand."""
    script = runpy.run_path(str(CHECK))
    truth = script["Truth"]("Gaussian")
    design = (24, 10, 1)
    rate = script["rejection_rate"](truth, "subjects", design, 300)
    hits = 0
    for seed in range(20):
        layers, pilot = truth.pilot((40, 8, 2), seed)
        found = power(
            pilot, layers, n_stimuli=24, n_subjects=np.array([10]), test="subjects",
            n_simulations=100, n_resamples=100,
        ).designs[0]  # fmt: skip
        hits += found.low <= rate <= found.high
    assert hits >= 15


def test_power_of_layers_that_are_equally_good_is_alpha():
    z = normal(60, 10)
    layers = torch.stack([rdm(z[:, :5], method="euclidean"), rdm(z[:, 5:], method="euclidean")])
    root = z - z.mean(0)
    components = Components(root / root.norm(), 20, 0.002, 1.0)
    for test in ("two-factor", "subjects"):
        found = power(
            components, layers, n_stimuli=[20], n_subjects=[8], test=test, n_simulations=150
        )
        assert found.designs[0].power < (0.35 if test == "subjects" else 0.11)


def test_more_stimuli_subjects_and_sessions_have_more_power():
    rdms, _ = pilot_of(80, 30, 2, 20, 3.0)
    z = normal(80, 8)
    layers = torch.stack(
        [
            rdm(z + 0.3 * normal(80, 8, seed=1), method="euclidean"),
            rdm(z + 1.0 * normal(80, 8, seed=2), method="euclidean"),
        ]
    )
    found = power(
        rdms, layers, n_stimuli=[12, 40], n_subjects=[6, 16], repetitions=[1, 4], test="subjects",
        n_simulations=80,
    )  # fmt: skip
    grid = found.to_xarray()["power"]
    assert grid.dims == ("n_stimuli", "n_subjects", "repetitions")
    for name in grid.dims:
        assert bool((grid.diff(name).mean() > 0.05).all())
    least = found.least(0.5)
    assert least is not None
    assert least.power >= 0.5
    assert found.least(1.01) is None
    assert len(found.to_pandas()) == 8
    alone = power(
        rdms, layers, n_stimuli=[40], n_subjects=[6], repetitions=[4], test="subjects",
        n_simulations=80,
    )  # fmt: skip
    same = [one for one in found.designs if vars(one).items() >= {"n_stimuli": 40}.items()]
    assert alone.designs[0].power in [one.power for one in same]  # whatever else is in the grid


def test_few_subjects_say_that_they_cannot_be_significant():
    rdms, layers = pilot_of(30, 4, 1, 10, 0.0)
    found = power(
        rdms, layers, n_stimuli=[20], n_subjects=[5, 6], test="subjects", n_simulations=20
    )
    assert found.smallest_p == {5: 0.0625, 6: 0.03125}
    assert found.designs[0].power == 0
    svg = figure_bytes(power_curves(found), "svg").decode()
    assert svg.startswith("<?xml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_stimuli": [3]}, "expected 5 or more stimuli, 2 subjects and 1 repetition"),
        ({"n_subjects": []}, "there are no designs"),
        ({"repetitions": [2]}, "1 session a subject, which does not tell noise from subjects"),
        ({"test": "anova"}, "anova"),
        ({"comparator": "corr_cov"}, "needs all pairs of stimuli; use 'corr'"),
        ({"alpha": 0}, "alpha is 0"),
        ({"seed": None}, "seed is None; expected a whole number"),
    ],
)
def test_bad_designs_are_explained(settings, message):
    rdms, layers = pilot_of(20, 3, 1, 5, 0.0)
    grid = {"n_stimuli": [10], "n_subjects": [4]} | settings
    with pytest.raises(ValueError, match=message):
        power(rdms, layers, **grid)


def test_bad_pilots_are_explained():
    rdms, layers = pilot_of(20, 3, 1, 5, 0.0)
    with pytest.raises(ValueError, match="expected RDMs of 2 or more subjects"):
        estimate_components(rdms[:1], layers)
    with pytest.raises(ValueError, match="2 of the pilot's 20"):
        estimate_components(rdms, layers[:, :45])
    holes = rdms.clone()
    holes[0, 0, 3] = torch.nan
    with pytest.raises(ValueError, match="1 RDMs of the pilot hold NaN"):
        estimate_components(holes, layers)
    with pytest.raises(ValueError, match="RDM of layers holds NaN"):
        power(rdms, holes[:2, 0], n_stimuli=[10], n_subjects=[4])
    flat = torch.stack([layers[0], torch.ones_like(layers[0]) / 3])
    with pytest.raises(ValueError, match="the RDM of layer 1 .* is constant"):
        power(rdms, flat, n_stimuli=[10], n_subjects=[4])
    with pytest.raises(ValueError, match="RDM of subject 0 .* of the pilot is constant"):
        power(rdms * 0 + 1, layers, n_stimuli=[10], n_subjects=[4])


# Recordings as pilots


def test_recordings_become_rdms_of_subjects_and_sessions():
    ids = [f"s{i}" for i in range(12)]
    y = np.random.default_rng(0).normal(size=(36, 10))
    brain = make_recording(y, stimulus_id=ids * 3, region="IT", subject=["a"] * 5 + ["b"] * 5)
    layers = {
        name: make_activations(y[rows], ids, "net", name, (12, 10))
        for name, rows in {"one": slice(12), "two": slice(12, 24)}.items()
    }
    pilot, rdms = ra.pilot_rdms(brain, layers, method="euclidean")
    assert pilot.shape == (2, 3, 66)
    expected = rdm(y[12:24, 5:], method="euclidean")
    torch.testing.assert_close(pilot[1, 1], expected)
    torch.testing.assert_close(rdms[0], rdm(y[:12], method="euclidean"))
    published = make_rdm_recording(
        square_form(pilot.flatten(0, 1)).numpy(),
        stimulus_id=ids,
        subject=["a"] * 3 + ["b"] * 3,
        species="human",
        region="IT",
        session=["1", "2", "3"] * 2,
    )
    torch.testing.assert_close(ra.pilot_rdms(published, layers)[0], pilot)
    with pytest.raises(ValueError, match="there are 1 layers; a design tells two apart"):
        ra.pilot_rdms(brain, {"one": layers["one"]})
    with pytest.raises(ValueError, match="1 subjects in unknown IT; expected 2 or more"):
        ra.pilot_rdms(ra.select(brain, subject="a"), layers)

"""The audit finds planted Goodhart cases, clears genuine gains, and follows its stated rules."""

from __future__ import annotations

import doctest
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from repalign import layer_activations
from repalign.experiments import (
    audit_changes,
    audit_measures,
    audit_rows,
    audit_rules,
    goodhart,
)
from repalign.experiments.audit_changes import Change, pooled
from repalign.experiments.audit_measures import make_instrument, metric_label, tenths
from repalign.experiments.audit_rows import (
    AUDITED_AS,
    OTHER_METRICS,
    AlignmentPanel,
    alignment_panel,
    rows_of_network,
)
from repalign.experiments.goodhart import RULES, GoodhartAudit, goodhart_audit
from repalign.layer_activations import layer_responses
from repalign.metrics import CKA, RSA, Metric, Procrustes, Ridge
from repalign.networks import Network
from repalign.recording import make_recording, stimulus_ids
from repalign.regularize.controls import CONTROLS

BIASED = CKA(debiased=False)
BRIEF: tuple[Metric, ...] = (RSA(), Ridge(), Procrustes(kind="similarity"))


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def ids_of(n: int) -> list[str]:
    return [f"image-{i}" for i in range(n)]


def recording_of(responses: Tensor, **coordinates: Any) -> xr.Dataset:
    given = {"region": "IT"} | coordinates
    return make_recording(responses.numpy(), stimulus_id=ids_of(len(responses)), **given)


# Planted cases: a network is trained on the biased CKA, as the published work does.


def network_of(width: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 24))
    return net.double()


def aligned(net: nn.Module, inputs: Tensor, responses: Tensor, *, steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        (1 - BIASED(net(inputs), responses)).backward()
        optimizer.step()
    return net


def experiment(
    inputs: Tensor,
    responses: Tensor,
    *,
    n_trained: int,
    seeds: Sequence[int],
    steps: int = 80,
    trained_to: Tensor | None = None,
    panel: AlignmentPanel | None = None,
) -> list[dict[str, Any]]:
    """Runs of the network as initialised, and of the same after alignment."""
    panel = panel or alignment_panel(
        recording_of(responses),
        trained_metric=BIASED,
        metrics=BRIEF,
        trained_stimuli=ids_of(n_trained),
        ceiling=False,
    )
    pulled = responses if trained_to is None else trained_to
    runs = []
    for seed in seeds:
        for condition in ("baseline", "aligned"):
            net = network_of(inputs.shape[1], seed)
            if condition == "aligned":
                aligned(net, inputs[:n_trained], pulled[:n_trained], steps=steps)
            rows = panel.rows(net(inputs), layer="top")
            runs.append({"condition": condition, "seed": seed, "alignment": rows})
    return runs


def genuine(n: int = 240) -> tuple[Tensor, Tensor]:
    """Images of 6 dimensions, and noisy linear readouts of a smooth code of them."""
    images = normal(n, 6)
    features = torch.tanh(images @ normal(6, 12, seed=1) / 2)
    signal = features[:, :4] @ normal(4, 20, seed=2)
    return images, signal + 0.5 * normal(n, 20, seed=3)


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one seed", "three seeds"])
def test_a_network_that_memorises_is_found_out(seeds: tuple[int, ...]) -> None:
    """Noise images and unrelated responses: all there is to gain is memory."""
    runs = experiment(normal(100, 150), normal(100, 15, seed=1), n_trained=60, seeds=seeds)
    audit = goodhart_audit(runs)
    assert audit.outcome == "gamed"
    assert audit.passed is False
    rules = {one.rule: one.passed for one in audit.rules}
    assert rules["stimuli"] is False
    assert "It fails to generalise over stimuli" in audit.verdict


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)], ids=["one seed", "three seeds"])
def test_a_gain_that_generalises_is_cleared(seeds: tuple[int, ...]) -> None:
    audit = goodhart_audit(experiment(*genuine(), n_trained=160, seeds=seeds))
    assert audit.outcome == "clear", audit.reasons
    assert audit.passed is True
    assert "on held-out ones" in audit.verdict


def test_a_gain_on_shuffled_responses_is_not_cleared() -> None:
    images, responses = genuine()
    order = torch.from_numpy(np.random.default_rng(0).permutation(160))
    shuffled = responses.clone()
    shuffled[:160] = responses[order]
    runs = experiment(images, shuffled, n_trained=160, seeds=[0])
    assert goodhart_audit(runs).passed is not True


def test_a_gain_on_one_metric_that_costs_another_is_not_cleared() -> None:
    """One dimension that only CKA heeds is blown up, and what predicts most neuroids is lost."""
    n = 120
    loud, rest = normal(n, 1), normal(n, 6, seed=1)
    brain = torch.cat([8 * loud, 8 * loud, rest, rest @ normal(6, 10, seed=2) / 2.5], 1)
    before = torch.cat([0.3 * loud, rest], 1) + 0.1 * normal(n, 7, seed=3)
    after = torch.cat([8 * loud, 0 * rest], 1) + 0.1 * normal(n, 7, seed=4)

    def audit(metrics: Sequence[Metric]) -> GoodhartAudit:
        panel = alignment_panel(
            recording_of(brain),
            trained_metric=BIASED,
            metrics=metrics,
            held_out_stimuli=ids_of(n)[60:],
            ceiling=False,
        )
        return goodhart_audit(
            [
                {"condition": name, "seed": 0, "alignment": panel.rows(features, layer="top")}
                for name, features in (("baseline", before), ("aligned", after))
            ]
        )

    alone = audit((Ridge(),))
    held_out = {r["metric"]: r for r in alone.rows if r["stimuli"] == "held out"}
    assert held_out["cka:debiased=false"]["rose"]
    assert held_out["ridge"]["fell"]
    assert alone.outcome == "gamed"
    assert "It fails to generalise over metrics" in alone.verdict
    assert audit((RSA(), Ridge())).outcome == "undecided"  # its RDM is that of the loud dimension


def test_a_shared_offset_raises_cosines_but_not_above_their_null() -> None:
    cosine = RSA(rdm="cosine", comparator="cosine")
    brain, before = normal(80, 12).abs(), normal(80, 3, seed=1)
    panel = alignment_panel(
        recording_of(brain),
        trained_metric=cosine,
        metrics=(),
        held_out_stimuli=ids_of(80)[50:],
        ceiling=False,
    )
    offset = 30 + normal(80, 40, seed=2)
    rows = [panel.rows(features, layer="top") for features in (before, offset)]
    assert rows[1][0]["value"] > rows[0][0]["value"] + 0.1
    runs = [
        {"condition": name, "seed": 0, "alignment": one}
        for name, one in zip(("baseline", "aligned"), rows, strict=True)
    ]
    assert goodhart_audit(runs).outcome == "nothing to audit"


# The rules, on constructed rows.

SPREAD = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


def row(
    metric: str,
    stimuli: str,
    value: float | None,
    *,
    neuroids: str = "trained",
    region: str = "IT",
    noise: float = 0.0,
    **more: Any,
) -> dict[str, Any]:
    return {
        "layer": "top",
        "metric": metric,
        "region": region,
        "subject": "a" if neuroids == "trained" else "b",
        "stimuli": stimuli,
        "neuroids": neuroids,
        "trained_metric": metric == "cka",
        "value": value,
        "without": [] if value is None else (value + noise * SPREAD).tolist(),
        **more,
    }


NAMES = ("neuroids", "region")
Values = Mapping[tuple[str, str] | tuple[str, str, str] | tuple[str, str, str, str], float]


def runs_of(condition: str, values: Values, *, seeds: int = 3, spread: float = 0.0) -> list[Any]:
    """Runs whose values scatter by ``spread`` over seeds."""
    runs = []
    for seed in range(seeds):
        shift = spread * (seed - (seeds - 1) / 2)
        rows = [
            row(key[0], key[1], value + shift, **dict(zip(NAMES, key[2:], strict=False)))
            for key, value in values.items()
        ]
        runs.append({"condition": condition, "seed": seed, "alignment": rows})
    return runs


def judged(changes: Values, *, spread: float = 0.0, seeds: int = 3) -> GoodhartAudit:
    before = runs_of("baseline", dict.fromkeys(changes, 0.1), seeds=seeds)
    after = {key: 0.1 + change for key, change in changes.items()}
    return goodhart_audit(before + runs_of("aligned", after, seeds=seeds, spread=spread))


TRAINED, HELD_OUT = ("cka", "trained"), ("cka", "held out")
OTHERS = {("rsa", "held out"): 0.2, ("ridge", "held out"): 0.1}


@pytest.mark.parametrize(
    ("held_out", "outcome"),
    [(0.4, "clear"), (0.2, "clear"), (0.19, "undecided"), (0.14, "undecided"), (0.13, "gamed")],
)
def test_held_out_stimuli_must_keep_half_of_the_gain(held_out: float, outcome: str) -> None:
    assert judged({TRAINED: 0.4, HELD_OUT: held_out, **OTHERS}).outcome == outcome


@pytest.mark.parametrize(
    ("rsa", "ridge", "procrustes", "outcome"),
    [
        (0.1, 0.1, 0.1, "clear"),
        (0.1, 0.1, 0.0, "clear"),
        (0.1, 0.0, 0.0, "undecided"),  # a third
        (0.1, 0.1, -0.1, "undecided"),  # most rise, one falls
        (0.1, -0.1, -0.1, "gamed"),  # more fall than rise
        (0.0, 0.0, 0.0, "gamed"),
        (0.019, 0.019, 0.019, "gamed"),  # too little to count
    ],
)
def test_other_metrics_must_rise_too(
    rsa: float, ridge: float, procrustes: float, outcome: str
) -> None:
    changes = {("rsa", "held out"): rsa, ("ridge", "held out"): ridge}
    changes[("procrustes", "held out")] = procrustes
    assert judged({TRAINED: 0.4, HELD_OUT: 0.4, **changes}).outcome == outcome


def test_relatives_of_the_trained_metric_are_no_witnesses() -> None:
    audit = judged({TRAINED: 0.4, HELD_OUT: 0.4, ("cka:debiased=false", "held out"): 0.4})
    assert audit.outcome == "undecided"
    assert "No other metric was measured on held-out stimuli" in " ".join(audit.reasons)


def test_without_held_out_stimuli_nothing_is_cleared() -> None:
    audit = judged({TRAINED: 0.4, ("rsa", "trained"): 0.4})
    assert audit.outcome == "undecided"
    assert "memorising cannot be ruled out" in audit.reasons[0]
    assert "nothing is known of held-out ones" in audit.verdict


@pytest.mark.parametrize("gain", [0.0, 0.019, -0.3])
def test_without_a_gain_there_is_nothing_to_audit(gain: float) -> None:
    audit = judged({TRAINED: gain, HELD_OUT: 0.0, **OTHERS})
    assert audit.outcome == "nothing to audit"
    assert audit.passed is None
    assert len(audit.rows) == 4


def test_changes_within_their_interval_decide_nothing() -> None:
    changes = {TRAINED: 0.4, HELD_OUT: 0.1, **OTHERS}
    assert judged(changes, spread=0.01).outcome == "gamed"
    assert judged(changes, spread=0.1).outcome == "undecided"  # half the gain is within reach
    assert judged(changes, spread=0.5).outcome == "nothing to audit"


def test_held_out_subjects_may_withhold_the_clearance() -> None:
    changes = {TRAINED: 0.4, HELD_OUT: 0.4, **OTHERS}
    same = ("cka", "held out", "held out")
    audit = judged(changes | {same: 0.3})
    assert audit.outcome == "clear"
    assert "reaches held-out subjects" in audit.reasons[2]
    audit = judged(changes | {same: 0.0})
    assert audit.outcome == "undecided"
    assert "It fails to generalise over subjects." in audit.verdict
    audit = judged(changes | {("cka", "held out", "held out", "V4"): -0.1})
    assert audit.outcome == "clear"  # another region decides nothing, and is reported
    assert "In regions or recordings not trained on it changed by -0.100" in audit.reasons[3]


def test_one_seed_takes_its_error_from_the_stimuli() -> None:
    def audit(noise: float) -> GoodhartAudit:
        runs = []
        for name, gain in (("baseline", 0.0), ("aligned", 0.3)):
            own = noise if name == "aligned" else 0.0
            keys = [("cka", "trained"), ("cka", "held out"), ("rsa", "held out")]
            rows = [row(*key, 0.1 + gain, noise=own) for key in keys]
            runs.append({"condition": name, "seed": 7, "alignment": rows})
        return goodhart_audit(runs)

    assert audit(0.01).outcome == "clear"
    assert audit(0.2).outcome == "nothing to audit"
    table = audit(0.01).rows[0]
    assert table["error"] == pytest.approx(math.sqrt(4 / 5 * 2.5e-4))
    assert table["p"] is table["sd"] is table["low"] is None
    silent = runs_of("baseline", {TRAINED: 0.1}, seeds=1) + runs_of(
        "aligned", {TRAINED: 0.9}, seeds=1
    )
    for run in silent:
        run["alignment"][0]["without"] = []
    assert goodhart_audit(silent).outcome == "nothing to audit"  # without an error nothing counts


def test_distances_count_when_they_shrink() -> None:
    def runs(name: str, similarity: float, distance: float) -> list[dict[str, Any]]:
        rows = [row("cka", s, similarity) for s in ("trained", "held out")]
        rows.append(row("procrustes", "held out", distance, is_distance=True))
        return [{"condition": name, "seed": s, "alignment": rows} for s in range(2)]

    nearer = goodhart_audit(runs("baseline", 0.1, 0.9) + runs("aligned", 0.5, 0.6))
    assert nearer.outcome == "clear"
    assert [r["change"] for r in nearer.rows if r["metric"] == "procrustes"] == [pytest.approx(0.3)]
    farther = goodhart_audit(runs("baseline", 0.1, 0.6) + runs("aligned", 0.5, 0.9))
    assert farther.outcome == "gamed"


def test_rows_say_what_so_few_seeds_can_show() -> None:
    changes = {TRAINED: 0.4, HELD_OUT: 0.4, **OTHERS}
    audit = judged(changes, spread=0.01)
    for one in audit.rows:
        assert one["n_seeds"] == 3
        assert one["p"] == one["smallest_p"] == 0.25
        assert one["sd"] == pytest.approx(0.01)
        assert one["low"] == pytest.approx(one["change"] - 4.302653 * 0.01 / math.sqrt(3))
        assert one["error"] == pytest.approx(0.01 / math.sqrt(3))


def test_the_trained_gain_never_stands_alone() -> None:
    """In the table its held-out row is the next, and the verdict names both."""
    shuffled = dict(reversed(list(({TRAINED: 0.4, HELD_OUT: 0.3} | OTHERS).items())))
    audit = judged(shuffled)
    assert [(r["metric"], r["stimuli"]) for r in audit.rows[:2]] == [TRAINED, HELD_OUT]
    assert "+0.400" in audit.verdict
    assert "+0.300" in audit.verdict
    assert "2 of 2 other metrics rose" in audit.verdict


def test_controls_stand_beside_the_aligned_network() -> None:
    changes = {TRAINED: 0.5, HELD_OUT: 0.5, **OTHERS}
    runs = runs_of("baseline", dict.fromkeys(changes, 0.1))
    for name, gain in (("one-hot", 0.45), ("row-shuffle", 0.0), ("aligned", 0.4)):
        runs += runs_of(name, dict.fromkeys(changes, 0.1 + gain), spread=0.04)
    audit = goodhart_audit(runs)
    assert [r["condition"] for r in audit.rows] == ["aligned"] * 4 + ["one-hot"] * 4 + [
        "row-shuffle"
    ] * 4
    assert "less than the aligned network: row-shuffle +0.000" in audit.reasons[-1]
    assert "as much, within their 95 % interval: one-hot +0.450" in audit.reasons[-1]
    assert goodhart_audit(runs, aligned="row-shuffle").outcome == "nothing to audit"


def test_only_shared_seeds_are_paired() -> None:
    changes = {TRAINED: 0.1, HELD_OUT: 0.1}
    before = runs_of("baseline", changes, seeds=2)
    after = runs_of("aligned", dict.fromkeys(changes, 0.5), seeds=4)
    assert {r["n_seeds"] for r in goodhart_audit(before + after).rows} == {2}
    for run in after:
        run["seed"] += 10
    with pytest.raises(ValueError, match="'aligned' and the baseline share no seed"):
        goodhart_audit(before + after)


def test_an_audit_is_json() -> None:
    runs = experiment(*genuine(60), n_trained=45, seeds=[0], steps=3)
    text = json.dumps([goodhart_audit(runs).to_dict(), runs], allow_nan=False)
    found = json.loads(text)[0]
    assert set(found) == {"outcome", "verdict", "passed", "reasons", "rules", "rows"}
    assert all(one["says"] == RULES[one["rule"]] for one in found["rules"])


def test_undefined_values_are_left_out() -> None:
    before = runs_of("baseline", {TRAINED: 0.1, HELD_OUT: 0.1, **OTHERS})
    after = runs_of("aligned", {TRAINED: 0.5, HELD_OUT: 0.5, **OTHERS})
    for run in after:
        run["alignment"][3] |= {"value": None, "without": []}
        run["alignment"][2]["value"] = 0.6
    audit = goodhart_audit(before + after)
    assert "Of 1 metrics of other families 1 rose" in audit.reasons[1]
    assert audit.rows[2]["change"] is None


def test_runs_that_cannot_be_audited_are_refused() -> None:
    good = runs_of("baseline", {TRAINED: 0.1}) + runs_of("aligned", {TRAINED: 0.1})
    with pytest.raises(ValueError, match="no run has condition 'mine'; there are baseline"):
        goodhart_audit(good, aligned="mine")
    with pytest.raises(ValueError, match="condition 'baseline' has seed 0 twice"):
        goodhart_audit(good + good[:1])
    with pytest.raises(ValueError, match="a run has no 'seed'"):
        goodhart_audit([{"condition": "aligned"}])
    with pytest.raises(ValueError, match="'aligned', seed 0 has no alignment rows"):
        goodhart_audit([{"condition": "aligned", "seed": 0, "alignment": []}])
    with pytest.raises(ValueError, match="a row has no 'metric'"):
        goodhart_audit(
            [
                {
                    "condition": "aligned",
                    "seed": 0,
                    "alignment": [{"layer": "top", "region": "", "subject": "", "neuroids": ""}],
                }
            ]
        )
    twice = [{"condition": "a", "seed": 0, "alignment": [row("cka", "trained", 0.1)] * 2}]
    with pytest.raises(ValueError, match="stands twice"):
        goodhart_audit(twice)
    untrained = runs_of("baseline", OTHERS) + runs_of("aligned", OTHERS)
    with pytest.raises(ValueError, match="has trained_metric=True"):
        goodhart_audit(untrained)


# Errors and nulls, against closed forms and enumeration.


def test_the_error_joins_seeds_and_stimuli() -> None:
    per_seed = np.array([0.1, 0.3])
    groups = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.7]])
    seeds = per_seed.std(ddof=1) / math.sqrt(2)
    mean = groups.mean(0)
    stimuli = math.sqrt(2 / 3 * np.square(mean - mean.mean()).sum())
    assert Change(per_seed, groups).error == pytest.approx(math.hypot(seeds, stimuli))
    assert Change(per_seed, None).error == pytest.approx(seeds)
    assert math.isnan(Change(per_seed[:1], None).error)
    only = Change(per_seed, None)
    assert only.reach == pytest.approx(12.7062 * seeds, rel=1e-4)  # t with 1 degree of freedom
    assert Change(per_seed[:1], groups[:1]).reach == pytest.approx(
        4.30265 * math.sqrt(2 / 3 * 0.02)
    )  # with 2
    joint = Change(per_seed, groups)
    assert joint.reach < 12.7062 * joint.error
    assert Change(per_seed[:1], None).reach == math.inf
    assert pooled([None]) is None
    both = pooled([Change(per_seed, groups), Change(-per_seed, -groups), None])
    assert both is not None
    assert both.mean == both.error == 0


def test_the_jackknife_matches_the_spread_of_new_stimuli() -> None:
    """Over many draws of stimuli, the estimated error is the standard deviation found."""
    values, errors = [], []
    weights = normal(5, 8, seed=99)
    for draw in range(60):
        x = normal(100, 5, seed=2 * draw)
        measured = make_instrument(CKA(), x @ weights + normal(100, 8, seed=2 * draw + 1))(x)
        without = np.array(measured.without)
        values.append(measured.value)
        errors.append(math.sqrt(0.9 * np.square(without - without.mean()).sum()))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.35)


@pytest.mark.parametrize("metric", [BIASED, RSA(rdm="cosine", comparator="cosine"), CKA(), RSA()])
def test_the_null_is_the_mean_over_orders_of_the_stimuli(metric: Metric) -> None:
    x, y = normal(8, 5) + 1, normal(8, 4, seed=1) + 1
    null = make_instrument(metric, y)(x).null
    generator = torch.Generator().manual_seed(0)
    drawn = [metric(x[torch.randperm(8, generator=generator)], y).item() for _ in range(600)]
    error = np.std(drawn) / math.sqrt(len(drawn))
    assert abs(np.mean(drawn) - null) < 4 * error


@pytest.mark.parametrize("metric", [BIASED, CKA(), RSA(), Procrustes(kind="similarity")])
def test_values_without_a_tenth_are_those_of_the_rest(metric: Metric) -> None:
    x, y = normal(30, 40) + 2, normal(30, 6, seed=1)
    found = make_instrument(metric, y)(x)
    assert found.value == pytest.approx(metric(x, y).item())
    kept = tenths(30, at_least=3)
    expected = [metric(x[rows], y[rows]).item() for rows in kept]
    assert found.without == pytest.approx(expected)
    assert sorted(np.bincount(torch.cat(kept), minlength=30).tolist()) == [9] * 30


def test_predictions_are_scored_without_a_tenth_of_them() -> None:
    x = normal(60, 4)
    y = x @ normal(4, 5, seed=1) + normal(60, 5, seed=2)
    found = make_instrument(Ridge(), y)(x)
    assert found.value == pytest.approx(Ridge()(x, y).item())
    assert len(found.without) == 10
    assert np.std(found.without) > 0
    assert np.mean(found.without) == pytest.approx(found.value, abs=0.02)


def test_few_stimuli_leave_fewer_groups_or_none() -> None:
    assert [len(tenths(n, at_least=4)) for n in (100, 20, 12, 6, 5, 4)] == [10, 10, 6, 3, 0, 0]


# The panel of rows.


def pooled_recording() -> xr.Dataset:
    """Two regions and two subjects, two repetitions."""
    signal = normal(40, 4) @ normal(4, 12, seed=1)
    trials = torch.cat([signal + 0.3 * normal(40, 12, seed=s) for s in (2, 3)])
    return make_recording(
        trials.numpy(),
        stimulus_id=ids_of(40) * 2,
        region=["IT"] * 8 + ["V4"] * 4,
        subject=["a", "b"] * 6,
    )


def test_rows_cover_stimuli_neuroids_regions_and_metrics() -> None:
    recording = pooled_recording()
    panel = alignment_panel(
        recording,
        trained_metric=BIASED,
        held_out_stimuli=ids_of(40)[:15],
        trained_neuroids={"region": "IT", "subject": ["a"]},
        ceiling=False,
    )
    activations = normal(40, 30, seed=5)
    rows = panel.rows(activations, layer="layer4")
    groups = {(r["region"], r["subject"], r["neuroids"]) for r in rows}
    assert groups == {
        ("IT", "a", "trained"),
        ("IT", "b", "held out"),
        ("V4", "a", "held out"),
        ("V4", "b", "held out"),
    }
    assert {(r["stimuli"], r["n_stimuli"]) for r in rows} == {("trained", 25), ("held out", 15)}
    labels = ["cka:debiased=false", *map(metric_label, OTHER_METRICS)]
    assert list(dict.fromkeys(r["metric"] for r in rows)) == labels
    assert len(rows) == 4 * 2 * 6
    assert {r["metric"] for r in rows if r["trained_metric"]} == {"cka:debiased=false"}
    few = [r for r in rows if r["metric"] == "ridge" and r["stimuli"] == "held out"]
    assert all(r["value"] is None and r["note"] == "15 stimuli; ridge needs 20 here" for r in few)
    assert all(r["value"] is not None for r in rows if r not in few)
    one = next(r for r in rows if r["stimuli"] == "held out" and r["subject"] == "b")
    columns = (recording["region"].values == "IT") & (recording["subject"].values == "b")
    brain = recording["response"].values.reshape(2, 40, 12).mean(0)[:15][:, columns]
    # trained stimuli come first in the panel, so that the activations' rows are in its order
    held_out = activations[25:]
    assert panel.stimulus_ids[25:] == tuple(ids_of(15))
    assert one["value"] == pytest.approx(BIASED(held_out, torch.from_numpy(brain)).item())
    assert one["above_null"] == pytest.approx(one["value"] - one["null"])
    assert one["ceiling"] is None


def test_rows_carry_the_split_half_ceiling_where_there_is_one() -> None:
    panel = (CKA(), Procrustes(kind="similarity"))
    rows = rows_of_network(
        normal(40, 5), pooled_recording(), layer="top", trained_metric=None, metrics=panel
    )
    for one in rows:
        assert not one["trained_metric"]
        assert (one["ceiling"] is None) == (one["metric"] != "cka")
        assert one["ceiling"] is None or 0.8 < one["ceiling"] < 1.05


def test_a_recording_that_nothing_was_trained_on_is_held_out() -> None:
    panel = alignment_panel(
        pooled_recording(),
        trained_metric=CKA(),
        metrics=(),
        trained_stimuli=[],
        trained_neuroids={"region": "MT"},
        ceiling=False,
    )
    rows = panel.rows(normal(40, 5), layer="top")
    assert {(r["stimuli"], r["neuroids"]) for r in rows} == {("held out", "held out")}
    assert {r["n_stimuli"] for r in rows} == {40}


def test_datasets_match_by_id_and_missing_trials_are_left_out() -> None:
    recording = pooled_recording()
    x = normal(40, 7, seed=3)
    shuffled = np.random.default_rng(1).permutation(40)
    named = make_recording(
        x[shuffled].numpy(), stimulus_id=[ids_of(40)[i] for i in shuffled], region=""
    )
    by_id, by_row = (
        rows_of_network(
            one,
            recording,
            layer="top",
            trained_metric=CKA(),
            metrics=(RSA(),),
            ceiling=False,
        )
        for one in (named, x)
    )
    for left, right in zip(by_id, by_row, strict=True):
        assert left["value"] == pytest.approx(right["value"])
    values = recording["response"].values.copy()
    values[3] = np.nan  # one of two repetitions
    values[[7, 47]] = np.nan  # all of them
    holes = recording.assign(response=(recording["response"].dims, values))
    rows = rows_of_network(x, holes, layer="top", trained_metric=CKA(), metrics=(), ceiling=False)
    assert {r["n_stimuli"] for r in rows} == {39}
    lost = np.array([i for i in range(40) if i != 7])
    brain = np.nanmean(values.reshape(2, 40, 12)[:, lost][..., :8:2], 0)
    expected = CKA()(x[torch.from_numpy(lost)], torch.from_numpy(brain)).item()
    assert rows[0]["value"] == pytest.approx(expected)


def test_time_bins_are_averaged() -> None:
    values = normal(20, 5, 3)
    recording = recording_of(values[..., 0])
    timed = recording.assign(response=(("presentation", "neuroid", "time_bin"), values.numpy()))
    x = normal(20, 4, seed=1)
    found = rows_of_network(x, timed, layer="top", trained_metric=CKA(), metrics=())
    assert found[0]["value"] == pytest.approx(CKA()(x, values.mean(-1)).item())


def test_constant_activations_are_undefined_and_say_so() -> None:
    rows = rows_of_network(
        torch.ones(20, 4),
        recording_of(normal(20, 5)),
        layer="top",
        trained_metric=CKA(),
        metrics=(Procrustes(kind="similarity"),),
    )
    assert [r["value"] for r in rows] == [None, None]
    assert {r["note"] for r in rows} == {"undefined: some responses do not vary"}
    json.dumps(rows, allow_nan=False)


def test_every_alignment_loss_has_the_metric_that_audits_it() -> None:
    for name, metric in AUDITED_AS.items():
        value = make_instrument(metric, normal(30, 5))(normal(30, 5)).value
        assert value == pytest.approx(1.0, abs=1e-3), name


def test_panels_that_make_no_sense_are_refused() -> None:
    recording = pooled_recording()

    def panel(**more: Any) -> AlignmentPanel:
        return alignment_panel(recording, trained_metric=CKA(), metrics=(), ceiling=False, **more)

    with pytest.raises(ValueError, match="1 held out stimuli are not in the recording"):
        panel(held_out_stimuli=["x"])
    with pytest.raises(ValueError, match="1 stimuli are trained and held out, such as 'image-1'"):
        panel(trained_stimuli=["image-1", "image-2"], held_out_stimuli=["image-1"])
    with pytest.raises(ValueError, match="trained_neuroids names 'area'; the neuroids have"):
        panel(trained_neuroids={"area": "IT"})
    with pytest.raises(ValueError, match="no neuroid of the recording has {'region': 'MT'}"):
        panel(trained_neuroids={"region": "MT"})
    with pytest.raises(ValueError, match="rsa:rdm=crossnobis,model_rdm=euclidean needs single"):
        alignment_panel(
            recording, trained_metric=RSA(rdm="crossnobis", model_rdm="euclidean"), metrics=()
        )
    made = panel()
    with pytest.raises(ValueError, match=r"activations has shape \(3, 2\); expected \(40, unit\)"):
        made.rows(torch.ones(3, 2), layer="top")
    with pytest.raises(ValueError, match="activations has 2 values that are NaN"):
        made.rows(torch.full((40, 2), 1.0).index_fill(0, torch.tensor([4]), math.nan), layer="top")
    few = recording_of(normal(10, 3))
    with pytest.raises(ValueError, match="30 stimuli have no activations, such as 'image-10'"):
        made.rows(few, layer="top")
    with pytest.raises(ValueError, match="these activations have no stimulus ids"):
        made.rows(few.drop_vars("stimulus_id"), layer="top")


# The network's side.


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.drop(self.conv(x)))


def test_layers_are_read_in_evaluation_mode_and_the_network_is_left_as_it_was() -> None:
    net = Small().train()
    images = torch.randn(7, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    found = layer_responses(net, images, ["conv", "norm"], batch_size=3, device="cpu")
    assert net.training
    assert net.drop.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    net.eval()
    with torch.no_grad():
        expected = net(images).flatten(1)
    np.testing.assert_allclose(found["norm"]["response"], expected, rtol=1e-5, atol=1e-6)
    assert found["conv"].attrs["shape"] == [4, 4, 4]
    assert "stimulus_id" not in found["conv"].coords
    named = layer_responses(net, images, ["conv"], stimulus_id=ids_of(7), device="cpu")["conv"]
    assert stimulus_ids(named) == ids_of(7)


def test_layers_of_stimuli_equal_what_record_keeps() -> None:
    from repalign.activations import record
    from repalign.network_cards import Preprocessing
    from repalign.stimuli import Stimuli, encode_png

    pictures = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    stimuli = Stimuli(tuple(ids_of(5)), [encode_png(one) for one in pictures])
    network = Network("small", Small().eval(), Preprocessing(size=(6, 6)))
    found = layer_responses(network, stimuli, ["conv"], batch_size=2, device="cpu")["conv"]
    kept = record(network, stimuli=stimuli, layers="conv", device="cpu", progress=False)["conv"]
    np.testing.assert_allclose(found["response"], kept["response"], rtol=1e-6, atol=1e-6)
    assert stimulus_ids(found) == stimulus_ids(kept)


def test_layers_that_cannot_be_read_are_refused() -> None:
    images = torch.ones(2, 3, 6, 6)
    with pytest.raises(ValueError, match="no layer 'top'"):
        layer_responses(Small(), images, ["top"])
    with pytest.raises(ValueError, match="layer 'unused' is not used in the forward pass"):
        layer_responses(Small(), images, ["unused"], device="cpu")
    with pytest.raises(ValueError, match="3 stimulus ids for 2 images"):
        layer_responses(Small(), images, ["conv"], stimulus_id=ids_of(3))
    with pytest.raises(TypeError, match="a bare module does not say how images become its input"):
        layer_responses(Small(), pooled_recording(), ["conv"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        layer_responses(Small(), images, ["conv"], batch_size=0)
    with pytest.raises(ValueError, match="this recording has no images"):
        layer_responses(Network("small", Small()), pooled_recording(), ["conv"])


def test_a_control_is_audited_against_the_recording_it_was_made_of() -> None:
    """A network aligned to shuffled rows does not gain on the real ones."""
    images, responses = genuine()
    shuffled = CONTROLS["row-shuffle"](recording_of(responses), seed=0)
    pulled = torch.from_numpy(shuffled["response"].values)
    runs = experiment(images, responses, n_trained=160, seeds=[0, 1], trained_to=pulled)
    audit = goodhart_audit(runs)
    assert audit.outcome == "nothing to audit"


def test_examples_run() -> None:
    modules = (audit_changes, audit_measures, audit_rows, audit_rules, goodhart, layer_activations)
    assert [doctest.testmod(module).failed for module in modules] == [0] * 6

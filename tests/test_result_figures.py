"""Figures of results: what is drawn where, in which order, and what is refused."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.text import Text
from scipy.spatial.distance import pdist, squareform

import repalign as ra
from repalign.metrics import CKA, RSA
from repalign.recording import make_activations, make_rdm_recording, make_recording
from repalign.reporting.figures import figure_bytes, save_figure
from repalign.reporting.mds_figures import _plane

HOSTILE = "net$x_1$&<b>"


def with_gid(ax, gid):
    return [artist for artist in ax.get_children() if str(artist.get_gid()).startswith(gid)]


def texts(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def comparison(names=("good", "bad@random", "middle")):
    values = dict(zip(names, (0.5, 0.05, 0.3), strict=True))
    rows = [
        {
            "dataset": "d", "species": "human", "region": region, "name": name, "value": value,
            "low": value - 0.1, "high": value + 0.1, "ceiling_kind": "over subjects",
            "ceiling_lower": 0.6 if region == "IT" else None,
            "ceiling_upper": 0.8 if region == "IT" else None,
            "p": 0.01, "p_corrected": 0.02 if value > 0.1 else 0.3,
            "ceiling_p_corrected": 0.04 if value < 0.1 else 0.2, "n_stimuli": 92, "n_subjects": 4,
        }
        for region in ("IT", "V4") for name, value in values.items()
    ]  # fmt: skip
    pairs = [
        {"dataset": "d", "species": "human", "region": region, "first": a, "second": b,
         "difference": values[a] - values[b], "p_corrected": 0.01 if b == names[1] else 0.4}
        for region in ("IT", "V4") for a, b in [(names[0], names[1]), (names[0], names[2])]
    ]  # fmt: skip
    return pd.DataFrame(rows), pd.DataFrame(pairs)


def test_models_stand_in_order_with_intervals_ceilings_and_marks():
    table, pairs = comparison()
    figure = ra.plot_models(SimpleNamespace(table=table, pairs=pairs), title="Models")
    it, matrix, v4, _ = figure.axes
    assert it.get_title() == "human IT\n92 stimuli, 4 subjects"
    assert texts(it) == ["good  1", "middle  2", "bad@random  3"]
    (point,) = with_gid(it, "model:good")
    assert (point.get_xdata()[0], point.get_ydata()[0]) == (0.5, 0)
    (twin,) = with_gid(it, "model:bad@random")
    assert twin.get_markerfacecolor() == "white"
    bars = [bar.get_segments()[0][:, 0].tolist() for bar in with_gid(it, "interval")]
    np.testing.assert_allclose(sorted(bars), [[-0.05, 0.15], [0.2, 0.4], [0.4, 0.6]])
    (band,) = with_gid(it, "ceiling")
    np.testing.assert_allclose([band.get_x(), band.get_width()], [0.6, 0.2])
    assert not with_gid(v4, "ceiling")
    marks = {mark.get_gid(): mark.get_text() for mark in with_gid(it, "marks:")}
    assert marks == {"marks:good": "*", "marks:middle": "*", "marks:bad@random": "▾"}
    better, worse, same = (with_gid(matrix, f"pairs:{c}")[0] for c in ("#0072B2", "#E69F00", "#d0"))
    assert better.get_offsets().tolist() == [[2, 0]]  # column of the bad one, row of the good
    assert worse.get_offsets().tolist() == [[0, 2]]
    assert sorted(same.get_offsets().tolist()) == [[0, 1], [1, 0]]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "noise ceiling (over subjects)" in legend
    assert "not chance, corrected p ≤ 0.05" in legend


def test_the_least_distance_is_the_best():
    table, pairs = comparison()
    figure = ra.plot_models(table, pairs, higher_is_better=False)
    assert texts(figure.axes[0])[0] == "bad@random  1"
    (better,) = with_gid(figure.axes[1], "pairs:#0072B2")
    assert better.get_offsets().tolist() == [[2, 0]]


def test_twenty_models_of_five_networks_stay_apart():
    rows = [
        {"model": f"net{i}", "layer": f"l{j}", "value": 0.1 * i + 0.01 * j}
        for i in range(5) for j in range(4)
    ]  # fmt: skip
    figure = ra.plot_models(pd.DataFrame(rows))
    (ax,) = figure.axes
    assert texts(ax)[0] == "net4 l3  1"
    looks = {(line.get_color(), line.get_marker()) for line in with_gid(ax, "model:")}
    assert len(looks) == 5
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(a.y0 >= b.y1 - 1 for a, b in itertools.pairwise(boxes))


LONG = [
    "vit_large_patch14_reg4_dinov2.lvd142m blocks.23.mlp.fc2@patches",
    "convnextv2_huge.fcmae_ft_in22k_in1k_512@random:3 stages.3.blocks.2.mlp",
]


@pytest.mark.parametrize(
    "names", [["a"], ["a", "b"], LONG, ["a", "b", "c"], [f"net{i}" for i in range(24)]],
    ids=lambda names: f"{len(names)} {names[0][:4]}",
)  # fmt: skip
def test_all_text_stands_inside_the_figure(names):
    values = np.linspace(0.5, 0.1, len(names))
    table = pd.DataFrame(
        {"name": names, "value": values, "low": values - 0.1, "high": values + 0.1, "p": 0.01,
         "ceiling_lower": 0.6, "ceiling_upper": 0.7, "ceiling_p": 0.01, "n_stimuli": 92,
         "region": "a region with quite a long name, and more of it", "metric": "banded-ridge"}
    )  # fmt: skip
    pairs = [
        {"first": a, "second": b, "difference": 0.1, "p": 0.01}
        for a, b in itertools.combinations(names, 2)
    ]
    figure = ra.plot_models(table, pd.DataFrame(pairs), title="models of one region, " * 4)
    figure.draw_without_rendering()
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    said = {text.get_text() for text in figure.findobj(Text) if text.get_visible()}
    assert "not chance, p ≤ 0.05" in said
    assert ("against model" in said) == (len(names) > 1)
    panels = [ax.get_tightbbox() for ax in figure.axes]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(panels))


MARKS = {  # what the legend says of a mark, and how artists that are drawn show it
    "noise ceiling": lambda ax: with_gid(ax, "ceiling"),
    "confidence interval": lambda ax: with_gid(ax, "interval"),
    "not chance": lambda ax: [m for m in with_gid(ax, "marks:") if "*" in m.get_text()],
    "not the lower ceiling": lambda ax: [m for m in with_gid(ax, "marks:") if "▾" in m.get_text()],
    "untrained": lambda ax: [
        m for m in with_gid(ax, "model:") if m.get_markerfacecolor() == "white"
    ],
    "row's model better": lambda ax: with_gid(ax, "pairs:#0072B2"),
    "row's model worse": lambda ax: with_gid(ax, "pairs:#E69F00"),
    "not told apart": lambda ax: with_gid(ax, "pairs:#d0"),
}


@pytest.mark.parametrize("sure", [True, False])
@pytest.mark.parametrize("names", [("good", "bad@random", "middle"), ("good", "bad", "middle")])
def test_the_legend_names_the_marks_that_are_drawn_and_no_others(names, sure):
    table, pairs = comparison(names)
    if not sure:
        table = table.assign(p_corrected=0.5, ceiling_p_corrected=0.5, low=None, ceiling_lower=None)
        pairs = pairs.assign(p_corrected=0.5)
    figure = ra.plot_models(table, pairs)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    drawn = [said for said, of in MARKS.items() if any(of(ax) for ax in figure.axes)]
    assert len(legend) == len(drawn)
    assert all(text.startswith(said) for text, said in zip(legend, drawn, strict=True))
    assert len(drawn) == (7 if sure else 1) + ("@" in names[1])


def test_the_axis_says_the_metric_its_range_and_direction():
    table, pairs = comparison()
    settings = {"metric": "procrustes", "metric_parameters": {"kind": "distance"}}
    found = ra.plot_models(SimpleNamespace(table=table, pairs=pairs, settings=settings))
    label = found.axes[0].get_xlabel().replace("\n", " ")
    assert label.startswith("Procrustes distance 0 to 1.414")
    assert label.endswith("lower is more similar")
    assert texts(found.axes[0])[0] == "bad@random  1"  # the least distance, as the metric says
    both = table.assign(metric=["cka", "rsa"] * 3)
    assert ra.plot_models(both).axes[0].get_xlabel() == "value"
    own = table.assign(metric="my_own")
    assert ra.plot_models(own).axes[0].get_xlabel() == "my own"
    assert ra.plot_models(own, label="r").axes[0].get_xlabel() == "r"


def test_a_model_without_a_value_is_said():
    table = pd.DataFrame({"name": ["a", HOSTILE], "value": [0.2, np.nan]})
    figure = ra.plot_models(table, order="given")
    said = [text.get_text() for text in figure.axes[0].texts]
    assert "not computed" in said
    assert figure_bytes(figure, "svg").count(b"not computed") >= 0


@pytest.mark.parametrize(
    ("table", "pairs", "settings", "message"),
    [
        (pd.DataFrame(), None, {}, "no rows"),
        (pd.DataFrame({"value": [1.0]}), None, {}, "expected value, and name"),
        (comparison()[0], None, {"order": "alphabet"}, "order is 'alphabet'"),
        (comparison()[0], pd.DataFrame({"first": ["a"]}), {}, "pairs has no column 'difference'"),
        (pd.DataFrame({"name": ["a", "a"], "value": [1.0, 2]}), None, {}, "'a' stands twice"),
    ],
)
def test_bad_comparisons_are_said(table, pairs, settings, message):
    with pytest.raises(ValueError, match=message):
        ra.plot_models(table, pairs, **settings)


# RDMs


def some_rdm(n=12, seed=0):
    return squareform(pdist(np.random.default_rng(seed).normal(size=(n, 5))))


def test_rdms_are_ranked_and_ordered_alike():
    rdm = some_rdm()
    categories = ["b", "a"] * 6
    figure = ra.plot_rdms({"one": rdm, "cubed": rdm**3}, categories=categories, order="category")
    first, second = (np.asarray(ax.images[0].get_array()) for ax in figure.axes[:2])
    np.testing.assert_allclose(first, second)  # the same ranks
    order = [*range(0, 12, 2), *range(1, 12, 2)]
    raw = ra.plot_rdms({"one": rdm}, categories=categories, order="category", ranks=False)
    np.testing.assert_allclose(raw.axes[0].images[0].get_array(), rdm[np.ix_(order, order)])
    assert texts(figure.axes[0]) == ["b", "a"]
    assert (first.min(), first.max()) == (0, 100)
    assert figure.axes[-1].get_ylabel() == "dissimilarity (percentile)"


def test_clustering_brings_alike_stimuli_together():
    centres = np.repeat(np.eye(3) * 10, 4, axis=0)[[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]
    rdm = squareform(pdist(centres + np.random.default_rng(0).normal(size=(12, 3)) / 10))
    shown = np.asarray(ra.plot_rdms(rdm, order="cluster").axes[0].images[0].get_array())
    blocks = shown.reshape(3, 4, 3, 4).mean(axis=(1, 3))
    assert blocks.diagonal().max() < blocks[~np.eye(3, dtype=bool)].min()


def test_a_recording_of_rdms_is_drawn_a_subject_a_panel():
    rdms = np.stack([some_rdm(6, seed) for seed in range(3)])
    recording = make_rdm_recording(
        rdms, stimulus_id=list("abcdef"), subject=["x", "x", "y"], species="human", region="IT",
        session=["1", "2", "1"],
    ).assign_coords(kind=("stimulus_id", ["u"] * 3 + ["v"] * 3))  # fmt: skip
    figure = ra.plot_rdms(recording, categories="kind", ranks=False)
    assert [ax.get_title() for ax in figure.axes[:2]] == ["human IT x", "human IT y"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), rdms[:2].mean(0))


@pytest.mark.parametrize(
    ("rdms", "settings", "message"),
    [
        ({"a": some_rdm(5), "b": some_rdm(6)}, {}, "different numbers of stimuli"),
        (some_rdm(5), {"categories": ["a"]}, "1 categories for 5 stimuli"),
        (some_rdm(5), {"order": "size"}, "order is 'size'"),
        (some_rdm(5), {"order": "category"}, "needs categories"),
        (some_rdm(5), {"categories": "kind"}, "is a name"),
        (some_rdm(5), {"columns": 0}, "columns is 0"),
        ({}, {}, "no RDM to draw"),
        (np.ones((3, 3)), {}, "diagonal"),
    ],
)
def test_bad_rdms_are_said(rdms, settings, message):
    with pytest.raises(ValueError, match=message):
        ra.plot_rdms(rdms, **settings)


def test_a_plane_is_found_again_whatever_its_orientation():
    places = np.random.default_rng(0).normal(size=(15, 2))
    found, stress = _plane(squareform(pdist(places)), 0)
    np.testing.assert_allclose(pdist(found), pdist(places), atol=1e-3)
    assert stress < 1e-3
    again, _ = _plane(squareform(pdist(places)), 0)
    np.testing.assert_array_equal(found, again)
    _, high = _plane(1 - np.eye(15), 0)  # equidistant stimuli fit no plane
    assert high > 0.2


def test_a_map_shows_images_framed_by_category_or_points_with_labels():
    rdm, kinds = some_rdm(6), ["a", "b"] * 3
    images = [np.full((20, 10, 3), 40 * i, dtype=np.uint8) for i in range(6)]
    figure = ra.plot_mds(rdm, images=images, categories=kinds)
    boxes = [c for c in figure.axes[0].get_children() if type(c).__name__ == "AnnotationBbox"]
    assert len(boxes) == 6
    assert boxes[0].patch.get_edgecolor() == boxes[2].patch.get_edgecolor()
    assert boxes[0].patch.get_edgecolor() != boxes[1].patch.get_edgecolor()
    points = ra.plot_mds(rdm, labels=list("uvwxyz"), categories=kinds)
    assert [text.get_text() for text in points.axes[0].texts] == list("uvwxyz")
    assert [text.get_text() for text in points.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("rdm", "settings", "message"),
    [
        (some_rdm(5), {"labels": ["a"]}, "1 labels for 5 stimuli"),
        (some_rdm(5), {"categories": ["a"] * 4}, "4 categories for 5 stimuli"),
        (some_rdm(5), {"images": []}, "0 images for 5 stimuli"),
        (np.array([0.1, np.nan, 0.2]), {}, "NaN or infinity"),
    ],
)
def test_bad_maps_are_said(rdm, settings, message):
    with pytest.raises(ValueError, match=message):
        ra.plot_mds(rdm, **settings)


# Layers and regions


def test_the_best_layer_of_each_region_is_framed():
    values = {"V1": [0.4, 0.2, 0.1], "IT": [0.1, 0.2, 0.5]}
    rows = [
        {"model": "net", "layer": f"l{k}", "region": region, "value": value}
        for region, own in values.items() for k, value in enumerate(own)
    ]  # fmt: skip
    ax = ra.plot_layer_region(rows).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), np.array(list(values.values())).T)
    frames = {tuple(np.round(f.get_xy()).astype(int)) for f in with_gid(ax, "best")}
    assert frames == {(0, 0), (1, 2)}
    assert texts(ax) == ["l0", "l1", "l2"]
    with pytest.raises(ValueError, match="missing: layer, region"):
        ra.plot_layer_region([{"model": "net", "value": 1.0}])


# Time

IDS = [f"s{i}" for i in range(10)]
BINS = (np.arange(8) * 10.0 - 20, np.arange(8) * 10.0 - 10)


@pytest.fixture
def course():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(10, 6))
    strength = np.array([0, 0, 0, 2, 2, 2, 2, 0.0])
    response = np.concatenate(
        [features[:, :, None] * strength + draw.normal(size=(4, 10, 6, 8)) for _ in range(7)], 2
    )
    recording = make_recording(
        response.reshape(40, 42, 8), stimulus_id=IDS * 4, region="IT", species="human",
        subject=[f"s{i}" for i in range(7) for _ in range(6)],
        neuroid_id=list("abcdef") * 7, time_bins=BINS,
    )  # fmt: skip
    others = draw.normal(size=(20, 10, 6))
    unrelated = min(others, key=lambda x: CKA()(x, features))  # by chance some are alike
    layers = {
        "late": make_activations(features, IDS, "net", "late", (6,)),
        HOSTILE: make_activations(unrelated, IDS, "net", HOSTILE, (6,)),
    }
    return recording, layers


def test_time_courses_show_means_bands_ceilings_and_significant_bins(course, tmp_path):
    result = ra.time_resolved(*course, CKA(), device="cpu")
    clusters = ra.time_clusters(result)
    figure = ra.plot_time_course(result, clusters, title="MEG")
    (ax,) = figure.axes
    (line,) = with_gid(ax, "layer:late")
    np.testing.assert_allclose(line.get_ydata(), result["value"].sel(layer="late").mean("target"))
    bars = [tuple(bar.get_xdata()) for bar in with_gid(ax, "significant:late")]
    assert bars == [(10.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, 50.0)]
    assert not with_gid(ax, f"significant:{HOSTILE}")
    (ceiling,) = with_gid(ax, "ceiling")
    drawn = np.concatenate([path.vertices[:, 0] for path in ceiling.get_paths()])
    assert drawn.min() > 0  # none where half of the split halves share no signal
    legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "smallest possible 0.0078" in legend
    assert "95 % over subjects" in legend
    assert figure_bytes(figure, "png") == figure_bytes(figure, "png")
    for suffix in (".png", ".pdf", ".svg"):
        assert save_figure(figure, tmp_path / f"course{suffix}").stat().st_size > 1000


def test_one_subject_has_the_interval_over_stimuli(course):
    recording, layers = course
    one = ra.select(recording, subject="s0")
    result = ra.time_resolved(one, layers, RSA(), n_resamples=20, device="cpu")
    figure = ra.plot_time_course(result)
    legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "95 % bootstrap, 20 resamples, over stimuli" in legend


def test_time_by_time_outlines_what_is_significant(course):
    recording, layers = course
    result = ra.cross_temporal(recording, metric=CKA(), splits=3, device="cpu")
    clusters = ra.time_clusters(result)
    ax = ra.plot_time_by_time(result, clusters).axes[0]
    (outline,) = with_gid(ax, "significant")
    corners = np.concatenate(outline.get_segments())
    inside = np.pad(clusters["p"].values[0] <= 0.05, 1)
    assert inside[4:8, 4:8].all()
    border = sum(int(np.diff(inside.astype(int), axis=axis).astype(bool).sum()) for axis in (0, 1))
    assert len(outline.get_segments()) == border
    assert corners.min() == BINS[0][np.flatnonzero(inside[1:-1, 1:-1].any(0))[0]]
    mesh = next(c for c in ax.collections if type(c).__name__ == "QuadMesh")
    np.testing.assert_allclose(
        np.asarray(mesh.get_array()).reshape(8, 8), result["value"].mean("target")
    )
    layered = ra.plot_time_by_time(ra.cross_temporal(recording, layers, CKA())).axes[0]
    assert layered.get_xticklabels()[0].get_text() == "late"


def test_too_few_subjects_are_said_in_the_figure(course):
    recording, layers = course
    result = ra.time_resolved(
        ra.select(recording, subject=["s0", "s1", "s2"]), layers, CKA(), device="cpu"
    )
    figure = ra.plot_time_course(result, ra.time_clusters(result))
    legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
    assert "smallest possible 0.12); too few subjects for any" in legend


def test_what_is_no_result_of_time_is_refused(course):
    recording, layers = course
    with pytest.raises(ValueError, match="what repalign.time_resolved returned"):
        ra.plot_time_course(recording)
    with pytest.raises(ValueError, match="what repalign.cross_temporal returned"):
        ra.plot_time_by_time(xr.Dataset())
    result = ra.time_resolved(recording, layers, device="cpu")
    with pytest.raises(ValueError, match="clusters are of other layers"):
        ra.plot_time_course(result.isel(layer=[0]), ra.time_clusters(result))

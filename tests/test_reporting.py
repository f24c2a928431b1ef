"""Reports: what the figure shows, what the page loads, and what the files hold."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repalign.reporting import read_rows, write_report
from repalign.reporting.figures import figure_bytes, layer_profile, save_figure
from repalign.reporting.panels import SMALL
from repalign.reporting.profiles import ROW_FIELDS, gather_profiles
from repalign.reporting.shell import (
    Section,
    code_html,
    definitions_html,
    figure_html,
    number_text,
    page,
    table_html,
    text_html,
)

LAYERS = ["stem", "blocks.0", "blocks.1", "head"]
HOSTILE = '<script>alert("1")</script>&$x_1$'


def a_row(**changes: Any) -> dict[str, Any]:
    row = {
        "dataset": "kriegeskorte2008", "species": "human", "region": "IT", "subject": "group",
        "model": "net", "layer": "stem", "metric": "rsa",
        "metric_parameters": {"rdm": "correlation", "comparator": "spearman"}, "is_distance": False,
        "value": 0.2, "null_mean": None, "null_sd": None, "ceiling_kind": None,
        "ceiling_low": None, "ceiling_high": None, "ceiling_error": None, "ci_low": None,
        "ci_high": None, "p": None, "n_stimuli": 92, "n_neuroids": None, "seed": 0,
        "version": "0.1.0",
    }  # fmt: skip
    return row | changes


def curve(values: list[float | None], layers: list[str] = LAYERS, **same: Any) -> list[dict]:
    return [a_row(layer=n, value=v, **same) for n, v in zip(layers, values, strict=True)]


def a_study() -> list[dict[str, Any]]:
    """A group RDM and two subjects, a network, its untrained twin and pixels, two metrics."""
    rows = curve([0.1, 0.2, 0.4, 0.3], ci_low=0.05, ci_high=0.5)
    for metric in ("rsa", "cka"):
        for shift, subject in ((0.0, "BE"), (0.1, "KO")):
            same: dict[str, Any] = {
                "metric": metric, "subject": subject, "ceiling_kind": "split-half",
                "ceiling_low": 0.5 + shift, "ceiling_high": 0.7 + shift,
                "metric_parameters": {} if metric == "cka" else {"comparator": "spearman"},
            }  # fmt: skip
            rows += curve([0.1 + shift, 0.2, 0.3, 0.2 + shift], **same)
            rows += curve([0.1, 0.05, -0.05, 0.0], model="net@random", **same)
            rows.append(a_row(model="pixels", layer="pixels", value=0.08 + shift, **same))
    return rows


def drawn(ax: Any, gid: str) -> list[Any]:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


def panel(fig: Any, *, row: int, column: int) -> Any:
    return next(
        ax
        for ax in fig.axes
        if (ax.get_subplotspec().rowspan.start, ax.get_subplotspec().colspan.start) == (row, column)
    )


# ---------------------------------------------------------------- figure


def test_lines_show_the_values_of_the_rows():
    ax = panel(layer_profile(a_study()), row=0, column=0)
    (line,) = drawn(ax, "model:net")
    assert list(line.get_ydata()) == [0.1, 0.2, 0.4, 0.3]
    assert line.get_marker() == "o"


def test_individuals_are_thin_and_their_mean_is_strong():
    ax = panel(layer_profile(a_study()), row=0, column=1)
    thin = drawn(ax, "subject:net")
    (strong,) = drawn(ax, "model:net")
    assert [list(line.get_ydata()) for line in thin] == [
        pytest.approx([0.1, 0.2, 0.3, 0.2]),
        pytest.approx([0.2, 0.2, 0.3, 0.3]),
    ]
    assert list(strong.get_ydata()) == pytest.approx([0.15, 0.2, 0.3, 0.25])
    assert strong.get_linewidth() > 2 * thin[0].get_linewidth()
    assert not drawn(ax, "interval")


def test_intervals_are_drawn_for_a_group_rdm():
    bars = drawn(panel(layer_profile(a_study()), row=0, column=0), "interval")
    assert len(bars) == len(LAYERS)
    assert [tuple(bar.get_segments()[0][:, 1]) for bar in bars] == [(0.05, 0.5)] * 4


def test_a_value_outside_its_interval_is_drawn():
    layer_profile(curve([0.9, 0.1, 0.1, 0.1], ci_low=0.2, ci_high=0.3))


def test_group_and_individuals_have_columns_of_their_own():
    fig = layer_profile(a_study())
    assert len(fig.axes) == 4
    titles = [panel(fig, row=0, column=column).get_title() for column in (0, 1)]
    assert titles == ["human IT\ngroup RDM, 92 stimuli", "human IT\n2 subjects, 92 stimuli"]
    empty = panel(fig, row=1, column=0)
    assert [text.get_text() for text in empty.texts] == ["not computed"]


def test_ceiling_is_a_band_from_mean_low_to_mean_high():
    fig = layer_profile(a_study())
    (band,) = drawn(panel(fig, row=0, column=1), "ceiling")
    assert band.get_y() == pytest.approx(0.55)
    assert band.get_y() + band.get_height() == pytest.approx(0.75)
    assert not drawn(panel(fig, row=0, column=0), "ceiling")
    assert "noise ceiling (split-half)" in [t.get_text() for t in fig.legends[0].get_texts()]


def test_the_ceiling_of_individuals_beside_their_group_rdm_lies_within_their_panel():
    fig = layer_profile(a_study())
    ax = panel(fig, row=0, column=1)
    (band,) = drawn(ax, "ceiling")
    low, high = ax.get_ylim()
    assert low < band.get_y() < band.get_y() + band.get_height() < high


def test_ceiling_of_equal_ends_is_a_line():
    rows = curve([0.1] * 4, ceiling_kind="published", ceiling_low=0.6, ceiling_high=0.6)
    (line,) = drawn(layer_profile(rows).axes[0], "ceiling")
    assert list(line.get_ydata()) == [0.6, 0.6]


def test_a_model_of_one_layer_is_a_dashed_line_across():
    fig = layer_profile(a_study())
    (line,) = drawn(panel(fig, row=0, column=1), "model:pixels")
    assert list(line.get_ydata()) == pytest.approx([0.13, 0.13])
    assert list(line.get_xdata()) == [0, 1]  # fractions of the axes
    assert line.get_linestyle() == "--"
    assert "pixels" in [text.get_text() for text in fig.legends[0].get_texts()]


def test_a_twin_shares_the_colour_but_neither_line_nor_filling():
    ax = panel(layer_profile(a_study()), row=0, column=1)
    (trained,), (random,) = drawn(ax, "model:net"), drawn(ax, "model:net@random")
    assert trained.get_color() == random.get_color()
    assert trained.get_linestyle() != random.get_linestyle()
    assert random.get_markerfacecolor() == "white"


def test_an_untrained_twin_is_called_so_whatever_its_seed():
    rows = curve([0.1] * 4, model="net@random:3") + curve([0.1] * 4, model="net@robust")
    entries = [text.get_text() for text in layer_profile(rows).legends[0].get_texts()]
    assert entries == ["net@random:3 (untrained)", "net@robust"]


def test_scores_are_named_from_metric_and_parameters():
    rows = a_study() + curve([0.1] * 4, metric="ridge", metric_parameters={})
    rows += curve([0.1] * 4, metric="cka", metric_parameters={"debiased": False})
    rows += curve([0.1] * 4, metric="angular_procrustes", metric_parameters={})
    assert list(dict.fromkeys(profile.metric for profile in gather_profiles(rows))) == [
        "RSA (Spearman of correlation RDMs)",
        "CKA (linear, debiased)",
        "ridge predictivity (median Pearson r)",
        "CKA (linear, biased)",
        "angular procrustes",
    ]


def test_parameters_and_seeds_that_differ_in_one_cell_stay_apart():
    rows = curve([0.1] * 4, seed=0) + curve([0.2] * 4, seed=1)
    labels = [profile.metric for profile in gather_profiles(rows)]
    assert labels == [
        f"RSA (Spearman of correlation RDMs), resampling seed {seed}" for seed in (0, 1)
    ]


def test_a_row_may_name_no_species_subject_or_layer(tmp_path):
    none = {"species": None, "region": None, "subject": None, "layer": None}
    rows = [a_row(**none), a_row(**none, model="other", value=0.1)]
    ax = layer_profile(rows).axes[0]
    assert ax.get_title() == "kriegeskorte2008\n92 stimuli"
    html = write_report(rows, tmp_path, title="t").read_text()
    assert (
        "Value of net for kriegeskorte2008 by RSA: 0.200; no ceiling. Next: other (0.100)" in html
    )
    assert "None" not in html


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        (["jackknife over stimuli, 90 % (92)"] * 2, "90 % interval"),
        (["a, 90 % (92)", "a, 95 % (92)"], "interval"),
        ([None, None], "95 % interval"),
    ],
)
def test_intervals_are_named_by_the_level_that_the_rows_give(tmp_path, kinds, name):
    rows = [
        a_row(layer=layer, metric_parameters={"interval": kind}, ci_low=0.1, ci_high=0.3)
        for layer, kind in zip("ab", kinds, strict=True)
    ]
    entries = [text.get_text() for text in layer_profile(rows).legends[0].get_texts()]
    assert entries == ["net", name]
    html = write_report(rows, tmp_path, title="t").read_text()
    assert f"(0.200, {name} 0.10–0.30; no ceiling)" in html


def test_metrics_of_one_name_keep_their_brackets_in_the_words(tmp_path):
    rows = [
        row
        for debiased in (True, False)
        for row in curve([0.1] * 4, metric="cka", metric_parameters={"debiased": debiased})
    ]
    html = write_report(rows, tmp_path, title="t").read_text()
    assert "by CKA (linear, debiased): stem" in html
    assert "by CKA (linear, biased): stem" in html


def test_the_fields_are_those_of_a_comparison():
    from repalign.results import Comparison

    names = [field.name for field in dataclasses.fields(Comparison)]
    assert [name for name in names if name != "fingerprints"] == list(ROW_FIELDS)


def test_layer_names_label_a_shared_axis():
    fig = layer_profile(a_study())
    labels = [text.get_text() for text in panel(fig, row=1, column=0).get_xticklabels()]
    assert labels == LAYERS


def test_different_architectures_meet_on_relative_depth():
    rows = curve([0.1, 0.2, 0.4, 0.3]) + curve([0.1, 0.2, 0.3], ["a", "b", "c"], model="other")
    ax = layer_profile(rows).axes[0]
    (line,) = drawn(ax, "model:other")
    assert list(line.get_xdata()) == [0.0, 0.5, 1.0]
    assert ax.get_xlabel().startswith("relative depth")


def test_a_model_that_misses_layers_keeps_its_place_on_the_shared_axis():
    rows = curve([0.1, 0.3], ["stem", "head"], model="net@random") + curve([0.1, 0.2, 0.4, 0.3])
    ax = layer_profile(rows).axes[0]
    (line,) = drawn(ax, "model:net@random")
    assert list(line.get_xdata()) == [0.0, 3.0]


def test_undefined_values_break_the_line_and_the_mean():
    rows = curve([0.1, math.nan, None, 0.3], subject="BE") + curve([0.3] * 4, subject="KO")
    rows += curve([math.nan] * 4, subject="SN")
    (profile,) = gather_profiles(rows)
    assert profile.mean == pytest.approx([0.2, math.nan, math.nan, 0.3], nan_ok=True)
    assert profile.best == ("head", pytest.approx(0.2 + 0.1))
    (line,) = drawn(layer_profile(rows).axes[0], "model:net")
    assert np.isnan(line.get_ydata()[1:3]).all()


def test_no_value_at_all_is_said():
    ax = layer_profile(curve([None] * 4)).axes[0]
    assert [text.get_text() for text in ax.texts] == ["no defined value"]


def test_zero_and_everything_drawn_are_within_the_limits():
    rows = curve([-0.3, 0.2, 0.4, 0.3], ci_low=-0.4, ci_high=0.8)
    rows += curve([0.1] * 4, region="V4", ceiling_kind="x", ceiling_low=0.9, ceiling_high=0.95)
    low, high = layer_profile(rows).axes[0].get_ylim()
    assert low < -0.4
    assert high > 0.95


@pytest.mark.parametrize(
    ("layers", "subjects", "targets"), [(1, 1, 1), (2, 8, 6), (20, 8, 1), (20, 1, 4), (60, 2, 2)]
)
def test_no_text_is_below_eight_points_or_outside_the_figure(layers, subjects, targets):
    names = [f"features.{i}.conv" for i in range(layers)]
    rows = [
        row
        for region in range(targets)
        for subject in range(subjects)
        for row in curve([0.1] * layers, names, region=f"V{region}", subject=f"S{subject}")
    ]
    fig = layer_profile(rows)
    fig.draw_without_rendering()
    texts = [t for t in fig.findobj(lambda a: hasattr(a, "get_fontsize")) if t.get_visible()]
    assert min(text.get_fontsize() for text in texts if text.get_text()) >= SMALL
    box = fig.get_tightbbox()
    assert box.x0 >= -0.1
    assert box.x1 <= fig.get_figwidth() + 0.1
    assert fig.axes[0].bbox.height > 60


def test_a_dollar_sign_in_a_name_is_no_formula():
    rows = curve([0.1] * 4, model="$\\frac{$", region="$a$") + curve([0.2] * 4, model="_b")
    assert figure_bytes(layer_profile(rows, title="$c$"), "png", dpi=50)


def test_a_figure_leaves_pyplot_alone():
    code = (
        "import sys, matplotlib\n"
        "names = [name for name in matplotlib.rcParams if name != 'backend']\n"
        "before = [matplotlib.rcParams[name] for name in names]\n"
        "from test_reporting import a_study\n"
        "from repalign.reporting.figures import layer_profile, figure_bytes\n"
        "figure_bytes(layer_profile(a_study()), 'png', dpi=40)\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert [matplotlib.rcParams[name] for name in names] == before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


def test_importing_the_package_is_cheap():
    code = (
        "import sys, repalign.reporting\n"
        "heavy = {'numpy', 'matplotlib', 'pandas', 'xarray', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_row_met_twice_counts_once_and_a_contradiction_is_named():
    rows = curve([0.1, 0.2, math.nan, 0.3])
    twice = gather_profiles(rows + [{**row} for row in rows])
    assert [list(profile.cells) for profile in twice] == [[("group", layer) for layer in LAYERS]]
    with pytest.raises(
        ValueError, match=r"two different rows for net 'stem', human IT.*report one"
    ):
        layer_profile([*rows, a_row(value=0.9)])


def test_no_rows_and_missing_fields_are_named():
    with pytest.raises(ValueError, match="no row to report"):
        layer_profile([])
    incomplete = a_row()
    del incomplete["seed"], incomplete["value"]
    with pytest.raises(ValueError, match="row 1 lacks value, seed"):
        layer_profile([a_row(), incomplete])


@pytest.mark.parametrize(
    ("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")]
)
def test_figures_are_written_the_same_each_time(tmp_path, suffix, magic):
    first, second = (
        save_figure(layer_profile(a_study()), tmp_path / f"{name}{suffix}").read_bytes()
        for name in "ab"
    )
    assert first.startswith(magic)
    assert first == second


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.png, \.pdf or \.svg, not 'gif'"):
        save_figure(layer_profile(a_study()), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- page


class Reader(HTMLParser):
    """Checks nesting, and gathers what a test asks for."""

    void = frozenset(("meta", "img", "br", "link", "input", "hr"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*a_study(), a_row(model=HOSTILE, layer=HOSTILE, region=HOSTILE)]
    return write_report(
        rows,
        tmp_path_factory.mktemp("report"),
        title=HOSTILE,
        provenance={"command": ["repalign", "compare", HOSTILE], HOSTILE: {"a": HOSTILE}},
        citations=[f"Someone (2008). {HOSTILE} https://doi.org/10.1"],
    )


def test_the_page_is_well_formed_with_headings_in_order(report):
    reader = Reader(report.read_text())
    headings = [tag for tag, _ in reader.tags if tag in ("h1", "h2", "h3", "h4")]
    assert headings == ["h1"] + ["h2"] * 7
    assert reader.named("html") == [{"lang": "en"}]
    assert len(reader.named("main")) == 1
    assert len(reader.named("table")) == len(reader.named("caption")) == 4
    assert all(attrs.get("scope") in ("col", "row") for attrs in reader.named("th"))
    assert all(attrs["alt"] for attrs in reader.named("img"))
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_the_page_loads_nothing(report):
    reader = Reader(report.read_text())
    links = [attrs.get(n) for _, attrs in reader.tags for n in ("src", "href", "srcset", "action")]
    links = [link for link in links if link is not None]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "url(" not in report.read_text()
    assert "@import" not in report.read_text()
    policy = next(attrs["content"] for attrs in reader.named("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_hostile_names_are_text(report):
    reader = Reader(report.read_text())
    assert len(reader.named("script")) == 1
    assert reader.words["h1"] == [HOSTILE]
    assert HOSTILE in reader.words["td"]
    assert not any("alert" in words for words in reader.words["script"])


def test_every_helper_escapes():
    from matplotlib.figure import Figure

    fig = Figure(figsize=(1, 1))
    for html in (
        text_html(f"{HOSTILE}\n- {HOSTILE}"),
        code_html(HOSTILE),
        table_html([{HOSTILE: HOSTILE}, {HOSTILE: [HOSTILE]}], {HOSTILE: HOSTILE}, HOSTILE),
        definitions_html({HOSTILE: HOSTILE}, HOSTILE),
        figure_html(fig, HOSTILE, HOSTILE),
        page(HOSTILE, [Section(HOSTILE, "")] * 2, subtitle=HOSTILE),
    ):
        assert "<script>alert" not in html
        assert len(Reader(html).named("script")) == html.startswith("<!doctype")


def test_numbers_stand_right_and_missing_ones_are_a_dash():
    rows = [{"a": 0.12345, "b": "x"}, {"a": math.nan, "b": None}, {"a": -3, "b": 2.0}]
    html = table_html(rows, {"a": "A", "b": "B"}, "C")
    assert '<td class="number" data-value="0.12345">0.123</td>' in html
    assert '<td class="number missing">–</td>' in html
    assert '<td class="number" data-value="-3.0">−3</td>' in html
    assert '<th scope="col"><button type="button">B</button></th>' in html


def test_what_all_rows_share_is_said_once_and_empty_columns_are_left_out():
    rows = [{"a": 1, "b": "x", "c": None}, {"a": 2, "b": "x"}]
    columns = {"a": "A", "b": "B", "c": "C"}
    html = table_html(rows, columns, "Caption.", once=["b"])
    assert Reader(html).words["button"] == ["A"]
    assert "Caption. The same in all: b x." in html
    assert Reader(table_html(rows[:1], columns, "C", once=["b"])).words["button"] == ["A", "B"]


def test_one_kind_of_ceiling_is_named_in_the_caption_of_the_best_layers(tmp_path):
    same = {"ceiling_low": 0.5, "ceiling_high": 0.7}
    rows = curve([0.1] * 4, ceiling_kind="nili", **same)
    html = write_report(rows, tmp_path, title="t").read_text()
    assert "Noise ceiling: over subjects, Nili et al. 2014." in html
    assert "<td>0.50–0.70</td>" in html
    rows += curve([0.1] * 4, metric="cka", ceiling_kind="split_half", **same)
    html = write_report(rows, tmp_path, title="t").read_text()
    assert "<td>0.50–0.70 (split half)</td>" in html


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (-0.0, "0.000"), (4e-7, "4.0e−07"), (np.float32(1.5), "1.500"),
     (np.int64(3), "3"), (1e9, "1.0e+09"), (math.inf, "inf")],
)  # fmt: skip
def test_numbers_never_read_as_a_false_zero(value, text):
    assert number_text(value) == text


def test_text_becomes_paragraphs_and_lists():
    html = text_html("one\ntwo\n\n- a\n- b\nthree")
    assert html == "<p>one two</p><ul><li>a</li><li>b</li></ul><p>three</p>"
    assert text_html("") == ""


def test_a_figure_without_alt_text_is_refused():
    with pytest.raises(ValueError, match="needs an alt text"):
        figure_html(layer_profile(a_study()), " ", "caption")


# ---------------------------------------------------------------- files


def test_results_survive_the_round_trip_through_json(tmp_path):
    rows = curve([0.1, math.nan, np.float32(0.5), -1 / 3], metric_parameters={"k": (1, 2)})
    write_report(rows, tmp_path, title="t")
    text = (tmp_path / "results.json").read_text()
    back = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert [row["value"] for row in back] == [0.1, None, 0.5, -1 / 3]
    assert read_rows([tmp_path]) == back
    assert tuple(back[0]) == ROW_FIELDS


def test_the_csv_holds_all_rows_with_parameters_as_json(tmp_path):
    write_report(curve([0.1, math.nan, 0.2, 0.3], extra="x"), tmp_path, title="t")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*ROW_FIELDS, "extra"]
    assert [row["value"] for row in rows] == ["0.1", "", "0.2", "0.3"]
    assert json.loads(rows[0]["metric_parameters"])["comparator"] == "spearman"


def test_the_summary_names_the_best_layer_interval_and_ceiling(tmp_path):
    rows = curve([0.1, 0.2, 0.447, 0.3], species="macaque", subject="M1", ci_low=0.4, ci_high=0.49)
    html = write_report(rows, tmp_path, title="t").read_text()
    assert (
        "Best layer of net for macaque IT by RSA: blocks.1 "
        "(0.447, 95 % interval 0.40–0.49; no ceiling)." in html
    )


def test_an_interval_that_holds_zero_shows_its_sign(tmp_path):
    html = write_report([a_row(ci_low=-0.004, ci_high=0.4)], tmp_path, title="t").read_text()
    assert "95 % interval −0.00 to 0.40" in html


def test_the_summary_names_subjects_and_rivals(tmp_path):
    html = write_report(a_study(), tmp_path, title="t").read_text()
    assert (
        "Best layer of net for human IT, 2 subjects, by CKA: blocks.1 (mean 0.300, subjects "
        "0.30–0.30; noise ceiling 0.55–0.75, split-half). Next: pixels (0.130, 0.08–0.18); "
        "net@random stem (0.100, 0.10–0.10)." in html
    )


def test_a_given_summary_replaces_the_automatic_one(tmp_path):
    html = write_report(a_study(), tmp_path, title="t", summary="My words.").read_text()
    assert "<p>My words.</p>" in html
    assert "Best layer of" not in html


def test_the_command_is_shown_as_it_would_be_typed(tmp_path):
    provenance = {"command": ["repalign", "report", "my results/"]}
    html = write_report(a_study(), tmp_path, title="t", provenance=provenance).read_text()
    assert "repalign report &#x27;my results/&#x27;" in html


def test_a_failing_write_leaves_the_old_files_whole(tmp_path, monkeypatch):
    write_report(curve([0.1] * 4), tmp_path, title="old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OSError, match="no space left"):
        write_report(curve([0.9] * 4), tmp_path, title="new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_json_cannot_hold_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"object.*cannot be written as JSON"):
        write_report([a_row(metric_parameters={"f": object()})], tmp_path, title="t")
    with pytest.raises(TypeError, match="citations is a single string"):
        write_report([a_row()], tmp_path, title="t", citations="Someone (2008)")
    assert not list(tmp_path.iterdir())


def test_rows_are_read_in_order_and_once(tmp_path):
    for name, value in (("b", 0.2), ("a", 0.1)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps([a_row(value=value, layer=name)]))
    paths = [tmp_path, tmp_path / "b" / "results.json"]
    assert [row["value"] for row in read_rows(paths)] == [0.1, 0.2]
    assert [row["value"] for row in read_rows(paths[::-1])] == [0.2, 0.1]
    # A report written into the folder that it was read from changes nothing.
    write_report(read_rows(tmp_path), tmp_path, title="t")
    assert [row["value"] for row in read_rows(tmp_path)] == [0.1, 0.2]


def test_nan_written_by_python_is_read_as_null(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps([a_row(value=math.nan)]))
    assert read_rows(tmp_path)[0]["value"] is None


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("[{", "is not valid JSON"),
        ("{}", "holds a dict, not a list"),
        ("[]", "no row to report"),
        ("[3]", "row 0 is a int, not a mapping"),
        (json.dumps([a_row(value="high")]), "value of row 0 is 'high', not a number"),
        (json.dumps([a_row(metric_parameters=1)]), "metric_parameters of row 0"),
        ('[{"dataset": "d"}]', "row 0 lacks species, region, subject, model, layer"),
    ],
)
def test_a_bad_results_file_is_told_in_one_line(tmp_path, content, error):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=error) as caught:
        read_rows([path])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist"):
        read_rows([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"no results\.json in"):
        read_rows([tmp_path])
    with pytest.raises(ValueError, match="no path given"):
        read_rows([])

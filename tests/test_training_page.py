"""The page on an experiment of training: complete, honest, self-contained, and readable."""

from __future__ import annotations

import copy
import csv
import json
import math
import re
import subprocess
import sys
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments_fixture import NO_REGION, make_experiment
from matplotlib.text import Text
from test_reporting import HOSTILE, Reader

from repalign.reporting.condition_looks import LOOKS, look_of
from repalign.reporting.panels import SMALL
from repalign.reporting.training_audits import alignment_means, flattened
from repalign.reporting.training_figures import (
    control_panels,
    gain_figure,
    robustness_curves,
    seed_mean,
)
from repalign.reporting.training_page import (
    SECTIONS,
    make_figures,
    plain,
    read_experiment,
    write_training_report,
)
from repalign.reporting.training_panels import alignment_change, dose_figure, learning_curves
from repalign.reporting.training_sections import corruption_rows


def small(**changes: Any) -> dict[str, Any]:
    """A quick one: two seeds, four conditions, one attack."""
    conditions = {"baseline": 1.0, "aligned": 1.4, "one-hot": 1.38, "row-shuffle": 1.0}
    given = {"seeds": (0, 1), "conditions": conditions, "attacks": [("pgd", "Linf")]} | changes
    return make_experiment(**given)


def hostile() -> dict[str, Any]:
    """Markup in every name that a user can choose."""
    experiment = small(seeds=(0,))
    experiment["title"] = HOSTILE
    for condition in experiment["conditions"]:
        condition |= {"title": HOSTILE, "description": HOSTILE, "reason": HOSTILE}
    for run in experiment["runs"]:
        for row in run["alignment"]:
            row |= {"metric": HOSTILE, "subject": HOSTILE}
        for check in run["masking"]["checks"]:
            check |= {"name": HOSTILE, "detail": HOSTILE}
    experiment["runs"].append(copy.deepcopy(experiment["runs"][0]) | {"condition": HOSTILE})
    experiment["audit"] = {"verdict": HOSTILE, "passed": None, "rows": [{HOSTILE: HOSTILE}]}
    experiment["configuration"] = {HOSTILE: {HOSTILE: HOSTILE}}
    experiment["citations"] = [HOSTILE]
    return experiment


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_report(make_experiment(), tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_report(hostile(), tmp_path_factory.mktemp("hostile"))


def words(path: Path) -> str:
    """The text of a page, without its pictures."""
    return text_of(path.read_text("utf-8"))


def said(experiment: dict[str, Any]) -> str:
    """The text of all sections, with no figure drawn."""
    record = plain(experiment)
    return text_of(" ".join(f"{name} {make(record, {})}" for name, make in SECTIONS.items()))


def text_of(html: str) -> str:
    text = re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", html, flags=re.S)
    return unescape(" ".join(text.split()))


def drawn(ax: Any, gid: str) -> list[Any]:
    return [artist for artist in ax.get_children() if artist.get_gid() == gid]


# ---------------------------------------------------------------- page


def test_every_section_is_present_in_order(full):
    reader = Reader(full.read_text("utf-8"))
    assert reader.words["h2"] == [*SECTIONS, "Cite"]
    assert len(reader.named("img")) == 7
    assert all(attrs["alt"] for attrs in reader.named("img"))
    assert len(reader.named("table")) == len(reader.named("caption"))


@pytest.mark.parametrize("name", ["full", "marked"])
def test_the_page_loads_nothing(name, request):
    html = request.getfixturevalue(name).read_text("utf-8")
    reader = Reader(html)
    links = [attrs.get(n) for _, attrs in reader.tags for n in ("src", "href", "srcset", "action")]
    links = [link for link in links if link is not None]
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "url(" not in html
    assert "@import" not in html


def test_hostile_names_are_text(marked):
    reader = Reader(marked.read_text("utf-8"))
    assert len(reader.named("script")) == 1
    assert reader.words["h1"] == [HOSTILE]
    assert HOSTILE in reader.words["td"]
    assert not any("alert" in text for text in reader.words["script"])


def test_the_verdict_and_its_rules_come_first(full):
    text = words(full)
    start = text.index("Rule by rule:")
    assert (
        text.index("too few seeds to be significant") < start < text.index("What was done", start)
    )
    assert "R3, open: The gain over the label-geometry control" in text
    assert "stated before any result was seen" in text


def test_the_table_of_accuracies_has_the_one_hot_row_and_names_upper_bounds(full):
    text = words(full)
    assert re.search(r"One-hot labels 1\.000 3 0\.\d{3} ± 0\.\d{3}", text)
    assert "Accuracies at ε > 0 are upper bounds" in text
    assert "label-geometry control is missing" not in text


def test_without_the_one_hot_row_the_page_says_what_is_lost():
    text = said(small(conditions={"baseline": 1.0, "aligned": 1.4}))
    assert "The label-geometry control is missing from this table" in text


def test_what_did_not_apply_is_said_with_its_reason(full):
    assert f"Other region: {NO_REGION}" in words(full)


def test_a_failed_masking_audit_is_first_in_the_verdict_and_in_the_tables():
    text = said(small(failing=("one-hot",)))
    first = "The robustness numbers of the label-geometry control are not trustworthy"
    assert text.split("Rule by rule:")[0].rstrip().rpartition("Verdict ")[2].startswith(first)
    assert text.split("Rule by rule: ")[1].startswith("R6, not met: " + first)
    assert "not trustworthy for: One-hot labels." in text
    assert "FAILED PGD .500, FGSM .310" in text


def test_one_run_makes_a_page_of_its_own(tmp_path):
    experiment = make_experiment(
        seeds=(0,), conditions={"baseline": 1.0, "aligned": 1.4}, inapplicable={},
        attacks=[("pgd", "Linf")], dose=[], audit={}, error_patterns=[],
    )  # fmt: skip
    text = words(write_training_report(experiment, tmp_path))
    assert "2 runs, 2 conditions, 1 seed" in text
    assert "With one seed there is no test" in text
    assert "R3, not tested: The label-geometry control was not run." in text
    for sentence in (
        "Only one λ was trained; there is no dose–response.", "The Goodhart audit was not run.",
        "No human answers were given", "Every condition applied.",
    ):  # fmt: skip
        assert sentence in text
    assert not (tmp_path / "controls.png").exists()


def test_a_bare_record_says_what_is_missing(tmp_path):
    runs = [{"condition": name, "seed": 0, "clean": 0.9} for name in ("baseline", "aligned")]
    text = words(write_training_report({"runs": runs}, tmp_path))
    for sentence in (
        "No robustness curve is in this record.", "No run was attacked.",
        "Alignment was not measured", "Common corruptions were not tested.",
        "No training log is in this record.", "No run was audited for gradient masking.",
        "Neither configuration nor environment was recorded.",
    ):  # fmt: skip
        assert sentence in text
    assert not list(tmp_path.glob("*.png"))


def test_nan_and_none_are_dashes_and_never_words():
    experiment = small()
    for run in experiment["runs"][::3]:
        run["clean"] = None
        run["lambda"] = math.nan
        for row in run["curves"]:
            row["accuracy"] = row["auc"] = row["ci_low"] = math.nan
        for row in run["alignment"]:
            row["value"] = None
            row["ceiling"] = math.nan
        for row in run["corruptions"]:
            row["accuracy"] = None
    experiment["dose"][0]["auc"] = None
    make_figures(plain(experiment))
    text = said(experiment)
    assert not re.search(r"\b(nan|None|null)\b", text)


def test_agreement_is_not_called_accuracy_by_label():
    text = said(small(reference="own clean prediction"))
    assert "There are no task labels" in text
    assert "answered as labelled" not in text


# ---------------------------------------------------------------- files


def test_the_record_survives_its_file(full):
    experiment = make_experiment()
    text = (full.parent / "experiment.json").read_text("utf-8")
    back = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert back == plain(experiment) == read_experiment(full.parent)


def test_a_report_of_the_read_record_is_the_same_page(tmp_path):
    experiment = small(conditions={"baseline": 1.0, "aligned": 1.4})
    for run in experiment["runs"]:
        run["history"] = run["corruptions"] = run["alignment"] = []
    first = write_training_report(experiment, tmp_path / "a").read_bytes()
    again = write_training_report(read_experiment(tmp_path / "a"), tmp_path / "b").read_bytes()
    assert first == again


def test_the_csv_has_a_line_for_each_run_and_perturbation(full):
    with (full.parent / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24 * 2 * 5
    assert rows[7]["condition"] == "baseline"
    assert (rows[7]["attack"], rows[7]["eps"]) == ("apgd", "0.1")
    given = make_experiment()["runs"][0]["curves"][7]
    assert float(rows[7]["accuracy"]) == given["accuracy"]


def test_all_files_are_written(full):
    names = ["alignment", "controls", "corruptions", "dose", "gains", "learning", "robustness"]
    assert sorted(path.name for path in full.parent.iterdir()) == sorted(
        [*(f"{name}.png" for name in names), "experiment.json", "report.html", "runs.csv"]
    )


def test_plain_makes_strict_json_of_arrays_and_nan():
    given = {"a": np.array([1.0, math.nan]), "b": (np.float32(0.5), np.bool_(True)), 3: Path("x")}
    assert plain(given) == {"a": [1.0, None], "b": [0.5, True], "3": "x"}
    with pytest.raises(TypeError, match=r"object.*cannot be written as JSON"):
        plain({"f": object()})


def test_bad_records_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="the experiment has no run to report"):
        write_training_report({"runs": []}, tmp_path)
    with pytest.raises(TypeError, match="citations is a single string"):
        write_training_report(small(citations="Someone (2008)"), tmp_path)
    twice = small()
    twice["runs"].append(twice["runs"][0])
    with pytest.raises(ValueError, match="two runs of condition 'baseline' have seed 0"):
        write_training_report(twice, tmp_path)
    assert not list(tmp_path.iterdir())


def test_reading_names_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"experiment.json does not exist"):
        read_experiment(tmp_path)
    file = tmp_path / "experiment.json"
    for content, error in (("{", "is not valid JSON"), ("[]", "holds no experiment")):
        file.write_text(content)
        with pytest.raises(ValueError, match=error):
            read_experiment(file)


def test_importing_the_reports_of_comparisons_does_not_load_this_page():
    code = "import sys, repalign.reporting; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- figures and tables


def test_curves_are_the_means_over_seeds_in_one_colour_everywhere():
    experiment = make_experiment()
    ax = robustness_curves(experiment).axes[0]
    (line,) = drawn(ax, "mean:one-hot")
    by_hand = np.mean(
        [[row["accuracy"] for row in run["curves"] if row["attack"] == "pgd"]
         for run in experiment["runs"] if run["condition"] == "one-hot"], axis=0,
    )  # fmt: skip
    assert line.get_ydata() == pytest.approx(by_hand)
    small_ones = [
        line for ax in control_panels(experiment).axes for line in drawn(ax, "mean:one-hot")
    ]
    assert [one.get_color() for one in small_ones] == [line.get_color()]


def test_each_control_stands_beside_baseline_and_aligned_with_its_spread():
    fig = control_panels(make_experiment())
    panels = [ax for ax in fig.axes if ax.get_visible()]
    assert [ax.get_title() for ax in panels][:2] == ["Row shuffle", "Gaussian"]
    assert len(panels) == 6
    for ax in panels:
        assert drawn(ax, "mean:baseline")
        assert drawn(ax, "seeds:aligned")
        assert drawn(ax, "images:aligned")


def test_a_single_seed_has_bars_over_images_and_no_band():
    conditions = {"baseline": 1.0, "aligned": 1.4}
    ax = robustness_curves(make_experiment(seeds=(0,), conditions=conditions)).axes[0]
    assert drawn(ax, "images:aligned")
    assert not drawn(ax, "seeds:aligned")


def test_labels_at_the_ends_of_lines_do_not_overlap():
    fig = robustness_curves(make_experiment())
    fig.draw_without_rendering()
    labels = drawn(fig.axes[1], "label")
    assert len(labels) == 8
    boxes = sorted((Text.get_window_extent(label) for label in labels), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))
    assert max(box.x1 for box in boxes) <= fig.bbox.x1


def test_gains_are_drawn_where_the_differences_are():
    experiment = make_experiment(conditions={"aligned": 1.4, "baseline": 1.0})
    ax = gain_figure(experiment).axes[0]
    (mean,), (seeds,), (interval,) = (drawn(ax, gid) for gid in ("mean", "seeds", "interval"))
    values = seeds.get_xdata()
    assert len(values) == 3
    assert mean.get_xdata() == pytest.approx([np.mean(values)])
    low, high = interval.get_segments()[0][:, 0]
    assert (low + high) / 2 == pytest.approx(np.mean(values))


def test_alignment_goes_from_baseline_to_aligned_with_the_trained_metric_first():
    ax, held_out = alignment_change(make_experiment()).axes
    assert [ax.get_title(), held_out.get_title()] == ["trained stimuli", "held out stimuli"]
    labels = ax.get_yticklabels()
    assert labels[0].get_text() == "log-cka, A, trained neuroids (trained metric)"
    assert [label.get_fontweight() for label in labels] == ["bold"] * 2 + ["normal"] * 4
    assert len(drawn(ax, "mean:aligned")) == len(drawn(ax, "ceiling")) == 6


def test_dose_lines_are_seeds_and_their_mean():
    experiment = make_experiment()
    ax = dose_figure(experiment).axes[0]
    seeds, (mean,) = drawn(ax, "seed"), drawn(ax, "mean")
    assert len(seeds) == 3
    assert mean.get_ydata() == pytest.approx(np.mean([one.get_ydata() for one in seeds], axis=0))


def test_quantities_that_were_never_logged_have_no_panel():
    fig = learning_curves(make_experiment())
    titles = [ax.get_title() for ax in fig.axes if ax.get_visible()]
    assert titles == ["task loss", "alignment loss", "validation: task", "validation: alignment"]


def test_no_text_is_below_eight_points_or_outside_its_figure():
    for name, fig in make_figures(plain(make_experiment(seeds=(0, 1)))).items():
        texts = [t for t in fig.findobj(lambda a: hasattr(a, "get_fontsize")) if t.get_visible()]
        assert min(text.get_fontsize() for text in texts if text.get_text()) >= SMALL, name
        box = fig.get_tightbbox()
        assert box.x0 >= -0.1, name
        assert box.x1 <= fig.get_figwidth() + 0.1, name


def test_known_conditions_differ_in_look_and_unknown_ones_get_their_own():
    looks = {(colour, str(line), marker) for colour, line, marker in LOOKS.values()}
    assert len(looks) == len(LOOKS)
    every = ["aligned", "mine", "yours"]
    mine, yours = look_of("mine", every), look_of("yours", every)
    assert (mine["color"], mine["marker"]) != (yours["color"], yours["marker"])


def test_the_relative_error_of_corruptions_is_that_of_the_same_seed():
    def run(name: str, seed: int, errors: list[float]) -> dict[str, Any]:
        rows = [
            {"corruption": corruption, "category": "noise", "severity": level, "accuracy": 1 - e}
            for corruption, e in zip("ab", errors, strict=True)
            for level in (1, 2)
        ]
        return {"condition": name, "seed": seed, "corruptions": rows}

    runs = [run("baseline", 0, [0.2, 0.4]), run("baseline", 1, [0.1, 0.0]),
            run("aligned", 0, [0.1, 0.4]), run("aligned", 1, [0.1, 0.3])]  # fmt: skip
    rows = corruption_rows({"runs": runs})
    assert [row["relative"] for row in rows] == ["1.000 ± 0.000", "0.875 ± 0.177"]
    assert rows[1]["accuracy"] == "0.775 ± 0.035"


def test_alignment_tables_hold_every_condition_and_cell():
    rows = alignment_means(make_experiment())
    assert len(rows) == 8 * 12
    assert {row["n"] for row in rows} == {3}
    assert {row["trained"] for row in rows if row["metric"] == "log-cka"} == {"yes"}


def test_distances_are_in_the_table_and_not_among_similarities():
    experiment = small()
    for run in experiment["runs"]:
        for row in run["alignment"]:
            row["is_distance"] = row["metric"] == "rsa"
    assert {row["metric"] for row in alignment_means(experiment)} == {
        "log-cka", "debiased-cka", "rsa (distance)",
    }  # fmt: skip
    labels = [tick.get_text() for tick in alignment_change(experiment).axes[0].get_yticklabels()]
    assert len(labels) == 4
    assert not any("rsa" in label for label in labels)


def test_seed_means_skip_what_is_undefined():
    matrix = np.array([[0.2, math.nan, math.nan], [0.4, 0.6, math.nan]])
    assert seed_mean(matrix) == pytest.approx([0.3, 0.6, math.nan], nan_ok=True)


def test_nested_settings_have_dotted_names():
    assert flattened({"a": {"b": {"c": 1}}, "d": {}}) == {"a.b.c": 1, "d": {}}

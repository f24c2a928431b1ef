"""The page of a study: right numbers, in a real browser, without a network or an error."""

from __future__ import annotations

import base64
import json
import math
import re
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import bibtexparser
import numpy as np
import pytest
from browser import CHROMIUM, Browser, browser
from PIL import Image
from scipy.stats import spearmanr
from studies_material import IDS, make_study, write_layer

import repalign as ra
from repalign.cards import list_cards, load_card
from repalign.reporting import read_rows
from repalign.reporting.interactive.matrices import (
    MOST_RDMS,
    MOST_STIMULI,
    RdmSource,
    packed,
    rdm_pictures,
)
from repalign.reporting.interactive.numbers import (
    MOST_ROWS,
    across_subjects,
    fraction_of_ceiling,
    model_labels,
    page_numbers,
)
from repalign.reporting.profiles import gather_profiles
from repalign.reporting.references import Work, bibtex, work_of
from repalign.reporting.summary import choose_names
from repalign.studies import collect_study, read_study, run_study, write_study_report

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"'<!--"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def a_row(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": "lab", "selection": "", "species": "macaque", "region": "IT", "subject": "a",
        "model": "net", "layer": "l0", "metric": "rsa", "metric_parameters": {},
        "is_distance": False, "value": 0.2, "null_mean": 0.001, "null_sd": 0.01,
        "ceiling_kind": "split-half", "ceiling_low": 0.5, "ceiling_high": 0.8,
        "ceiling_error": 0.02, "ci_low": 0.1, "ci_high": 0.3, "p": None, "n_stimuli": 20,
        "n_neuroids": 9, "seed": 0, "version": "0.1.0", "note": "", "error": None,
    } | changes  # fmt: skip


def many_rows() -> list[dict[str, Any]]:
    """Six models of five layers, two regions, two subjects, two metrics: one is a distance."""
    random = np.random.default_rng(0)
    rows = []
    for metric in ("rsa", "procrustes"):
        for region in ("V4", "IT"):
            for subject in ("a", "b"):
                for number in range(6):
                    for layer in range(1 if number == 5 else 5):
                        value = float(0.1 * number + 0.02 * layer + 0.01 * random.normal())
                        place = {"region": region, "subject": subject, "layer": f"l{layer}"}
                        kind = {"metric": metric, "is_distance": metric == "procrustes"}
                        rows.append(a_row(model=f"net{number}", value=value, **place, **kind))
    return rows


def numbers_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    every = gather_profiles(rows)
    return page_numbers(rows, every, choose_names(every))


def as_results(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert len(found) == 1
    return json.loads(found[0])


# --- numbers ---


def test_a_fraction_of_the_ceiling_is_given_only_where_it_means_something() -> None:
    def fraction(**changes: Any) -> float:
        return fraction_of_ceiling(gather_profiles([a_row(**changes)])[0])

    assert fraction() == pytest.approx(0.2 / 0.8)
    for why, changes in {
        "lower is closer": {"is_distance": True},
        "no ceiling": {"ceiling_low": None, "ceiling_high": None},
        "a ceiling that reaches zero": {"ceiling_low": -0.1},
        "a ceiling within its error of zero": {"ceiling_error": 0.3},
        "zero is not unrelated": {"null_mean": 0.2},
        "nobody knows where unrelated is": {"null_mean": None},
        "no value": {"value": None},
    }.items():
        assert math.isnan(fraction(**changes)), why


def test_the_layer_of_other_subjects_does_not_gain_from_the_choice() -> None:
    curves = {"a": [0.9, 0.1, 0.4], "b": [0.2, 0.8, 0.4], "c": [0.1, 0.3, 0.5]}
    rows = [
        a_row(subject=subject, layer=f"l{i}", value=value)
        for subject, curve in curves.items()
        for i, value in enumerate(curve)
    ]
    # others of a: .15 .55 .45 → l1; of b: .5 .2 .45 → l0; of c: .55 .45 .4 → l0
    expected = (0.1 + 0.2 + 0.1) / 3
    assert across_subjects(gather_profiles(rows)[0]) == pytest.approx(expected)
    for row in rows:
        row |= {"is_distance": True, "value": -row["value"]}
    assert across_subjects(gather_profiles(rows)[0]) == pytest.approx(-expected)
    assert across_subjects(gather_profiles(rows[:3])[0]) is None
    rows[0]["value"] = None
    assert across_subjects(gather_profiles(rows)[0]) is None


def test_selections_and_failures_of_a_study_are_told_apart() -> None:
    failed = a_row(value=None, metric_parameters=None, error="no", model="broken")
    rows = [a_row(), a_row(selection="subject=a", value=0.4), failed]
    assert [p.target.name for p in gather_profiles(rows)] == [
        "macaque IT",
        "macaque IT (subject=a)",
    ]
    found = numbers_of(rows)
    assert [one["name"] for one in found["models"]] == ["net"]
    assert found["rows"]["target"] == [0, 1]
    assert found["rows"]["value"] == [0.2, 0.4]


def test_more_rows_than_a_page_holds_are_cut_and_counted() -> None:
    rows = [a_row(layer=f"l{i % 99}", model=f"net{i // 99}") for i in range(MOST_ROWS + 1)]
    found = numbers_of(rows)["rows"]
    assert (found["total"], len(found["value"])) == (MOST_ROWS + 1, MOST_ROWS)


def test_twins_share_a_colour_and_names_stay_apart() -> None:
    models = ["net", "net@random:0", "other"]
    found = numbers_of([a_row(model=model) for model in models])["models"]
    assert [one["colour"] for one in found] == [0, 0, 1]
    assert [one["twin"] for one in found] == [0, 1, 0]
    assert model_labels(["a@random:0", "a (untrained)"]) == ["a@random:0", "a (untrained)"]


# --- RDMs ---


def test_packed_ranks_keep_the_order() -> None:
    values = np.random.default_rng(0).normal(size=190)
    ranks = np.frombuffer(base64.b64decode(packed(values)), dtype=np.uint8)
    assert spearmanr(ranks, values).statistic > 0.999
    assert (ranks.min(), ranks.max()) == (1, 255)
    values[3] = np.nan
    ranks = np.frombuffer(base64.b64decode(packed(values)), dtype=np.uint8)
    assert np.flatnonzero(ranks == 0).tolist() == [3]


def test_rdms_are_those_of_the_stores_in_order_of_groups(tmp_path: Path) -> None:
    make_study(tmp_path)
    recording = ra.open_store(tmp_path / "lab.zarr")
    groups = np.array(["x", "y"] * 24)[: recording.sizes["presentation"]]
    recording = recording.assign_coords(kind=("presentation", groups.astype(object)))
    layers = {("one", f"l{i}"): str(tmp_path / "one.zarr" / f"l{i}") for i in range(3)}
    layers["one", "gone"] = str(tmp_path / "gone.zarr")
    source = RdmSource("lab", recording, layers, [("one", "l2")])
    [picture], lacking = rdm_pictures([source])
    assert picture["stimuli"] == IDS[::2] + IDS[1::2]
    assert picture["labels"] == {"kind": ["x"] * 8 + ["y"] * 8}
    assert list(picture["brains"]) == ["macaque V4, subject-1", "macaque IT, subject-1"]
    assert list(picture["layers"]["one"]) == ["l0", "l1", "l2"]
    assert (picture["first"], picture["best"]) == ("one", {"one": "l2"})
    assert any("gone" in one for one in lacking)

    values = ra.average_repeats(ra.select(recording, region="IT"))
    order = [values["stimulus_id"].values.tolist().index(name) for name in picture["stimuli"]]
    patterns = values["response"].values[order]
    expected = 1 - np.corrcoef(patterns)[np.triu_indices(16, 1)]
    shown = np.frombuffer(base64.b64decode(picture["brains"]["macaque IT, subject-1"]), np.uint8)
    assert spearmanr(shown, expected).statistic > 0.999


def test_the_page_bounds_stimuli_and_rdms_and_says_so(tmp_path: Path) -> None:
    count = 2 * MOST_STIMULI
    ids = [f"s{i}" for i in range(count)]
    values = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    recording = ra.make_recording(values, stimulus_id=ids, region="IT")
    write_layer(tmp_path / "net.zarr" / "l", values, ids=ids)
    store = str(tmp_path / "net.zarr" / "l")
    layers = {("net", f"l{i}"): store for i in range(MOST_RDMS + 5)}
    [picture], lacking = rdm_pictures([RdmSource("lab", recording, layers, [("net", "l120")])])
    assert len(picture["stimuli"]) == MOST_STIMULI
    assert len(picture["layers"]["net"]) == MOST_RDMS - 1
    assert "l120" in picture["layers"]["net"]  # the best is kept
    assert picture["sheet"] is None
    said = " ".join(lacking)
    assert f"{MOST_STIMULI} of {count} stimuli" in said
    assert f"{MOST_RDMS - 1} of {MOST_RDMS + 5} layers" in said
    assert "no images" in said


# --- citations ---


def test_every_card_gives_a_valid_entry_with_its_own_key() -> None:
    kinds = ("dataset", "model")
    cards = [load_card(name, kind) for kind in kinds for name in list_cards(kind)]
    works = list(dict.fromkeys(Work(c.citation, c.doi or c.url) for c in cards if c.citation))
    parsed = bibtexparser.parse_string(bibtex(works))
    assert parsed.failed_blocks == []
    assert len(parsed.entries) == len(works) > 15
    assert len({entry.key for entry in parsed.entries}) == len(works)
    by_doi = {entry.get("doi").value: entry for entry in parsed.entries if entry.get("doi")}
    neuron = by_doi["10.1016/j.neuron.2008.10.043"]
    fields = {field.key: field.value for field in neuron.fields}
    assert neuron.entry_type == "article"
    assert fields["author"].startswith("Kriegeskorte, N. and Mur, M. and Ruff, D. A. and ")
    assert {k: fields[k] for k in ("journal", "volume", "number", "pages", "year")} == {
        "journal": "Neuron", "volume": "60", "number": "6", "pages": "1126--1141", "year": "2008",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [HOSTILE, "{ { unbalanced", "100 % & $x_1$ #2 ~ ^ \\end", "A (2020). T. V. more. words", ""],
)
def test_no_citation_breaks_the_file(text: str) -> None:
    parsed = bibtexparser.parse_string(bibtex([Work(text), Work(text, "https://x.org/a}b")]))
    assert parsed.failed_blocks == []
    assert len(parsed.entries) == 2


def test_sentences_of_earlier_reports_are_works_again() -> None:
    work = Work("Tan & Le (2019). EfficientNet. ICML.", "10.1/x")
    assert work_of(work.sentence) == work
    assert work_of("No address (2019). Here.") == Work("No address (2019). Here.")


# --- from a study, from its folder, from results ---


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    configuration = make_study(tmp_path_factory.mktemp("study"))
    run_study(configuration, progress=False)
    return configuration


@pytest.fixture(scope="module")
def page(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study_report(study, tmp_path_factory.mktemp("page"))


def test_the_page_holds_the_rows_of_the_study(study: dict[str, Any], page: Path) -> None:
    rows = collect_study(study).rows()
    assert json.loads((page.parent / "results.json").read_text("utf-8")) == rows
    data = data_of(page)
    assert data["rows"]["value"] == pytest.approx([row["value"] for row in rows], rel=1e-4)
    assert [one["name"] for one in data["metrics"]] == ["RSA", "CKA", "ridge predictivity"]
    [rdms] = data["rdms"]
    assert set(rdms["layers"]) == {"one", "two"}
    by_model = [row for row in rows if (row["metric"], row["region"]) == ("rsa", "V4")]
    best = max(by_model, key=lambda row: row["value"])
    assert (rdms["first"], rdms["best"][best["model"]]) == (best["model"], best["layer"])
    header, _, content = rdms["sheet"].partition(",")
    assert header == "data:image/jpeg;base64"
    assert base64.b64decode(content)[:2] == b"\xff\xd8"


def test_a_study_is_known_by_its_folder_and_its_file(
    study: dict[str, Any], page: Path, tmp_path: Path
) -> None:
    folder = read_study(study).folder
    again = write_study_report(folder, tmp_path / "folder")
    assert data_of(again) == data_of(page)
    (folder / "study.json").rename(folder / "kept")
    try:
        with pytest.raises(ValueError, match=r"without its configuration.*STUDY\.toml"):
            write_study_report(folder, tmp_path / "x")
        (folder / "study.json").write_text("{")
        with pytest.raises(ValueError, match=r"study\.json cannot be used"):
            write_study_report(folder, tmp_path / "x")
    finally:
        (folder / "kept").replace(folder / "study.json")
    with pytest.raises(ValueError, match="stands alone"):
        write_study_report([folder, page.parent], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_collected_results_give_the_same_leaderboard_and_say_what_is_missing(
    study: dict[str, Any], page: Path, tmp_path: Path
) -> None:
    (tmp_path / "results").mkdir()
    collect_study(study).save(tmp_path / "results" / "results.json")
    again = write_study_report(tmp_path / "results", tmp_path / "page")
    ours, theirs = data_of(page), data_of(again)
    assert theirs.pop("rdms") == []
    ours.pop("rdms")
    assert ours == theirs
    assert "Results alone name no stores" in again.read_text("utf-8")
    # A report read again is the same report.
    assert read_rows(tmp_path / "page") == read_rows(tmp_path / "results")


def test_what_failed_is_missing_or_was_left_out_is_said(tmp_path: Path) -> None:
    rows = [a_row(), a_row(layer="l1", value=None, metric_parameters=None, error="constant & flat")]
    text = write_study_report(as_results(tmp_path / "r", rows), tmp_path / "p").read_text("utf-8")
    assert "1 comparisons failed" in text
    assert "constant &amp; flat" in text
    with pytest.raises(ValueError, match="every comparison failed.*constant"):
        write_study_report(as_results(tmp_path / "none", rows[1:]), tmp_path / "q")


def test_a_layer_that_is_gone_leaves_the_rest_of_the_page(tmp_path: Path) -> None:
    study = make_study(tmp_path, metrics=["rsa"])
    run_study(study, progress=False)
    write_layer(tmp_path / "two.zarr" / "l1", np.random.default_rng(5).normal(size=(16, 20)))
    page = write_study_report(study, tmp_path / "page")
    assert data_of(page)["rows"]["total"] == 8
    assert "2 cells are not computed yet" in page.read_text("utf-8")
    assert "<b>2</b> not computed yet" in page.read_text("utf-8")


def test_the_policy_of_the_page_allows_only_its_own_scripts(page: Path) -> None:
    text = page.read_text("utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src &#x27;none&#x27;" in policy[1]
    assert "unsafe" not in policy[1]
    assert policy[1].count("sha256-") == 4  # the style, and three scripts


# --- in a browser ---


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as started:
        yield started


def opened(tab: Browser, page: Path) -> None:
    tab.open(page)
    tab.window(1280)
    tab.wait_for("document.querySelectorAll('#models svg, #profiles svg').length > 0")
    settled(tab)


def settled(tab: Browser) -> None:
    """Charts that were asked for are drawn."""
    tab.run("new Promise((done) => setTimeout(done, 250))")
    tab.wait_for("[...document.querySelectorAll('.chart')].every((one) => one.firstChild)")


def column(tab: Browser, table: str, place: int) -> list[str]:
    return tab.run(
        f"[...document.querySelectorAll('#{table} tbody tr')]"
        f".map((row) => row.cells[{place}].textContent)"
    )


def filter_by(tab: Browser, name: str, value: str) -> None:
    tab.run(
        f"{{ const form = document.getElementById('filters'); form.elements['{name}'].value ="
        f" {json.dumps(value)}; form.dispatchEvent(new Event('input')); }}"
    )
    settled(tab)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    return write_study_report(as_results(folder / "results", many_rows()), folder / "page")


@needs_chromium
def test_a_study_is_drawn_without_an_error_or_a_request(tab: Browser, page: Path) -> None:
    opened(tab, page)
    assert tab.said() == []
    assert tab.requests() == []
    count = "document.querySelectorAll('#{} svg').length"
    assert tab.run(count.format("profiles")) == 2  # regions
    assert tab.run(count.format("maps")) == 2  # models
    assert tab.run(count.format("models")) == 1
    assert tab.run("document.getElementById('board').tBodies[0].rows.length") == 2
    assert tab.run("document.getElementById('all').tBodies[0].rows.length") == 10


@needs_chromium
def test_no_text_of_a_result_becomes_markup(tab: Browser, tmp_path: Path) -> None:
    names = ("dataset", "selection", "species", "region", "model", "layer", "metric")
    rows = [a_row(**dict.fromkeys(names, HOSTILE), subject=s) for s in (HOSTILE, "b")]
    rows += [{**row, "layer": "l1"} for row in rows]
    rows.append(a_row(error=HOSTILE, metric_parameters=None, value=None))
    folder = as_results(tmp_path / "r", rows)
    (folder / "sources.json").write_text(
        json.dumps({"command": HOSTILE, "citations": [HOSTILE]}), encoding="utf-8"
    )
    opened(tab, write_study_report(folder, tmp_path / "p", title=HOSTILE))
    assert tab.said() == []
    assert tab.requests() == []
    assert tab.run("document.title").startswith("</script>")
    assert tab.run("document.querySelectorAll('img, script:not([id])').length") == 3
    assert HOSTILE in tab.run("document.querySelector('#board tbody th').textContent")


@needs_chromium
def test_the_leaderboard_sorts_by_click_and_by_key(tab: Browser, large: Path) -> None:
    opened(tab, large)
    assert column(tab, "board", 0) == [f"net{i}" for i in (5, 4, 3, 2, 1, 0)]  # by mean rank
    heads = "document.querySelectorAll('#board thead button')"
    states = "[...document.querySelectorAll('#board th[aria-sort]')].map((h) => h.ariaSort)"
    tab.run(f"{heads}[2].click()")
    scores = [float(text[:5]) for text in column(tab, "board", 2)]
    assert scores == sorted(scores, reverse=True)
    assert tab.run(states) == ["descending"]
    tab.run(f"{heads}[2].focus()")
    tab.press("Enter")
    assert [float(text[:5]) for text in column(tab, "board", 2)] == sorted(scores)
    assert tab.run(states) == ["ascending"]
    assert tab.run(f"document.activeElement === {heads}[2]")  # the focus stays
    tab.run(f"{heads}[0].click()")
    assert column(tab, "board", 0) == [f"net{i}" for i in range(6)]


@needs_chromium
def test_best_scores_and_ranks_are_those_of_the_rows(tab: Browser, large: Path) -> None:
    opened(tab, large)
    rows = [row for row in many_rows() if row["metric"] == "rsa"]
    best = {(p.model, p.target.region): p.best for p in gather_profiles(rows)}
    shown = {
        name: [float(text[:5]) for text in texts]
        for name, *texts in zip(*(column(tab, "board", i) for i in (0, 2, 3)), strict=True)
    }
    for model, scores in shown.items():
        for region, score in zip(("V4", "IT"), scores, strict=True):
            found = best[model, region]
            assert found is not None
            assert score == pytest.approx(found[1], abs=6e-4)
    filter_by(tab, "metric", "Procrustes distance")
    assert column(tab, "board", 0)[0] == "net0"  # lower is closer
    assert "of the ceiling" not in tab.run("document.querySelector('#board tbody').textContent")


@needs_chromium
def test_filters_reach_tables_and_charts_and_say_how_many(tab: Browser, large: Path) -> None:
    opened(tab, large)
    count = "document.getElementById('count').textContent"
    panels = "[...document.querySelectorAll('#profiles h3')].map((one) => one.textContent)"
    assert tab.run(count) == "6 of 6 models, 2 columns of scores"
    filter_by(tab, "region", "IT")
    assert tab.run(count) == "6 of 6 models, 1 column of scores"
    assert [one[:10] for one in tab.run(panels)] == ["macaque IT"]
    filter_by(tab, "text", "NET3")
    assert column(tab, "board", 0) == ["net3"]
    assert set(column(tab, "all", 2)) == {"net3"}
    assert tab.run("document.getElementById('all-count').textContent") == "10 of 10 rows shown"
    filter_by(tab, "text", "nothing")
    assert tab.run(count) == "0 of 6 models, 0 columns of scores"
    tab.run("document.querySelector('#filters [type=reset]').click()")
    settled(tab)
    assert tab.run(count) == "6 of 6 models, 2 columns of scores"
    filter_by(tab, "metric", "")
    assert len(tab.run(panels)) == 4
    assert tab.run("document.getElementById('count').getAttribute('aria-live')") == "polite"
    assert tab.said() == []


@needs_chromium
def test_long_tables_are_cut_until_asked_for(tab: Browser, large: Path) -> None:
    opened(tab, large)
    filter_by(tab, "metric", "")
    total = len(many_rows())
    assert len(column(tab, "all", 0)) == 100
    tab.run("document.getElementById('all-more').click()")
    assert len(column(tab, "all", 0)) == total
    heads = "document.querySelectorAll('#all thead button')"
    tab.run(f"{heads}[5].click()")
    values = [float(text.replace("−", "-")) for text in column(tab, "all", 5)]
    assert values == sorted(values, reverse=True)


@needs_chromium
def test_a_model_is_highlighted_in_all_charts(tab: Browser, large: Path) -> None:
    opened(tab, large)
    chips = "[...document.querySelectorAll('.chips button')]"
    tab.run(f"{chips}.find((one) => one.textContent === 'net2').click()")
    pressed = f"{chips}.filter((one) => one.ariaPressed === 'true').map((one) => one.textContent)"
    assert tab.run(pressed) == ["net2", "net2"]
    faint = (
        "[...document.querySelectorAll('#profiles .mark-symbol path')]"
        ".filter((one) => one.getAttribute('opacity') === '0.1').length"
    )
    tab.wait_for(f"{faint} > 0")
    tab.run(f"{chips}.find((one) => one.textContent === 'net2').click()")
    tab.wait_for(f"{faint} === 0")


@needs_chromium
def test_rdms_show_their_stimuli_and_their_correlation(
    tab: Browser, study: dict[str, Any], page: Path
) -> None:
    opened(tab, page)
    [rdms] = data_of(page)["rdms"]
    model = rdms["first"]
    target = next(iter(rdms["brains"]))
    both = (rdms["brains"][target], rdms["layers"][model][rdms["best"][model]])
    ranks = [np.frombuffer(base64.b64decode(one), np.uint8).astype(float) for one in both]
    said = tab.run("document.getElementById('rdm-words').textContent")
    shown = float(re.search(r"(−?\d\.\d{3})\.$", said)[1].replace("−", "-"))  # type: ignore[index]
    assert shown == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-3)
    tab.run("document.getElementById('rdm-brain').focus()")
    before = tab.run("document.getElementById('rdm-pair').textContent")
    tab.press("ArrowRight")
    after = tab.run("document.getElementById('rdm-pair').textContent")
    assert before.startswith("s00 and s01")
    assert after.startswith("s00 and s02")
    tab.wait_for(
        "document.getElementById('rdm-first').getContext('2d')"
        ".getImageData(60, 60, 1, 1).data[3] === 255"
    )
    tab.run("document.querySelector('#viewer [name=recording]').dispatchEvent(new Event('input'))")
    assert tab.said() == []


@needs_chromium
def test_every_chart_has_words_and_a_table(tab: Browser, page: Path) -> None:
    opened(tab, page)
    labels = tab.run("[...document.querySelectorAll('.chart')].map((one) => one.ariaLabel)")
    assert all(len(label) > 20 for label in labels)
    hidden = "[...document.querySelectorAll('.chart svg')].every((one) => one.ariaHidden)"
    assert tab.run(hidden)
    tab.run("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for name in ("profiles", "models", "subjects", "rdm"):
        tab.wait_for(f"document.querySelector('#{name}-table table caption')")
    assert len(tab.run("[...document.querySelectorAll('#profiles-table tbody tr')]")) == 10
    levels = tab.run("[...document.querySelectorAll('h1,h2,h3')].map((one) => +one.tagName[1])")
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    unnamed = (
        "[...document.querySelectorAll('select, input, button, canvas[tabindex], th')].filter("
        "(one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel)).length"
    )
    assert tab.run(unnamed) == 0


def contrast(first: str, second: str) -> float:
    """The contrast of two colours by WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_words_and_lines_stand_out_in_light_and_dark(tab: Browser, page: Path, dark: bool) -> None:
    opened(tab, page)
    tab.window(1280, dark=dark)
    colours = tab.run(
        "Object.fromEntries(['ink','soft','accent','paper','shade',"
        "...Array.from({length: 8}, (_, i) => `c${i}`)].map((name) => {"
        " const one = document.createElement('i'); one.style.color = `var(--${name})`;"
        " document.body.append(one); const found = getComputedStyle(one).color; one.remove();"
        " return [name, found]; }))"
    )
    assert (contrast(colours["paper"], "0 0 0") < 3) == dark
    for paper in (colours["paper"], colours["shade"]):
        for name in ("ink", "soft", "accent"):
            assert contrast(colours[name], paper) >= 4.5, name
        for i in range(8):
            assert contrast(colours[f"c{i}"], paper) >= 3, i
    # The choice of the page outweighs that of the system.
    picker = "document.querySelector('.theme select')"
    wanted = "light" if dark else "dark"
    tab.run(f"{picker}.value = '{wanted}'; {picker}.dispatchEvent(new Event('change'))")
    body = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (contrast(body, "0 0 0") > 10) == dark
    tab.run(f"{picker}.value = 'light dark'; {picker}.dispatchEvent(new Event('change'))")


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_never_scrolls_sideways(tab: Browser, large: Path, width: int) -> None:
    opened(tab, large)
    tab.window(width)
    filter_by(tab, "metric", "")
    assert tab.run("document.documentElement.scrollWidth") <= width


@needs_chromium
def test_the_printed_page_is_dark_on_light_without_controls(
    tab: Browser, page: Path, tmp_path: Path
) -> None:
    opened(tab, page)
    tab.window(1280, dark=True)
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        ink = tab.run("getComputedStyle(document.body).color")
        assert ink == "rgb(0, 0, 0)"
        assert tab.run("getComputedStyle(document.getElementById('filters')).display") == "none"
        tab.pdf(tmp_path / "page.pdf")
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    tab.screenshot(tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert picture.height > 2000


@needs_chromium
def test_the_bibtex_is_offered_as_a_file(tab: Browser, tmp_path: Path) -> None:
    rows = [a_row(dataset="kriegeskorte2008", model="efficientnet_lite0@random:0"), a_row()]
    page = write_study_report(as_results(tmp_path / "r", rows), tmp_path / "p")
    opened(tab, page)
    link = tab.run("document.getElementById('bibtex').href")
    text = unquote(link.partition(",")[2])
    assert text == (tmp_path / "p" / "citations.bib").read_text("utf-8")
    assert {entry.key for entry in bibtexparser.parse_string(text).entries} == {
        "kriegeskorte2008",
        "tan2019",
    }
    assert tab.run("document.getElementById('bibtex').download") == "citations.bib"
    assert tab.requests() == []

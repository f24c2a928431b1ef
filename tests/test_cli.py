"""The command line as a user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import repalign as ra
from repalign.cli import main
from repalign.scenes import make_scenes
from repalign.stimuli import encode_png

FIELDS = 23
FILES = ("profile.png", "report.html", "results.csv", "results.json", "sources.json")


@pytest.fixture
def lab(tmp_path: Path, random: np.random.Generator) -> Path:
    """A V4 session as a lab has it: images in a zip, neurons × images in an npy, one card."""
    scenes = make_scenes(12, size=32)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i, image in enumerate(scenes.images):
            archive.writestr(f"image{i + 1:04d}.png", encode_png(image))
    np.save(tmp_path / "responses.npy", random.poisson(5, size=(7, 12)).astype(float))
    (tmp_path / "session.toml").write_text(
        'name = "session"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n'
        '[files]\nresponses = "responses.npy"\nimages = "images.zip"\n'
    )
    return tmp_path / "session.toml"


def error_line(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 1
    assert out == ""
    last = err.rstrip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "Traceback" not in err
    return last


def test_one_card_outside_the_repository_gives_a_profile(cli, lab: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "report"
    code, printed, _ = cli(
        "compare", lab, "pixels", "gabor_energy", "--metric", "rsa", "--metric", "cka",
        "--metric", "ridge:folds=3", "--resamples", 50, "--out", out, "--json",
    )  # fmt: skip
    assert code == 0
    rows = json.loads(printed)
    assert len(rows) == 6
    assert all(len(row) == FIELDS for row in rows)
    assert {row["n_stimuli"] for row in rows} == {12}
    assert json.loads((out / "results.json").read_text()) == rows
    names = {path.name for path in out.iterdir()}
    assert names == {*FILES}
    code, path, _ = cli("report", out, "--out", tmp_path / "again")
    assert code == 0
    assert Path(path.strip()).read_text().startswith("<!doctype html>")


def test_table_for_people_marks_the_best_layer(cli, lab: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = cli("compare", lab, "efficientnet_lite0@random", "--layers", "blocks.0,bn2")
    assert code == 0
    assert out.count("*") == 2  # beside the best value, and in the line that explains it
    assert "* best layer of its model" in out
    assert "efficientnet_lite0@random:0" in out
    assert out.startswith("session, macaque, V4, subject-1, 12 stimuli, 7 neuroids\n")
    assert "12 stimuli matched by id" in err


def test_ingest_and_record_print_what_they_made(cli, lab: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = cli("ingest", lab, "--to", tmp_path / "s", "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert (row["region"], row["stimuli"], row["neuroids"]) == ("V4", 12, 7)
    code, out, _ = cli(
        "record", "pixels", "--stimuli", row["store"], "--to", tmp_path / "s", "--json"
    )
    assert code == 0
    code, _, err = cli(
        "record", "pixels", "--stimuli", row["store"], "--dtype", "float16", "--memory", "1MB"
    )
    assert code == 1
    assert "memory=1 MB is the cap; allow more (--memory)" in err
    (layer,) = json.loads(out)
    assert layer["units"] == 3 * 64 * 64
    activations = Path(layer["store"]).parent
    code, out, _ = cli("compare", row["store"], activations, "--json", "--resamples", 0)
    assert json.loads(out)[0]["model"] == "pixels"


def test_rotated_layers_are_recorded_and_compared(cli, lab: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    asked = ("record", "efficientnet_lite0@random", "--stimuli", lab, "--layers", "conv_stem")
    code, out, err = cli(*asked, "--rotate", "--to", tmp_path, "--json")
    assert code == 0
    assert "passes" in err
    row = json.loads(out)[0]
    assert row["units"] == row["stimuli"] + 1
    store = Path(row["store"]).parent
    code, out, _ = cli("compare", lab, store, "--json", "--resamples", 0, "--to", tmp_path)
    rotated = json.loads(out)[0]["value"]
    whole = ("efficientnet_lite0@random", "--layers", "conv_stem", "--json", "--resamples", 0)
    code, out, _ = cli("compare", lab, *whole, "--to", tmp_path)
    assert json.loads(out)[0]["value"] == pytest.approx(rotated, abs=1e-6)
    for wrong in (("--scratch-size", "1GB"), ("--rotate", "--dtype", "float16")):
        assert cli(*asked, *wrong, "--to", tmp_path)[0] != 0


def test_layers_lists_modules_with_their_sizes(cli) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = cli("layers", "efficientnet_lite0@random", "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["conv_stem"]["shape"] == [32, 112, 112]
    assert rows["conv_stem"]["bytes"] == 4 * 32 * 112 * 112
    code, out, _ = cli("layers", "efficientnet_lite0@random")
    (line,) = [line for line in out.splitlines() if line.startswith("blocks.5 ")]
    assert line.split()[-1] == "default"


def test_arrays_are_compared_row_by_row_and_it_is_said(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 5)), random.normal(size=(20, 8))
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "y.npz", early=y, late=x[:, :3])
    code, out, err = cli("compare", tmp_path / "x.npy", tmp_path / "y.npz", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["layer"] for row in rows] == ["early", "late"]
    expected = ra.compare(x, y, n_resamples=0)[0].value
    assert rows[0]["value"] == pytest.approx(expected)
    assert "20 rows matched by order" in err


def test_three_axes_mean_the_same_as_in_python(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    x = np.random.default_rng(1).normal(size=(4, 20, 6))
    y = np.random.default_rng(2).normal(size=(20, 3))
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    code, out, _ = cli("compare", tmp_path / "x.npy", tmp_path / "y.npy", "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert row["n_stimuli"] == 20
    assert row["ceiling_kind"] == "split-half"
    assert row["value"] == pytest.approx(ra.compare(x, y, n_resamples=0)[0].value)


def test_a_folder_of_that_name_does_not_hide_a_card(  # type: ignore[no-untyped-def]
    cli, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pixels").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli("compare", lab, "pixels", "--resamples", 0)[0] == 0


def test_baseline_beside_a_network_keeps_its_own_layer(cli, lab: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = cli(
        "compare", lab, "efficientnet_lite0@random", "pixels", "--layers", "blocks.6", "--json"
    )
    assert code == 0
    assert [row["layer"] for row in json.loads(out)] == ["blocks.6", "pixels"]
    assert "pixels has one layer, pixels: --layers is for the others" in err


def test_cards_are_listed_and_shown(cli) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = cli("cards", "--json")
    rows = json.loads(out)
    assert {row["kind"] for row in rows} == {"dataset", "model"}
    assert "resnet50" in {row["name"] for row in rows}
    _, out, _ = cli("cards", "resnet50", "--json")
    assert json.loads(out)["weights"] == "IMAGENET1K_V2"
    _, out, _ = cli("cards", "kriegeskorte2008")
    assert "10.1016/j.neuron.2008.10.043" in out


def test_fetch_uses_the_mirror(cli, data_folder: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = cli("fetch", "kriegeskorte2008", "--mirror", data_folder, "--json")
    assert code == 0
    assert {row["role"] for row in json.loads(out)} == {"supplement", "subjects"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "kriegskorte", "pixels"], "did you mean kriegeskorte2008"),
        (["compare", "LAB", "resnet"], "did you mean resnet"),
        (["compare", "LAB", "pixels", "--layers", "pixel"], "near matches: pixels"),
        (
            ["compare", "LAB", "pixels", "--metric", "rsq"],
            "no metric 'rsq'; .*did you mean rsa",
        ),
        (["compare", "LAB", "pixels", "--metric", "rsa:debiased=true"], "is no parameter of rsa"),
        (["compare", "LAB", "pixels", "--metric", "cka:debiased=1"], "expected true or false"),
        (["compare", "LAB", "pixels", "--metric", "ridge:folds=two"], "a value of type int"),
        (["compare", "LAB", "pixels", "--metric", "rsa:rdm=manhattan"], "manhattan"),
        (["compare", "LAB", "pixels", "--select", "region=IT"], "there is V4"),
        (["compare", "LAB", "pixels", "--select", "IT"], "expected NAME=VALUE"),
        (["compare", "LAB", "pixels", "--ceiling", "nili"], "2 or more individual subjects"),
        (["compare", "LAB", "pixels", "--device", "gpu"], "expected auto, cpu, and cuda or mps"),
        (["cards", "resnet"], "near: resnet"),
        (["compare", "LAB", "none.npy"], "none.npy"),
        (["compare", "LAB", "none.zarr"], "no finished store"),
        (["ingest", "none.toml"], "no card at none.toml"),
        (["fetch", "kriegeskorte2008"], "put .* into a folder and name that folder"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_line_with_a_remedy(  # type: ignore[no-untyped-def]
    cli, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [lab if word == "LAB" else word for word in arguments]
    assert re.search(message, error_line(cli(*words)))


def test_debug_shows_the_traceback(cli) -> None:  # type: ignore[no-untyped-def]
    code, _, err = cli("ingest", "none.toml", "--debug")
    assert code == 1
    assert "Traceback" in err


def test_numbers_are_never_cut_on_a_narrow_terminal(  # type: ignore[no-untyped-def]
    cli, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    models = ("efficientnet_lite0@random", "pixels")
    code, out, _ = cli("compare", lab, *models, "--layers", "blocks.6,bn2")
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(len(line.rstrip()) for line in plain.splitlines()) <= 80
    assert re.search(r"-?0\.\d{3} to -?0\.\d{3}", plain)


def test_help_loses_no_words(cli) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = cli("compare", "--help")
    assert code == 0
    assert "$REPALIGN_CACHE" in out
    assert not re.search(r" \.\s", out)


def test_merged_report_keeps_what_to_cite(cli, lab: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for model in ("pixels", "gabor_energy"):
        assert cli("compare", lab, model, "--resamples", 0, "--out", tmp_path / model)[0] == 0
    both = ("report", tmp_path / "pixels", tmp_path / "gabor_energy", "--out", tmp_path / "both")
    assert cli(*both)[0] == 0
    page = (tmp_path / "both" / "report.html").read_text()
    assert "Adelson" in page
    assert "--resamples 0" in page


def test_wrong_usage_exits_with_2(cli) -> None:  # type: ignore[no-untyped-def]
    assert cli("compare")[0] == 2
    assert cli("compare", "a", "b", "--no-such-option")[0] == 2
    assert cli("compare", "a", "b", "--ceiling", "top")[0] == 2


def test_wrong_hash_leaves_nothing_half_written(cli, lab: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    text = lab.read_text().replace(
        'responses = "responses.npy"',
        f'responses = {{ path = "responses.npy", hash = "sha256:{"0" * 64}" }}',
    )
    lab.write_text(text)
    store = tmp_path / "store"
    assert "has hash sha256:" in error_line(cli("ingest", lab, "--to", store))
    assert [path.name for path in store.iterdir()] == [".locks"]


def test_installed_command_runs() -> None:
    command = [str(Path(sys.executable).parent / "repalign"), "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ra.__version__


def test_demo_recovers_the_planted_layer_and_reports(cli, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "demo"
    code, printed, _ = cli("demo", "--out", out, "--offline")
    assert code == 0
    assert "planted layer blocks.5: recovered by rsa, cka, ridge" in printed
    rows = json.loads((out / "results.json").read_text())
    assert {row["metric"] for row in rows} == {"rsa", "cka", "ridge"}
    assert {row["model"] for row in rows} == {
        "efficientnet_lite0",
        "efficientnet_lite0@random:0",
        "pixels",
    }
    assert all(row["ceiling_high"] is not None for row in rows)
    assert (out / "profile.png").read_bytes().startswith(b"\x89PNG")
    assert "blocks.5" in (out / "report.html").read_text()


def test_metrics_are_listed_and_one_is_shown_in_full(cli) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = cli("metrics", "--json")
    assert code == 0
    listed = json.loads(out)
    assert [row["metric"] for row in listed] == sorted(ra.METRICS)
    assert all(row["formula"] and row["reference"] for row in listed)
    code, out, _ = cli("metrics", "cka:kernel=rbf")
    assert code == 0
    assert "`kernel='rbf'`" in out
    assert "did you mean cka?" in error_line(cli("metrics", "cca2ka"))


def test_validity_prints_every_planted_case(cli) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = cli("validity", "cka", "cka:debiased=false", "--draws", "3", "--json")
    assert code == 0
    rows = json.loads(out)
    assert {row["metric"] for row in rows} == {"cka"}
    assert any(row["passed"] is False for row in rows)
    code, out, _ = cli("validity", "cka:debiased=false", "--draws", "3")
    assert code == 0
    assert "NO" in out


def test_verify_fails_where_a_reference_disagrees(  # type: ignore[no-untyped-def]
    cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repalign import verification

    code, out, _ = cli("verify", "--json")
    assert code == 0
    assert {row["agrees"] for row in json.loads(out)} <= {True, None}
    right = verification.rdm
    monkeypatch.setattr(verification, "rdm", lambda *x, **more: 2 * right(*x, **more))
    assert cli("verify")[0] == 1


def test_a_recipe_scores_a_model_by_a_published_procedure(cli, lab: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = cli("recipe", "kornblith2019", lab, "pixels", "--json")
    assert code == 0
    [row] = json.loads(out)
    assert (row["recipe"], row["model"], row["n_stimuli"]) == ("kornblith2019", "pixels", 12)
    assert 0 < row["value"] <= 1
    code, out, err = cli("recipe", "kornblith2019", lab, "pixels")
    assert code == 0
    assert "with shuffled stimuli" in err
    wanted = "there are brainscore-majajhong2015-pls.*did you mean kornblith2019"
    assert re.search(wanted, error_line(cli("recipe", "kornblith", lab, "pixels")))
    wrong = error_line(cli("recipe", "brainscore-majajhong2015-pls:version=2", lab, "pixels"))
    assert "version is 2" in wrong


def test_export_writes_what_other_tools_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "responses.npy", np.arange(12.0).reshape(4, 3))
    card = tmp_path / "lab.toml"
    card.write_text(
        'name = "lab"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n'
        '[files]\nresponses = "responses.npy"\n[options]\ndims = ["stimulus", "neuroid"]\n'
    )
    out = tmp_path / "lab.npz"
    arguments = ["repalign", "export", str(card), str(out), "--select", "neuroid_id=neuroid-0001"]
    monkeypatch.setattr("sys.argv", [*arguments, "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out)[0]["file"] == str(out)
    with np.load(out, allow_pickle=False) as found:
        assert found["response"].tolist() == [[1], [4], [7], [10]]
    with pytest.raises(SystemExit, match="1"):
        main()
    assert "--overwrite" in capsys.readouterr().err

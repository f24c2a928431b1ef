"""Cards: what is valid, how they are found, and what an error says."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from repalign.cards import list_cards, load_card, load_dataset_card, load_model_card
from repalign.loaders import LOADERS, find_loader

DATASET = """
name = "mine"
species = "macaque"
regions = "V4"
loader = "arrays"
[files]
responses = "responses.npy"
"""
MODEL = 'name = "net"\nsource = "torchvision:resnet18"\n'


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", list_cards("dataset"))
def test_shipped_dataset_card_is_complete(name: str) -> None:
    card = load_dataset_card(name)
    assert card.licence, "an SPDX licence"
    assert len(card.citation) > 40
    assert card.doi or card.url
    assert callable(find_loader(card))
    if card.access != "open":  # its files are found by name
        return
    for source in card.files.values():
        assert source.url is not None
        assert source.url.startswith("https://")
        assert source.hash is not None
        assert source.hash.startswith(("sha256:", "sha1:"))  # as the publisher gives it


@pytest.mark.parametrize("name", list_cards("model"))
def test_shipped_model_card_is_complete(name: str) -> None:
    card = load_model_card(name)
    assert card.licence
    assert len(card.citation) > 20
    assert card.doi or card.url
    assert card.layers
    assert card.weights != "random" or name == "digits_cnn"  # which is there to be trained


def test_loaders_resolve() -> None:
    for target in LOADERS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_templates_become_valid_cards_when_filled_in(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    for kind, folder in (("dataset", "neural_data"), ("model", "models")):
        text = (root / folder / "_template.toml").read_text(encoding="utf-8")
        text = re.sub(r'(?m)^name = ".*?"', 'name = "filled"', text)
        card = load_card(write(tmp_path / folder, text, "filled.toml"), kind)  # type: ignore[arg-type]
        assert card.name == "filled"


def test_minimal_card_needs_five_lines(tmp_path: Path) -> None:
    card = load_dataset_card(write(tmp_path, DATASET))
    assert card.files["responses"].name == "responses.npy"
    assert card.species == ("macaque",)
    assert card.trusted


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('loader = "arrays"', "", "key 'loader' is missing"),
        ("species", "specie", "unknown key 'specie'; did you mean 'species'"),
        (
            'responses = "responses.npy"',
            'responses = { path = "r.npy", hash = "abc" }',
            "files.responses.hash = 'abc': expected one of md5:<32 hex>",
        ),
        ('name = "mine"', 'name = "other"', "name = 'other', but the file is called mine.toml"),
        ('name = "mine"', 'name = "mine"\nlicence = "CC BY 4.0"', "SPDX identifier such as"),
        ('name = "mine"', 'name = "mine"\naccess = "manual"', "needs instructions"),
        ('name = "mine"', "name = mine", "not valid TOML"),
        ('responses = "responses.npy"', "responses = {}", "a local file"),
    ],
)
def test_error_names_file_key_value_and_expectation(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = write(tmp_path, DATASET.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load_dataset_card(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_unknown_name_lists_near_matches() -> None:
    with pytest.raises(ValueError, match="did you mean kriegeskorte2008"):
        load_dataset_card("kriegskorte2008")


def test_cards_folder_comes_before_the_packaged_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, DATASET)
    write(tmp_path / "models", MODEL, "net.toml")
    monkeypatch.setenv("REPALIGN_CARDS", str(tmp_path))
    assert "mine" in list_cards("dataset")
    assert "mine" not in list_cards("model")
    assert load_model_card("net").trusted
    assert not load_model_card("resnet18").trusted


def test_a_name_that_stands_twice_is_an_error_that_names_both_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MODEL.replace("net", "resnet18", 1), "resnet18.toml")
    monkeypatch.setenv("REPALIGN_CARDS", str(tmp_path))
    with pytest.raises(ValueError, match="two model cards are called 'resnet18'") as error:
        load_model_card("resnet18")
    assert str(path) in str(error.value)
    assert str(Path("models") / "resnet18.toml") in str(error.value)


def test_code_is_honoured_only_in_cards_of_the_users_own(tmp_path: Path) -> None:
    card = load_dataset_card(write(tmp_path, DATASET.replace("arrays", "json:loads")))
    assert find_loader(card).__name__ == "loads"
    card._trusted = False
    with pytest.raises(ValueError, match="run only for cards given by path"):
        find_loader(card)


def test_broken_card_in_the_users_folder_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "name = broken\n", "broken.toml")
    write(tmp_path / "neural_data", DATASET.replace('loader = "arrays"', ""))
    monkeypatch.setenv("REPALIGN_CARDS", str(tmp_path))
    with pytest.raises(ValueError, match="broken.toml is not valid TOML"):
        load_dataset_card("broken")
    with pytest.raises(ValueError, match="key 'loader' is missing"):
        load_dataset_card("mine")
    assert "resnet18" in list_cards("model")

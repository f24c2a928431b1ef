"""Raw files: local paths, the mirror, the cache, the network; hashes on all of them."""

from __future__ import annotations

import functools
import gc
import hashlib
import http.server
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from repalign.card_schemas import DatasetCard, FileSource
from repalign.cards import load_dataset_card, load_model_card
from repalign.fetch import fetch_file, fetch_files

CONTENT = b"responses of a brain"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


def make_card(folder: Path, file: str, extra: str = "") -> DatasetCard:
    path = folder / "mine.toml"
    path.write_text(
        f'name = "mine"\nspecies = "x"\nregions = "y"\nloader = "arrays"\nlicence = "CC0-1.0"\n'
        f'citation = "Somebody (2024)."\n{extra}\n[files.responses]\n{file}\n'
    )
    return load_dataset_card(path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine's loopback address."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.npy").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()
    with warnings.catch_warnings():  # requests leaves the connection of a failed download open
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_path_is_relative_to_the_card(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(CONTENT)
    card = make_card(tmp_path, f'path = "a.npy"\nhash = "{MD5}"')
    assert fetch_files(card)["responses"].read_bytes() == CONTENT


def test_wrong_hash_of_a_path_names_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"something else")
    card = make_card(tmp_path, f'path = "a.npy"\nhash = "{SHA256}"')
    with pytest.raises(ValueError, match="has hash sha256:[0-9a-f]{64}, the card") as error:
        fetch_files(card)
    assert SHA256 in str(error.value)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at .*a\.npy; correct path = 'a\.npy'"):
        fetch_files(make_card(tmp_path, 'path = "a.npy"'))


def test_mirror_is_searched_in_all_subfolders_by_name_and_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / "mirror" / "b" / "c"
    decoy = tmp_path / "mirror" / "a"
    deep.mkdir(parents=True)
    decoy.mkdir()
    (decoy / "a[1].npy").write_bytes(b"another file of that name")
    (deep / "a[1].npy").write_bytes(CONTENT)
    card = make_card(tmp_path, f'url = "https://example.org/a[1].npy"\nhash = "{SHA256}"')
    assert fetch_files(card, mirror=tmp_path / "mirror")["responses"] == deep / "a[1].npy"
    monkeypatch.setenv("REPALIGN_MIRROR", str(tmp_path / "mirror"))
    assert fetch_files(card)["responses"] == deep / "a[1].npy"


def test_offline_says_where_to_put_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"of the same name")
    card = make_card(tmp_path, f'url = "https://example.org/a.npy"\nhash = "{SHA256}"')
    with pytest.raises(FileNotFoundError, match="this run is offline; put a.npy into a folder"):
        fetch_files(card, offline=True)
    with pytest.raises(FileNotFoundError, match="another hash than the card says"):
        fetch_files(card, offline=True, mirror=tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        fetch_files(card, mirror=tmp_path / "none")


def test_restricted_data_shows_its_instructions_and_uses_the_mirror(tmp_path: Path) -> None:
    extra = 'access = "agreement"\ninstructions = "Sign the form at example.org."'
    card = make_card(tmp_path, f'name = "a.npy"\nhash = "{SHA256}"', extra)
    with pytest.raises(FileNotFoundError, match=r"access: agreement\)\. Sign the form at example"):
        fetch_files(card, offline=False)
    (tmp_path / "a.npy").write_bytes(CONTENT)
    assert fetch_files(card, mirror=tmp_path)["responses"].read_bytes() == CONTENT


def test_download_is_checked_cached_and_announced(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card = make_card(tmp_path, f'url = "{server}/a.npy"\nhash = "{SHA256}"')
    path = fetch_files(card, to=tmp_path / "cache", offline=False)["responses"]
    assert path.read_bytes() == CONTENT
    printed = capsys.readouterr()
    assert "licence CC0-1.0; cite Somebody (2024)." in printed.err
    assert printed.out == ""
    again = fetch_files(card, to=tmp_path / "cache", offline=True)["responses"]
    assert again == path
    assert capsys.readouterr().err == ""


def test_download_with_a_wrong_hash_is_not_kept(tmp_path: Path, server: str) -> None:
    card = make_card(tmp_path, f'url = "{server}/a.npy"\nhash = "sha256:{"0" * 64}"')
    with pytest.raises(ValueError, match="it was not kept"):
        fetch_files(card, to=tmp_path / "cache", offline=False)
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


def test_unknown_hash_is_printed_to_be_pinned(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card = make_card(tmp_path, f'url = "{server}/a.npy"')
    fetch_files(card, to=tmp_path / "cache", offline=False)
    assert f'pin it in {tmp_path / "mine.toml"}: hash = "{SHA256}"' in capsys.readouterr().err


def test_weights_known_by_a_hash_prefix_are_checked_and_their_hash_is_printed(
    tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As torchvision's weights are: their file names carry the first 8 digits."""
    card = load_model_card("resnet18")
    for prefix, fits in ((SHA256[:15], True), ("sha256:00000000", False)):
        source = FileSource.model_construct(url=f"{server}/a.npy", name="a.npy", hash=prefix)
        if fits:
            path = fetch_file(source, card, cache=tmp_path / "fits", offline=False)
            assert path.read_bytes() == CONTENT
            assert f'weights_hash = "{SHA256}"' in capsys.readouterr().err
        else:
            with pytest.raises(ValueError, match="it was not kept"):
                fetch_file(source, card, cache=tmp_path / "not", offline=False)


def test_failed_download_is_one_line_with_a_remedy(tmp_path: Path, server: str) -> None:
    card = make_card(tmp_path, f'url = "{server}/none.npy"\nhash = "{SHA256}"')
    with pytest.raises(OSError, match="could not download .*REPALIGN_MIRROR") as error:
        fetch_files(card, to=tmp_path / "cache", offline=False)
    assert "\n" not in str(error.value)

"""Stores in zips and object stores: the same store, read in part, whole or absent.

The object store is a moto server on this machine; nothing leaves it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import repalign as ra
from repalign import remote_files
from repalign.activations import open_layers
from repalign.copying import _is_stale
from repalign.opening import is_store, open_recording
from repalign.places import LocalFolder, Remote, Zip, find_place
from repalign.recording import make_recording
from repalign.remote_files import PlaceError
from repalign.scenes import make_scenes
from repalign.stimuli import GROUP, Stimuli, encode_png, open_stimuli, stimuli_to_dataset
from repalign.store import (
    MANIFEST,
    damaged_files,
    load_values,
    open_store,
    read_manifest,
    write_store,
)

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")
BUCKET = "s3://lab"
IDS = [f"image-{i}" for i in range(40)]


def recording_of(seed: float) -> xr.Dataset:
    values = np.random.default_rng(int(seed)).normal(size=(40, 30))
    return make_recording(values, stimulus_id=IDS, region=["V4"] * 10 + ["IT"] * 20)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a moto server; its log of requests is that of `requests_since`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("moto") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            for _ in range(2400):
                try:
                    urllib.request.urlopen(f"{url}/moto-api/data.json", timeout=5).close()
                    break
                except OSError:
                    time.sleep(0.05)
            else:
                pytest.fail(f"moto does not start: {log.read_text()}")
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket, and credentials that no real server knows."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for path, method in (("/moto-api/reset", "POST"), ("/lab", "PUT")):
        request = urllib.request.Request(server + path, method=method)
        urllib.request.urlopen(request, timeout=120).close()
    remote_files._filesystem.cache_clear()  # connections keep the settings they began with
    yield BUCKET
    remote_files._filesystem.cache_clear()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A recording of 40 images that are in the store."""
    scenes = make_scenes(40, size=32)
    images = Stimuli(tuple(IDS), tuple(encode_png(image) for image in scenes.images))
    path = tmp_path / "a.zarr"
    groups = {"": recording_of(0), GROUP: stimuli_to_dataset(images)}
    write_store(path, groups, provenance={"dataset": "a"})
    return path


@pytest.fixture
def places(store: Path, bucket: str) -> dict[str, str]:
    """One store copied from kind to kind: folder → zip → object store → zip there → folder."""
    names = {
        "zip": str(store.with_name("a.zarr.zip")),
        "s3": f"{bucket}/deep/a.zarr",
        "zip in s3": f"{bucket}/a.zarr.zip",
        "memory": "memory://test/a.zarr",
        "folder": str(store.with_name("b.zarr")),
    }
    last = str(store)
    for name in names.values():
        assert ra.copy_store(last, name, overwrite=True, progress=False) > 0
        last = name
    return {"original": str(store), **names}


@pytest.fixture
def published(store: Path, bucket: str) -> str:
    """The store in the bucket."""
    ra.copy_store(store, f"{bucket}/deep/a.zarr", progress=False)
    return f"{bucket}/deep/a.zarr"


def passes(where: str | Path) -> list[bool | None]:
    return [one.passed for one in ra.verify_store(where, progress=False)]


def remote_keys(folder: str) -> list[str]:
    place = find_place(folder)
    assert isinstance(place, Remote)
    return sorted(place.sizes())


# --- names ---------------------------------------------------------------------------------


def test_a_name_says_which_kind_of_place_it_is(tmp_path: Path) -> None:
    assert find_place("s3://bucket//x.zarr/") == Remote("s3://bucket//x.zarr")
    assert find_place("a/b.zarr.zip") == Zip("a/b.zarr.zip")
    assert find_place(Path("a/b.zarr.zip/layer4")) == Zip("a/b.zarr.zip", "layer4")
    assert find_place("s3://b/a.zarr.zip/l") == Zip("s3://b/a.zarr.zip", "l")
    assert find_place(tmp_path) == LocalFolder(tmp_path)
    assert find_place(f"file://{tmp_path}") == LocalFolder(tmp_path)
    (tmp_path / "c.zarr.zip").mkdir()
    assert find_place(tmp_path / "c.zarr.zip") == LocalFolder(tmp_path / "c.zarr.zip")
    for name in ("s3://b/x", "a.zarr.zip", "a.zarr.zip/layer4", "a.zarr", "a.zarr/"):
        assert is_store(name), name
    assert not is_store("kriegeskorte2008")
    assert not is_store("pictures.zip")


def test_a_url_that_pathlib_spoiled_is_refused_and_makes_no_folder() -> None:
    with pytest.raises(ValueError, match="was a URL before pathlib"):
        open_store(Path("s3://lab/a.zarr"))
    with pytest.raises(ValueError, match="was a URL before pathlib"):
        ra.ingest("kriegeskorte2008", to=Path("s3://lab"))


# --- the same store everywhere -------------------------------------------------------------


def test_every_kind_of_place_holds_the_same_bits(places: dict[str, str], store: Path) -> None:
    original = open_store(store)
    for kind, name in places.items():
        found = open_store(name)
        assert found.attrs["fingerprint"] == original.attrs["fingerprint"], kind
        assert found.attrs["store"] == name
        xr.testing.assert_identical(found.drop_attrs().load(), original.drop_attrs().load())
        assert passes(name) == [True, True, True], kind
        image = open_stimuli(found).image(7)
        np.testing.assert_array_equal(image, open_stimuli(original).image(7))
    copied = {file.relative_to(store): file.read_bytes() for file in store.rglob("*.json")}
    again = Path(places["folder"])
    assert all((again / name).read_bytes() == content for name, content in copied.items())
    assert LocalFolder(again).sizes() == LocalFolder(store).sizes()


def test_a_zip_is_uncompressed_and_the_same_bytes_each_time(store: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.zarr.zip", tmp_path / "2.zarr.zip"
    ra.copy_store(store, first, progress=False)
    time.sleep(1.1)  # a zip's times have whole seconds
    ra.copy_store(store, second, progress=False)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert {*archive.namelist()} == {*LocalFolder(store).sizes()}


def test_a_zip_made_by_another_tool_is_read(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in store.rglob("*"):  # folders too, and times of their own
            archive.write(file, file.relative_to(store))
    assert passes(path) == [True, True, True]


def test_layers_are_copied_and_named_inside_each_place(tmp_path: Path, bucket: str) -> None:
    for seed, layer in enumerate(("layer10", "layer2")):
        write_store(tmp_path / "net.zarr" / layer, {"": recording_of(seed)}, provenance={})
    (tmp_path / "net.zarr" / "unfinished").mkdir()
    original = open_layers(tmp_path / "net.zarr")
    assert list(original) == ["layer2", "layer10"]
    last: str | Path = tmp_path / "net.zarr"
    for place in (tmp_path / "net.zarr.zip", f"{bucket}/net.zarr", tmp_path / "again.zarr"):
        ra.copy_store(last, place, progress=False)
        found = open_layers(place)
        assert list(found) == ["layer2", "layer10"]
        for layer in found:
            one = open_recording(f"{place}/{layer}")
            assert one.attrs["fingerprint"] == original[layer].attrs["fingerprint"]
            assert passes(f"{place}/{layer}") == [True, True]
        with pytest.raises(ValueError, match=r"holds layer2, layer10; give one of them"):
            open_recording(str(place))
        last = place
    write_store(tmp_path / "one.zarr" / "layer2", {"": recording_of(5)}, provenance={})
    ra.copy_store(tmp_path / "one.zarr", f"{bucket}/net.zarr", overwrite=True, progress=False)
    assert list(open_layers(f"{bucket}/net.zarr")) == ["layer2"]
    assert not [key for key in remote_keys(f"{bucket}/net.zarr") if key.startswith("layer10")]


def test_a_web_server_is_read_from_and_not_written_to(
    store: Path, bucket: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    public = {"s3_additional_kwargs": {"ACL": "public-read"}}
    monkeypatch.setitem(fsspec.config.conf, "s3", public)
    remote_files._filesystem.cache_clear()
    ra.copy_store(store, f"{bucket}/a.zarr", progress=False)
    ra.copy_store(store, f"{bucket}/a.zarr.zip", progress=False)
    remote_files._filesystem.cache_clear()
    for name in (f"{server}/lab/a.zarr", f"{server}/lab/a.zarr.zip"):
        assert passes(name) == [True, True, True]
    response = next(k for k in remote_keys(f"{bucket}/a.zarr") if "/response/c/" in k)
    Remote(f"{bucket}/a.zarr").remove(response)
    assert passes(f"{server}/lab/a.zarr")[:2] == [False, False]
    with pytest.raises(ValueError, match="web servers are only read from"):
        ra.copy_store(store, f"{server}/lab/b.zarr", progress=False)
    monkeypatch.delitem(fsspec.config.conf, "s3")
    remote_files._filesystem.cache_clear()
    ra.copy_store(store, f"{bucket}/private.zarr", progress=False)
    with pytest.raises(PlaceError, match="access is denied"):
        open_store(f"{server}/lab/private.zarr")


# --- only what is needed is read -----------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "s3"])
@pytest.mark.parametrize("dask", [True, False])
def test_a_region_is_read_without_the_rest(
    kind: str, dask: bool, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fsspec.implementations.local import LocalFileSystem
    from s3fs import S3FileSystem

    values = np.random.default_rng(0).normal(size=(200, 8000))
    made = make_recording(
        values, stimulus_id=[f"s{i}" for i in range(200)], region=["V4"] * 2600 + ["IT"] * 5400
    )
    write_store(tmp_path / "a.zarr", {"": made}, provenance={})
    place = str(tmp_path / "a.zarr.zip") if kind == "zip" else f"{bucket}/a.zarr"
    total = ra.copy_store(tmp_path / "a.zarr", place, progress=False)
    assert total > 10e6
    fetched: list[int] = []
    local, remote = LocalFileSystem.cat_file, S3FileSystem._cat_file

    def from_disk(self, *args, **options):  # type: ignore[no-untyped-def]
        fetched.append(len(content := local(self, *args, **options)))
        return content

    async def from_s3(self, *args, **options):  # type: ignore[no-untyped-def]
        fetched.append(len(content := await remote(self, *args, **options)))
        return content

    monkeypatch.setattr(LocalFileSystem, "cat_file", from_disk)
    monkeypatch.setattr(S3FileSystem, "_cat_file", from_s3)
    remote_files._filesystem.cache_clear()
    found = open_store(place, dask=dask)
    assert 0 < sum(fetched) < 0.05 * total
    fetched.clear()
    part = ra.select(found, region="V4")["response"].values
    np.testing.assert_array_equal(part, values[:, :2600])
    assert 0.2 * total < sum(fetched) < 0.4 * total


def test_opening_takes_one_listing_and_few_requests(
    published: str, server: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [log] = tmp_path_factory.getbasetemp().glob("moto0/log")
    before = len(log.read_text().splitlines())
    open_store(published)
    asked = log.read_text().splitlines()[before:]
    assert sum("list-type=2" in line for line in asked) == 1
    n_files = len(remote_keys(published))
    assert len(asked) < 2 * n_files


# --- damage --------------------------------------------------------------------------------


def test_a_missing_object_a_changed_one_and_an_unknown_one_are_found(
    published: str,
) -> None:
    place = find_place(published)
    assert isinstance(place, Remote)
    manifest = read_manifest(place)
    assert manifest is not None
    files = place / manifest["build"]
    assert isinstance(files, Remote)
    whole = files.read("zarr.json")
    files.write("zarr.json", whole.replace(b"{", b" ", 1))
    assert damaged_files(place, manifest) == ["zarr.json was changed"]
    files.write("zarr.json", whole)
    files.write("stray", b"x")
    assert "stray is unknown" in ra.verify_store(place, progress=False)[0].detail
    files.remove("stray")
    [shard] = [name for name in manifest["files"] if name.startswith("response/c/")]
    flipped = bytearray(files.read(shard))
    flipped[len(flipped) // 3] ^= 1
    files.write(shard, bytes(flipped))
    assert passes(published) == [True, False, True]
    files.remove(shard)
    with pytest.raises(ValueError, match=rf"{published} is damaged: {shard} is missing"):
        open_store(published)


def test_a_chunk_that_vanishes_after_opening_is_an_error_and_not_fill_values(
    published: str,
) -> None:
    found = open_store(published)
    Remote(published).remove(found_build(published))
    with pytest.raises(PlaceError, match="replaced or deleted; open it again"):
        found["response"].load()


def found_build(name: str) -> str:
    manifest = read_manifest(name)
    assert manifest is not None
    return str(manifest["build"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_zip_that_was_cut_off_is_refused(
    share: float, store: Path, tmp_path: Path, bucket: str
) -> None:
    path = tmp_path / "a.zarr.zip"
    ra.copy_store(store, path, progress=False)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    remote_files.write_whole(f"{bucket}/cut.zarr.zip", path)
    for place in (path, f"{bucket}/cut.zarr.zip"):
        with pytest.raises(PlaceError, match="no whole zip .*; copy or download it again"):
            open_store(place)


def hostile_zip(path: Path, name: str, **options: int) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:  # type: ignore[call-overload]
        archive.writestr(MANIFEST, "{}" * 50)
        info = zipfile.ZipInfo("placeholder")
        info.compress_type = archive.compression
        info.filename = name
        archive.writestr(info, "x" * 100)
    return path


@pytest.mark.parametrize(
    "name", ["../out", "/etc/passwd", "a/../../b", "a\\b", "C:/x", "a//b", "./a"]
)
def test_names_that_lead_out_of_a_zip_are_refused(name: str, tmp_path: Path) -> None:
    path = hostile_zip(tmp_path / "x.zarr.zip", name)
    with pytest.raises(PlaceError, match="whose name leads out of it"):
        open_store(path)


def test_compressed_and_doubled_members_are_refused(tmp_path: Path) -> None:
    path = hostile_zip(tmp_path / "x.zarr.zip", "a", compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(PlaceError, match="compressed or encrypted"):
        open_store(path)
    with pytest.warns(UserWarning, match="Duplicate"):
        hostile_zip(tmp_path / "y.zarr.zip", MANIFEST)
    with pytest.raises(PlaceError, match="two files"):
        open_store(tmp_path / "y.zarr.zip")


def test_a_manifest_that_names_files_elsewhere_is_not_followed(store: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    manifest = json.loads((store / MANIFEST).read_text())
    for change in (
        {"files": {**manifest["files"], "../secret": 1}},
        {"build": "../a.zarr"},
        {"fingerprints": None},
    ):
        (store / MANIFEST).write_text(json.dumps(manifest | change))
        for action in (open_store, lambda path: ra.copy_store(path, tmp_path / "b.zarr")):
            with pytest.raises(ValueError, match="is damaged: its manifest has"):
                action(store)
    assert not (tmp_path / "b.zarr").exists()


# --- replaced, killed, doubled -------------------------------------------------------------


def test_refuses_to_replace_unless_asked_and_never_what_is_no_store(
    places: dict[str, str], store: Path, tmp_path: Path
) -> None:
    write_store(tmp_path / "new.zarr", {"": recording_of(3)}, provenance={})
    for kind, name in places.items():
        with pytest.raises(FileExistsError, match="--overwrite"):
            ra.copy_store(tmp_path / "new.zarr", name, progress=False)
        ra.copy_store(tmp_path / "new.zarr", name, overwrite=True, progress=False)
        assert passes(name) == [True, True], kind
    assert not [k for k in remote_keys(places["s3"]) if GROUP in k], "the old build is gone"
    (tmp_path / "mine.zarr").mkdir()
    (tmp_path / "mine.zarr" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="is no finished store; delete it yourself"):
        ra.copy_store(store, tmp_path / "mine.zarr", overwrite=True)
    with pytest.raises(ValueError, match=r"ends in \.zarr or \.zarr\.zip"):
        ra.copy_store(store, tmp_path / "a.zip")
    with pytest.raises(ValueError, match="onto itself"):
        ra.copy_store(store, store, overwrite=True)
    with pytest.raises(FileNotFoundError, match="no finished store"):
        ra.copy_store(tmp_path / "none.zarr", tmp_path / "b.zarr.zip")


def test_a_plain_copy_of_the_files_into_a_bucket_is_a_store_too(store: Path, bucket: str) -> None:
    place = Remote(f"{bucket}/plain.zarr")
    for name in LocalFolder(store).sizes():
        place.write(name, (store / name).read_bytes())
    assert passes(place.url) == [True, True, True]
    ra.copy_store(store, place.url, overwrite=True, progress=False)
    keys = remote_keys(place.url)
    assert {key.partition("/")[0] for key in keys} == {MANIFEST, found_build(place.url)}


def test_a_replaced_zip_is_not_read_with_the_old_offsets(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    ra.copy_store(store, path, progress=False)
    before = open_store(path)
    write_store(tmp_path / "new.zarr", {"": recording_of(3)}, provenance={})
    ra.copy_store(tmp_path / "new.zarr", path, overwrite=True, progress=False)
    with pytest.raises(PlaceError, match="was replaced since it was opened"):
        before["response"].load()
    np.testing.assert_array_equal(open_store(path)["response"], recording_of(3)["response"])


KILLED = """
import os, signal, sys, time
from repalign import copying
from repalign.copying import copy_store
from repalign.store import open_store
from repalign.store_checks import verify_store

store, old, *targets = sys.argv[1:]
read = copying._checked_content

def child_killed_after(files, target):
    "Kill a copy, in a process of its own, when it has come to so many files."
    seen, tell = os.pipe()
    pid = os.fork()
    if not pid:
        def slowly(*args):
            time.sleep(0.02)
            os.write(tell, b".")
            return read(*args)
        copying._checked_content = slowly
        copy_store(store, target, overwrite=True, progress=False)
        os._exit(0)
    for _ in range(files):
        assert os.read(seen, 1) == b"."
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL

def passes(target):
    return [one.passed for one in verify_store(target, progress=False)]

for target in targets:
    child_killed_after(9, target)
    try:
        open_store(target)
    except FileNotFoundError:
        copy_store(old, target, overwrite=True, progress=False)
    else:
        sys.exit(f"{target} was opened, and is no whole store")
    child_killed_after(15, target)
    assert open_store(target).attrs["fingerprint"] == open_store(old).attrs["fingerprint"]
    assert passes(target) == [True, True], target
    copy_store(store, target, overwrite=True, progress=False)
    assert passes(target) == [True, True, True], target
    print(target)
"""


def test_a_killed_copy_leaves_the_old_store_or_none(
    store: Path, bucket: str, tmp_path: Path
) -> None:
    targets = [str(tmp_path / "b.zarr"), str(tmp_path / "b.zarr.zip"), f"{bucket}/b.zarr"]
    old = tmp_path / "old.zarr"
    write_store(old, {"": recording_of(1)}, provenance={})
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(store), str(old), *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == targets
    assert not [*tmp_path.glob("*.zip.tmp-*")]


def test_two_copies_at_once_never_mix(bucket: str, tmp_path: Path) -> None:
    for seed in range(4):
        write_store(tmp_path / f"{seed}.zarr", {"": recording_of(seed)}, provenance={})
    target = f"{bucket}/a.zarr"
    prints = {open_store(tmp_path / f"{seed}.zarr").attrs["fingerprint"] for seed in range(4)}
    for _ in range(2):
        threads = [
            threading.Thread(
                target=ra.copy_store,
                args=(tmp_path / f"{seed}.zarr", target),
                kwargs={"overwrite": True, "progress": False},
            )
            for seed in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert open_store(target).attrs["fingerprint"] in prints
        assert passes(target) == [True, True]


def test_builds_of_killed_copies_are_removed_after_a_month(bucket: str, store: Path) -> None:
    place = Remote(f"{bucket}/a.zarr")
    young = f"build-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-0123"
    for build in ("build-20200101T000000-0123", young):
        place.write(f"{build}/zarr.json", b"{}")
    place.write("build-notes/zarr.json", b"{}")
    ra.copy_store(store, place.url, progress=False)
    assert {*place.folders()} == {young, "build-notes", found_build(place.url)}
    assert not _is_stale("20200101T000000-0123")


def test_an_upload_that_fails_keeps_the_old_store_and_takes_its_files_back(
    bucket: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = f"{bucket}/a.zarr"
    write_store(tmp_path / "old.zarr", {"": recording_of(1)}, provenance={})
    ra.copy_store(tmp_path / "old.zarr", target, progress=False)
    before = remote_keys(target)
    write = Remote.write

    def lossy(self: Remote, name: str, content: bytes) -> None:
        write(self, name, content[:-1] if "response/c" in name else content)

    monkeypatch.setattr(Remote, "write", lossy)
    with pytest.raises(PlaceError, match="did not keep what was written"):
        ra.copy_store(store, target, overwrite=True, progress=False)
    assert remote_keys(target) == before
    assert passes(target) == [True, True]


# --- other processes -----------------------------------------------------------------------


def mean_of(ds: xr.Dataset) -> float:
    return float(ds["response"].mean())


def test_an_opened_recording_goes_to_other_processes(places: dict[str, str]) -> None:
    kinds = ("zip", "s3", "zip in s3")
    opened = [open_store(places[kind], dask=dask) for kind in kinds for dask in (True, False)]
    expected = float(recording_of(0)["response"].mean())
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert [*pool.map(mean_of, opened, timeout=100)] == [expected] * 6
    assert [mean_of(pickle.loads(pickle.dumps(one))) for one in opened] == [expected] * 6


def test_a_forked_process_reads_too(places: dict[str, str]) -> None:
    """As the workers of a torch DataLoader do."""
    code = (
        "import os, sys\n"
        "from repalign.stimuli import open_stimuli\n"
        "names = sys.argv[1:]\n"
        "opened = [open_stimuli(name) for name in names]\n"
        "first = [images.files[3] for images in opened]\n"
        "pid = os.fork()\n"
        "if not pid:\n"
        "    same = [images.files[3] for images in opened] == first\n"
        "    os._exit(0 if same else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    names = [places[kind] for kind in ("zip", "s3", "zip in s3")]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *names], capture_output=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]


# --- the command line ----------------------------------------------------------------------


@pytest.fixture
def card(tmp_path: Path) -> Path:
    scenes = make_scenes(12, size=32)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for i, image in enumerate(scenes.images):
            archive.writestr(f"image{i + 1:04d}.png", encode_png(image))
    values = np.random.default_rng(0).poisson(5, size=(7, 12)).astype(float)
    np.save(tmp_path / "responses.npy", values)
    (tmp_path / "session.toml").write_text(
        'name = "session"\nspecies = "macaque"\nregions = "V4"\nloader = "arrays"\n'
        '[files]\nresponses = "responses.npy"\nimages = "images.zip"\n'
    )
    return tmp_path / "session.toml"


def test_ingest_to_a_bucket_and_use_it_by_every_verb(  # type: ignore[no-untyped-def]
    cli, card: Path, bucket: str, tmp_path: Path
) -> None:
    code, printed, _ = cli("ingest", card, "--to", f"{bucket}/folder", "--json")
    assert code == 0
    name = f"{bucket}/folder/session.zarr"
    assert json.loads(printed)[0]["store"] == name
    build = found_build(name)
    assert cli("ingest", card, "--to", f"{bucket}/folder")[0] == 0
    assert found_build(name) == build, "a finished store is not made again"
    np.save(tmp_path / "responses.npy", np.random.default_rng(1).normal(size=(7, 12)))
    assert cli("ingest", card, "--to", f"{bucket}/folder")[0] == 0
    assert found_build(name) != build, "a changed source is ingested again"
    cache = Path(os.environ["REPALIGN_CACHE"])
    assert not [*cache.rglob("*.zarr")], "nothing is left in the cache"
    assert not Path("s3:").exists()

    zipped = tmp_path / "session.zarr.zip"
    code, printed, _ = cli("copy-store", name, zipped, "--json")
    assert code == 0
    assert json.loads(printed)[0]["bytes"] > 0
    rows = {}
    for place in (name, zipped):
        code, printed, _ = cli("verify-store", place, "--json")
        assert code == 0
        checks = json.loads(printed)
        assert {one["passed"] for one in checks} == {True}
        assert {one["store"] for one in checks} == {str(place)}
        out = tmp_path / f"report{len(rows)}"
        assert cli("inspect", place, *(["--out", out] if place == name else []))[0] == 0
        assert place != name or "12 of 12 images" in (out / "report.html").read_text()
        code, printed, _ = cli(
            "compare", place, "pixels", "--metric", "rsa", "--to", tmp_path / "to", "--json"
        )
        assert code == 0
        [rows[str(place)]] = json.loads(printed)
        exported = tmp_path / "x.nc"
        assert cli("export", place, exported, "--overwrite")[0] == 0
        assert (tmp_path / "x_stimuli.zip").stat().st_size > 0
        assert cli("record", "pixels", "--stimuli", place, "--to", tmp_path / "to")[0] == 0
        assert cli("compare", place, place, "--metric", "cka")[0] == 0
    values = {row["value"] for row in rows.values()}
    assert len(values) == 1
    assert cli("verify-store", "session", "--to", f"{bucket}/folder")[0] == 0


def test_what_cannot_go_to_a_url_says_so(cli, card: Path, bucket: str) -> None:  # type: ignore[no-untyped-def]
    for arguments in (
        ("record", "pixels", "--stimuli", card, "--to", f"{bucket}/x"),
        ("fetch", card, "--to", f"{bucket}/x"),
    ):
        code, _, err = cli(*arguments)
        assert code == 1
        assert "is no local folder" in err.splitlines()[-1]
    code, _, err = cli("ingest", card, "--to", "https://example.org/x")
    assert code == 1
    assert "web servers are only read from" in err
    assert not Path("s3:").exists()


# --- what goes wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "environment", "expected"),
    [
        ("s3://nobody/a.zarr", {}, "there is no such bucket"),
        ("s3://lab/none.zarr", {}, "no finished store at s3://lab/none.zarr"),
        ("s3://lab/none.zarr.zip", {}, "no finished store at s3://lab/none.zarr.zip"),
        (
            "s3://lab/a.zarr",
            {
                "AWS_ACCESS_KEY_ID": None,
                "AWS_SECRET_ACCESS_KEY": None,
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
                "AWS_CONFIG_FILE": "/nonexistent",
            },
            "there are no credentials; set AWS_ACCESS_KEY_ID",
        ),
        (
            "s3://lab/a.zarr",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
            "the server does not answer",
        ),
        ("http://127.0.0.1:1/a.zarr", {}, "the server does not answer"),
        ("foo://lab/a.zarr", {}, "Protocol not known: foo"),
        ("gs://lab/a.zarr", {}, "install gcsfs"),
    ],
)
def test_what_goes_wrong_is_one_line_soon(
    name: str,
    environment: dict[str, str | None],
    expected: str,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if name.startswith("gs://"):
        monkeypatch.setitem(sys.modules, "gcsfs", None)
    for key, value in environment.items():
        monkeypatch.setenv(key, value) if value else monkeypatch.delenv(key)
    remote_files._filesystem.cache_clear()
    begin = time.perf_counter()
    with pytest.raises((OSError, ImportError)) as raised:
        open_store(name)
    remote_files._filesystem.cache_clear()
    assert expected in str(raised.value)
    assert "\n" not in str(raised.value)
    assert time.perf_counter() - begin < 20


def test_a_missing_s3fs_names_the_extra(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(known, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    remote_files._filesystem.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'repalign\[cloud\]'"):
        open_store("s3://lab/a.zarr")


def test_access_denied_is_no_damage(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    found = open_store(published)

    async def denied(*args: object, **options: object) -> bytes:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(S3FileSystem, "_cat_file", denied)
    remote_files._filesystem.cache_clear()
    for action in (lambda: open_store(published), lambda: load_values(found["response"], "")):
        with pytest.raises(PlaceError, match="access is denied"):
            action()

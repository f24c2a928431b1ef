"""The documentation site: it builds strictly, loads nothing, and what it shows was run."""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import repalign as ra

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXAMPLE = re.compile(r"```pycon\n(.*?)```", re.DOTALL)
WITH_EXAMPLES = [
    page.relative_to(DOCS).as_posix()
    for page in sorted(DOCS.rglob("*.md"))
    if EXAMPLE.search(page.read_text(encoding="utf-8"))
]
TUTORIALS = [path.stem for path in sorted((DOCS / "tutorials").glob("*.py"))]
# What a browser fetches by itself, unlike the href of <a>.
FETCHED = {("link", "href"), *((tag, "src") for tag in ("script", "img", "iframe", "source"))}
FETCHED |= {("img", "srcset"), ("object", "data"), ("embed", "src"), ("video", "src")}


class Page(HTMLParser):
    """What one page fetches, links to and can be linked at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if (tag, name) in FETCHED:
                self.fetched.append(value)
            if (tag, name) == ("a", "href"):
                self.links.append(value)
            if name in ("id", "name"):
                self.anchors.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as CI does; its tutorials are executed on the way."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


@pytest.mark.slow
def test_pages_and_styles_load_nothing_from_a_network(site: Path, pages: dict[Path, Page]) -> None:
    remote = re.compile(r"(https?:)?//")
    loaded = [url for page in pages.values() for url in page.fetched if remote.match(url)]
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    styles += [path.read_text(encoding="utf-8") for path in pages]
    loaded += [u for text in styles for u in re.findall(r"url\([\"']?((?:https?:)?//[^)]*)", text)]
    loaded += [u for text in styles for u in re.findall(r"@import[^;]*//[^;]*", text)]
    assert loaded == []
    assert styles  # else nothing was looked at


@pytest.mark.slow
def test_every_internal_link_resolves(site: Path, pages: dict[Path, Page]) -> None:
    broken, followed = [], 0
    for path, page in pages.items():
        for link in [*page.links, *page.fetched]:
            if re.match(r"[a-z]+:", link):  # https:, mailto:, data:
                continue
            place, anchor = urldefrag(link)
            base = site if place.startswith("/") else path.parent  # of 404.html
            target = (base / unquote(place).lstrip("/")).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            followed += 1
            if not target.is_file() or (
                anchor and target in pages and unquote(anchor) not in pages[target].anchors
            ):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert followed > 1000


@pytest.mark.slow
def test_every_public_name_has_an_entry_in_the_reference(
    site: Path, pages: dict[Path, Page]
) -> None:
    reference = site / "reference"
    anchors = {a for path, page in pages.items() if reference in path.parents for a in page.anchors}
    assert [name for name in ra.__all__ if f"repalign.{name}" not in anchors] == []
    from repalign import metrics

    functions = [name for name in metrics.__all__ if f"repalign.metrics.{name}" not in anchors]
    assert [name for name in functions if f"repalign.{name}" not in anchors] == []


@pytest.mark.slow
def test_every_command_and_extra_is_described(site: Path) -> None:
    from repalign.cli import VERBS

    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    names = [verb.__name__.rstrip("_").replace("_", "-") for verb in VERBS]
    assert [name for name in names if f">repalign {name}<" not in commands] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install = (site / "install.html").read_text(encoding="utf-8")
    extras = project["optional-dependencies"]
    assert [name for name in extras if f"<td><code>{name}</code></td>" not in install] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorial_was_executed(site: Path, name: str) -> None:
    text = (site / "tutorials" / f"{name}.html").read_text(encoding="utf-8")
    assert text.count("language-text") >= 4
    assert f'href="{name}.py"' in text
    assert (site / "tutorials" / f"{name}.py").is_file()


def test_there_are_three_tutorials_and_many_examples() -> None:
    assert TUTORIALS == ["benchmark", "dask", "training"]
    questions = (DOCS / "faq.md").read_text(encoding="utf-8").split("\n### ")[1:]
    assert [text.splitlines()[0] for text in questions if not EXAMPLE.search(text)] == []
    assert len(questions) >= 12


def _is_below(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and folder in Path(file).resolve().parents


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_of_a_page_give_what_it_shows(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    blocks = EXAMPLE.findall((DOCS / name).read_text(encoding="utf-8"))
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, name, name, 0)
    report: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    for module in [n for n, m in sys.modules.items() if _is_below(m, tmp_path)]:
        del sys.modules[module]
    assert result.failed == 0, "".join(report)
    assert result.attempted > 0


STAND_IN = """#!/bin/sh
# Starts what it is given here, twice, as srun and pbsdsh do on the nodes of a job.
[ "$1" = -- ] && shift
"$@" & first=$!
"$@" & second=$!
trap 'kill $first $second' TERM
wait
"""


@pytest.mark.slow
@pytest.mark.parametrize(("script", "starter"), [("slurm.sh", "srun"), ("pbs.sh", "pbsdsh")])
def test_job_script_records_on_its_workers(script: str, starter: str, tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    from repalign.simulation import write_simulated_dataset

    card = write_simulated_dataset(tmp_path / "raw", model="digits_cnn@random", layer="hidden")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / starter).write_text(STAND_IN)
    (programs / starter).chmod(0o755)
    for name, module in {"repalign": "repalign.cli", "dask": "dask.__main__"}.items():
        text = f"#!/bin/sh\nexec {sys.executable} -c 'from {module} import main; main()' \"$@\"\n"
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    arguments = ["digits_cnn@random", "--stimuli", str(card), "--layers", "hidden"]
    environment = os.environ | {
        "PATH": os.pathsep.join(map(str, (programs, Path(sys.executable).parent, os.defpath))),
        "SHARED": str(tmp_path / "shared"),
        "SLURM_JOB_ID": "1",
        "PBS_JOBID": "1",
        "ARGUMENTS": " ".join(arguments),
    }
    (tmp_path / "shared").mkdir()
    command = ["bash", str(DOCS / "hpc" / script), *(arguments if script == "slurm.sh" else [])]
    log = tmp_path / "log"
    with log.open("wb") as written:
        job = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = job.wait(timeout=600)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the job did not end:\n{log.read_text(errors='replace')[-4000:]}")
        finally:  # as a batch system does at the end of a job
            with contextlib.suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    text = log.read_text(errors="replace")
    assert status == 0, text[-4000:]
    assert "recording 1 layers on" in text
    stores = list((tmp_path / "shared" / "stores" / "activations").glob("*/hidden/manifest.json"))
    assert len(stores) == 1
    assert not list((tmp_path / "shared").glob("scheduler-*"))  # it cleans up

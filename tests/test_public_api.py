"""The public names, what importing costs, and the direction of dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import repalign as ra

PACKAGE = Path(ra.__file__).parent
HEAVY = (
    "torch",
    "dask",
    "xarray",
    "zarr",
    "rsatoolbox",
    "nilearn",
    "torchvision",
    "pandas",
    "scipy",
)
RANKS = (
    {"metrics", "ceiling", "split_half", "inference"},
    {
        "choices",
        "designs",
        "memory",
        "progress",
        "validity",
        "verification",
        "shapes",
        "scenes",
        "efficientnet_lite",
        "baselines",
        "small_networks",
        "torchvision_import",
        "layer_names",
        "layer_outputs",
        "clusters",
        "handing_out",
        "job_queues",
        "direct_files",
        "running_jobs",
        "disk",
    },
    {
        "recording",
        "recording_checks",
        "continuous_recording",
        "shard_files",
        "shards",
        "store",
        "cards",
        "card_schemas",
        "agent_cards",
        "network_cards",
        "fetch",
        "local_files",
        "places",
        "place_reader",
        "remote_files",
        "zip_members",
        "copying",
    },
    {
        "loaders",
        "stimuli",
        "networks",
        "network_sources",
        "hugging_face",
        "checkpoints",
        "agents",
        "hooks",
        "features",
        "continuous",
        "write_queue",
        "layer_list",
        "recording_plan",
        "activation_stores",
        "recording_pass",
        "recording_run",
        "recording_spread",
        "evaluation",
        "activations",
        "layer_activations",
        "layer_streams",
        "layer_pairs",
        "opening",
        "processing",
        "reductions",
        "rotation_costs",
        "rotation_plan",
        "rotation_run",
        "rotations",
        "scratch",
        "store_checks",
        "clips",
        "video_networks",
    },
    {
        "results",
        "reused_data",
        "populations",
        "missing_pairs",
        "response_checks",
        "comparison",
        "dynamics",
        "layer_regions",
        "pilots",
        "recording_ceilings",
        "scoring",
        "recipes",
        "brainio_files",
        "exporting",
        "autoencoders",
        "quality",
        "searchlights",
        "rsatoolbox_descriptors",
        "rsatoolbox_objects",
    },
    {"evidence"},
    {"simulation", "robustness"},
    {"regularize"},
    {"training"},
    {"experiments"},
    {"reporting", "tables"},
    {"finetuning"},
    {"demonstration", "robust_digits", "training_demonstration", "inputs"},
    {"studies"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """All modules that a file imports, anywhere in it, as dotted names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "_cards" not in p.parts)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import repalign",
        "import sys; sys.argv = ['repalign', '--help']\n"
        "from repalign.cli import main\ntry: main()\nexcept SystemExit: pass",
        "from repalign.cards import list_cards, load_card\n"
        "[load_card(n, k) for k in ('dataset', 'model') for n in list_cards(k)]",
    ],
)
def test_import_help_and_cards_load_nothing_heavy(code: str) -> None:
    printed = run(f"{code}\nimport sys\nprint('LOADED', [m for m in {HEAVY} if m in sys.modules])")
    assert printed.rstrip().endswith("LOADED []")


def test_public_names_are_listed_and_each_loads_twice() -> None:
    assert len(set(ra.__all__)) == len(ra.__all__)
    assert set(ra.__all__) == {*ra._HOME, "__version__"}
    for name in ra.__all__:
        first = getattr(ra, name)
        __import__("repalign.cli")
        assert getattr(ra, name) is first
        assert not isinstance(first, type(sys)), f"{name} is shadowed by a module"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ra.nothing  # noqa: B018


def test_type_checkers_see_every_public_name() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    seen = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(ra._HOME) <= seen


def test_no_module_bears_the_name_of_a_public_function() -> None:
    stems = {path.stem for path in modules()} | {path.name for path in PACKAGE.iterdir()}
    defined = set()
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
        if path.parent.name != "cli":  # its functions are verbs, reached by no import
            defined |= {node.name for node in functions if not node.name.startswith("_")}
    assert not stems & (defined | set(ra.__all__))


def test_every_room_has_a_rank() -> None:
    rooms = {room(path) for path in modules()} - {"__init__"}
    assert rooms == set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_downward(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        return
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "repalign" and len(parts) > 1 and parts[1] in RANK:
            assert RANK[parts[1]] <= RANK[here], f"{here} imports {name}"


def test_loaders_know_no_torch_and_kernels_know_no_files() -> None:
    for path in modules():
        names = {name.split(".")[0] for name in imports(path)}
        if room(path) == "loaders" or room(path) in (*RANKS[2], "features", "results"):
            assert "torch" not in names, path
        if room(path) in RANKS[0]:
            assert not names & {"xarray", "zarr", "pathlib", "pandas"}, path


@pytest.mark.parametrize(
    "package", ["timm", "transformers", "dask_jobqueue", "pynwb", "gymnasium", "foolbox"]
)
def test_an_optional_package_is_imported_in_one_module_at_most(package: str) -> None:
    users = [p for p in modules() if package in {n.split(".")[0] for n in imports(p)}]
    assert len(users) <= 1


def test_nothing_is_printed_or_downloaded_at_import() -> None:
    names = [".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts) for p in modules()]
    code = "\n".join(f"import {name.removesuffix('.__init__')}" for name in names)
    assert run(code) == ""

"""Pages that the site makes while it is built: executed tutorials, extras, commands, the READMEs.

A tutorial is a notebook in jupytext's percent format. Each is executed in a folder of its own,
without a network, and its page shows what it printed and drew; a cell that raises ends the build.
"""

from __future__ import annotations

import base64
import os
import re
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import jupytext
import nbclient
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from traitlets.config import Config

ROOT = Path(__file__).parents[1]
COPIES = {  # page: file of the repository
    "cards/datasets.md": "neural_data/README.md",
    "cards/models.md": "models/README.md",
    "changes.md": "CHANGELOG.md",
}
EXTRAS = {  # what each is for; a build fails where one is missing or too many
    "timm": "networks of timm, EfficientNet-Lite1 and 2",
    "hf": "vision networks of Hugging Face",
    "rl": "agents: gymnasium, Box2D, MinAtar, MiniGrid",
    "atari": "Atari games",
    "nwb": "NWB files",
    "fmri": "fractional ridge for single-trial betas",
    "eeg": "epochs that MNE saved",
    "hpc": "dask-jobqueue",
    "cloud": "stores on S3",
    "robust": "foolbox's attacks",
    "train": "logs for TensorBoard",
    "verify": "himalaya, for `repalign verify`",
    "bench": "the peers of the timings in scripts/bench",
    "docs": "this site",
    "test": "the tests and linters",
    "all": "all of these",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for page, source in COPIES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    files.append(File.generated(config, "reference/commands.md", content=commands_page()))
    scripts = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
    with ThreadPoolExecutor(2) as pool:
        for made in pool.map(tutorial_page, scripts):
            for name, content in made.items():
                files.append(File.generated(config, f"tutorials/{name}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the table of extras where a page asks for it."""
    return markdown.replace("<!-- extras -->", extras_table())


def extras_table() -> str:
    """The extras of pyproject.toml, with their packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    if extras.keys() != EXTRAS.keys():
        raise ValueError(f"describe these extras: {sorted(extras.keys() ^ EXTRAS.keys())}")
    rows = ["| extra | for | brings |", "|---|---|---|"]
    for name, packages in extras.items():
        names = [re.split(r"[<>=\[]", one)[0] for one in packages]
        few = "" if name in ("all", "test") else ", ".join(names)
        rows.append(f"| `{name}` | {EXTRAS[name]} | {few} |")
    return "\n".join(rows)


def commands_page() -> str:
    """Every verb of the command line with its arguments and options, from its own help."""
    from repalign.cli import app

    group: Any = typer.main.get_command(app)
    lines = ["# Commands", "", "As `repalign VERB --help` prints them.", ""]
    for path, command in sorted(verbs(group)):
        lines += [f"## repalign {path}", "", (command.help or "").strip(), ""]
        rows = [parameter_row(one) for one in command.params if not getattr(one, "hidden", False)]
        if rows:
            lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def verbs(group: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Path and command of each verb, those of subgroups too."""
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += verbs(command, f"{prefix}{name} ")
        else:
            found.append((prefix + name, command))
    return found


def parameter_row(parameter: click.Parameter) -> str:
    """One row of a command's table."""
    is_option = parameter.param_type_name == "option"
    names = ", ".join(f"`{one}`" for one in parameter.opts)
    shown = names if is_option else f"`{(parameter.name or '').upper()}`"
    text = (getattr(parameter, "help", None) or "").replace("|", "\\|").replace("\n", " ")
    return f"| {shown} | {text} |"


def tutorial_page(script: Path) -> dict[str, str | bytes]:
    """Execute a notebook; give its page and its pictures by name."""
    notebook = jupytext.read(script)
    with tempfile.TemporaryDirectory() as folder:
        surroundings = os.environ | {
            "REPALIGN_CACHE": folder,
            "REPALIGN_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",  # two run at a time
        }
        client = nbclient.NotebookClient(
            notebook,
            timeout=300,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            config=Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"}),
        )
        client.execute(env=surroundings)
    made: dict[str, str | bytes] = {}
    lines: list[str] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lines += [cell.source, ""]
            continue
        lines += ["```python", cell.source, "```", ""]
        for output in cell.outputs:
            data = output.get("data", {})
            if output.output_type == "stream" and output.name == "stdout":
                lines += fenced(output.text)
            elif "image/png" in data:
                picture = f"{script.stem}-{len(made) + 1}.png"
                made[picture] = base64.b64decode(data["image/png"])
                lines += [f"![{cell.metadata.get('alt', '')}]({picture})", ""]
            elif "text/plain" in data:
                lines += fenced(data["text/plain"])
    lines += [f"This page is [a notebook]({script.name}) that is executed when the site is built."]
    made[f"{script.stem}.md"] = "\n".join(lines)
    return made


def fenced(text: str) -> list[str]:
    """What a cell gave, as text."""
    return ["```text", text.rstrip(), "```", ""]

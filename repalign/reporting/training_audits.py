"""The parts of the page on how far its numbers can be trusted: alignment, audits, configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from repalign.experiments.run_records import Experiment, moments, runs_of, titles_of
from repalign.reporting.shell import definitions_html, figure_html, table_html, text_html
from repalign.reporting.training_sections import PASSED, Figures, spread_text

ALIGNMENT = {
    "title": "Condition", "metric": "Metric", "trained": "Trained metric", "layer": "Layer",
    "region": "Region", "subject": "Subject", "stimuli": "Stimuli", "neuroids": "Neuroids",
    "value": "Value", "ceiling": "Ceiling", "n": "Seeds", "n_stimuli": "Stimuli (n)",
    "n_neuroids": "Neuroids (n)",
}  # fmt: skip
CELL = (
    "layer", "metric", "region", "subject", "stimuli", "neuroids", "trained_metric", "n_stimuli",
    "n_neuroids", "is_distance",
)  # fmt: skip


def alignment_html(experiment: Experiment, figures: Figures) -> str:
    """Alignment before and after, on what was trained and on what was held out."""
    rows = alignment_means(experiment)
    if not rows:
        return text_html("Alignment was not measured after training.")
    html = ""
    if "alignment" in figures:
        html = figure_html(
            figures["alignment"],
            "Dot plot of alignment of the baseline and of the aligned network for each metric.",
            "From the baseline (before) to the aligned network (after). The gain of the trained "
            "metric on trained stimuli was bought by training; the other dots say what it is "
            "worth. Small dots: seeds. Grey: noise ceiling. Distances are in the table only.",
        )
    caption = "Alignment of every condition, mean ± standard deviation over seeds."
    once = ("layer", "region", "subject", "n")
    return html + table_html(rows, ALIGNMENT, caption, once=once)


def alignment_means(experiment: Experiment) -> list[dict[str, Any]]:
    """Return one row a condition and cell, its values over seeds as text."""
    rows = []
    for name, title in titles_of(experiment).items():
        cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for run in runs_of(experiment, name).values():
            for row in run.get("alignment") or ():
                cells.setdefault(tuple(row.get(k) for k in CELL), []).append(row)
        for key, own in cells.items():
            cell = dict(zip(CELL, key, strict=True))
            metric = f"{cell['metric']}{' (distance)' * bool(cell['is_distance'])}"
            rows.append({
                **cell, "title": title, "metric": metric,
                "trained": "yes" if cell["trained_metric"] else "no",
                "value": spread_text(*moments(row.get("value") for row in own)),
                "ceiling": moments(row.get("ceiling") for row in own)[0], "n": len(own),
            })  # fmt: skip
    return rows


def goodhart_html(experiment: Experiment, _: Figures) -> str:
    """The verdict of the Goodhart audit, and its rows."""
    audit = experiment.get("audit") or {}
    if not audit:
        return text_html("The Goodhart audit was not run.")
    passed = audit.get("passed")
    word = PASSED[passed if isinstance(passed, bool) else None]
    text = (
        "A measure that is optimised stops measuring; this audit asks whether the gain is also "
        f"found where nothing was optimised.\n\nAudit {word}. {audit.get('verdict') or ''}"
    )
    text += "\n\n" + "\n".join(f"- {reason}" for reason in audit.get("reasons") or ())
    html, rules, rows = text_html(text), audit.get("rules") or (), audit.get("rows") or ()
    if rules:
        shown = [{**rule, "passed": PASSED.get(rule.get("passed"))} for rule in rules]
        columns = {"rule": "Rule", "says": "It says", "passed": "Result"}
        html += table_html(shown, columns, "Rules of the Goodhart audit, stated beforehand")
    return html + (rows_html(rows, "Changes of alignment by training") if rows else "")


def rows_html(rows: Sequence[Mapping[str, Any]], caption: str) -> str:
    """A table of rows whose fields are theirs to choose: field names make the headers."""
    names = dict.fromkeys(name for row in rows for name in row)
    words = {True: "yes", False: "no"}
    shown = [
        {name: words[one] if isinstance(one, bool) else one for name, one in row.items()}
        for row in rows
    ]
    return table_html(shown, {name: _headed(name) for name in names}, caption)


def _headed(name: str) -> str:
    text = str(name).replace("_", " ")
    return text[:1].upper() + text[1:]


PATTERN_VALUES = {
    "value": "Correlation", "corrected": "Corrected for noise",
    "human_reliability": "Reliability of people",
}  # fmt: skip


def learning_html(_: Experiment, figures: Figures) -> str:
    """What was logged over the steps of training."""
    if "learning" not in figures:
        return text_html("No training log is in this record.")
    return figure_html(
        figures["learning"],
        "Line charts of losses and validation values over training steps, a line a condition.",
        "Mean over seeds; bands are their range. A condition without a quantity has no line in it.",
    )


def masking_html(experiment: Experiment, _: Figures) -> str:
    """Every check of every run's masking audit; what failed comes first."""
    titles = titles_of(experiment)
    rows = [
        {
            "title": titles[run["condition"]], "seed": run["seed"], "check": check.get("name"),
            "result": PASSED.get(check.get("passed"), "not decided"), "detail": check.get("detail"),
        }
        for run in experiment["runs"]
        for check in (run.get("masking") or {}).get("checks") or ()
    ]  # fmt: skip
    if not rows:
        return text_html("No run was audited for gradient masking.")
    failed = dict.fromkeys(row["title"] for row in rows if row["result"] == PASSED[False])
    text = "Every check that could be made passed."
    if failed:
        text = f"The robustness numbers are not trustworthy for: {', '.join(failed)}."
    rows.sort(key=lambda row: row["result"] != PASSED[False])
    columns = {
        "title": "Condition", "seed": "Seed", "check": "Check", "result": "Result",
        "detail": "Detail",
    }  # fmt: skip
    return text_html(text) + table_html(rows, columns, "Checks of the gradient-masking audit")


def pattern_html(experiment: Experiment, _: Figures) -> str:
    """Consistency of error patterns with people's, where they were compared."""
    rows = experiment.get("error_patterns") or ()
    if not rows:
        return text_html("No human answers were given to compare error patterns with.")
    titles = titles_of(experiment)
    cells: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["condition"], row["kind"]), []).append(row)
    shown = [
        {"title": titles.get(condition, condition), "kind": kind, "n": len(own)}
        | {name: spread_text(*moments(row.get(name) for row in own)) for name in PATTERN_VALUES}
        | {"n_images": own[0].get("n_images")}
        for (condition, kind), own in cells.items()
    ]
    return table_html(
        shown,
        {"title": "Condition", "kind": "Pattern", "n": "Seeds", **PATTERN_VALUES,
         "n_images": "Images"},
        "Consistency of error patterns with people's, mean ± standard deviation over seeds: the "
        "correlation of d′ over images, and the same divided by the square root of both "
        "reliabilities. i1: each image against all other classes; i2n: against each other class, "
        "less the mean of its own class.",
    )  # fmt: skip


def absent_html(experiment: Experiment, _: Figures) -> str:
    """Which conditions did not apply, and why."""
    lines = [
        f"- {one.get('title') or one['name']}: {one.get('reason') or 'no reason was given'}"
        for one in experiment.get("conditions") or ()
        if not one.get("applicable", True)
    ]
    return text_html("\n".join(lines) if lines else "Every condition applied.")


def configuration_html(experiment: Experiment, _: Figures) -> str:
    """All settings and versions, nested ones by dotted names."""
    parts = (("configuration", "Configuration"), ("environment", "Environment"))
    tables = [
        definitions_html(flattened(experiment[name]), caption)
        for name, caption in parts
        if experiment.get(name)
    ]
    return "".join(tables) or text_html("Neither configuration nor environment was recorded.")


def flattened(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted names.

    Example:
        >>> flattened({"a": {"b": 1}, "c": []})
        {'a.b': 1, 'c': []}
    """
    found: dict[str, Any] = {}
    for name, one in value.items():
        if isinstance(one, Mapping) and one:
            found |= flattened(one, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = one
    return found

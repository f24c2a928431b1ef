"""The parts of the page on an experiment of training: what was done, and each result in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from repalign.experiments.dose import DoseResponse, dose_response
from repalign.experiments.outcomes import NOT_TESTED, decimal, listed, signed
from repalign.experiments.paired_tests import ALPHA
from repalign.experiments.run_records import (
    Experiment,
    attacks_of,
    curve_label,
    finite,
    masking_by_condition,
    moments,
    runs_of,
    titles_of,
)
from repalign.experiments.run_statistics import effect_sizes, robustness_differences
from repalign.experiments.verdicts import RULES, conclusion, verdict
from repalign.reporting.shell import definitions_html, figure_html, table_html, text_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PASSED = {True: "passed", False: "FAILED", None: "not decided"}
MET = {True: "met", False: "not met", None: "open"}
MEASURES = {"clean": "clean accuracy", "AUC": "area", "accuracy": "accuracy"}
UPPER_BOUND = (
    "Accuracies at ε > 0 are upper bounds: a stronger attack can only find more images that fool "
    "the network."
)
STRENGTH = "Strength: λ; of a control that trains in another way, the factor on its parameters."
SPREAD = "Bands: range over seeds. Bars: mean over seeds of the 95 % interval over images."
Figures = Mapping[str, "Figure"]


def verdict_html(experiment: Experiment, _: Figures) -> str:
    """What may be claimed, what each rule says, and the rules themselves."""
    findings = verdict(experiment)
    lines = [
        f"- {one.rule}, {NOT_TESTED if one.outcome == NOT_TESTED else MET[one.passed]}: {one.text}"
        for one in findings
    ]
    note = (
        "Open: these data cannot tell. Gains are differences in the area under the curve of "
        "accuracy over ε, paired by seed."
    )
    words = f"{conclusion(findings)}\n\nRule by rule:\n" + "\n".join(lines) + f"\n\n{note}"
    rules = definitions_html(RULES, "The rules, stated before any result was seen")
    return text_html(words) + rules


def method_html(experiment: Experiment, _: Figures) -> str:
    """What was trained toward what, tested how, and each condition in words."""
    trained = experiment.get("trained_on") or {}
    names = [
        one["name"] for one in experiment.get("conditions") or () if one.get("applicable", True)
    ]
    seeds = sorted({run["seed"] for run in experiment["runs"]})
    subjects = listed(map(str, trained.get("subjects") or ["subjects not named"]))
    words = ""
    if trained:
        words = (
            f"The layer {trained.get('layer', '?')} was drawn toward {trained.get('region', '?')} "
            f"({subjects}) by {trained.get('metric', '?')} on {trained.get('stimuli', '?')} "
            f"stimuli; {trained.get('held_out_stimuli', 'no')} stimuli were held out.\n\n"
        )
    words += (
        f"{len(names)} conditions, {'seed' if len(seeds) == 1 else 'seeds'} "
        f"{listed(map(str, seeds))}; runs of a seed are paired."
    )
    words += "\n\n"
    words += {
        "labels": "Robustness is the share of images answered as labelled.",
        "own clean prediction": "There are no task labels: robustness is the share of images whose "
        "prediction stays what the same network says of the clean image.",
    }.get(str(experiment.get("reference", "labels")), "")
    attacks = [curve_label(*one) for one in attacks_of(experiment)]
    if attacks:
        words += f" Attacks: {listed(attacks)}. {UPPER_BOUND}"
    lines = [
        f"- {one.get('title') or one['name']} (strength {finite(one.get('lambda')):g}): "
        f"{one.get('description') or 'no description'}"
        for one in experiment.get("conditions") or ()
        if one.get("applicable", True)
    ]
    return text_html(words + "\n\n" + "\n".join(lines).replace("strength nan", "strength unknown"))


def robustness_html(experiment: Experiment, figures: Figures) -> str:
    """The curves of all conditions, and each beside baseline and aligned."""
    if "robustness" not in figures:
        return text_html("No robustness curve is in this record.")
    titles = listed(titles_of(experiment).values())
    html = figure_html(
        figures["robustness"],
        f"Line chart of accuracy against perturbation size for {titles}; the table below holds "
        "the values.",
        f"Mean over seeds, a panel an attack. {UPPER_BOUND}"
        + (f" {SPREAD}" if "controls" not in figures else ""),
    )
    if "controls" not in figures:
        return html
    return html + figure_html(
        figures["controls"],
        "Small line charts, one a control, each with the baseline and the aligned network.",
        "Each condition beside the baseline and the aligned network, by the first attack. "
        + SPREAD,
    )


def accuracy_html(experiment: Experiment, _: Figures) -> str:
    """A table an attack: clean accuracy, accuracy at each ε and area, mean ± sd over seeds."""
    html, audits = "", masking_by_condition(experiment)
    for attack, norm in attacks_of(experiment):
        effects = [
            r for r in effect_sizes(experiment) if (r["attack"], r["norm"]) == (attack, norm)
        ]
        levels = sorted({one["eps"] for row in effects for one in row["accuracy"]})
        columns = {"title": "Condition", "lambda": "Strength", "n_seeds": "Seeds", "clean": "Clean"}
        columns |= {f"at {eps}": f"ε = {eps:.3g}" for eps in levels if eps > 0} | {
            "auc": "Area", "masking": "Masking audit"
        }  # fmt: skip
        rows = [
            {
                "title": row["title"], "lambda": row["lambda"], "n_seeds": row["n_seeds"],
                "clean": spread_text(row["clean_mean"], row["clean_sd"]),
                "auc": spread_text(row["auc_mean"], row["auc_sd"]),
                "masking": PASSED[audits[row["condition"]]],
            }
            | {f"at {one['eps']}": spread_text(one["mean"], one["sd"]) for one in row["accuracy"]}
            for row in effects
        ]  # fmt: skip
        caption = (
            f"{curve_label(attack, norm)}: mean ± standard deviation over seeds. {UPPER_BOUND} "
            f"Area: under the curve of accuracy over ε, divided by the range of ε. {STRENGTH}"
        )
        html += table_html(rows, columns, caption)
    if not html:
        return text_html("No run was attacked.")
    if "one-hot" not in {run["condition"] for run in experiment["runs"]}:
        html += text_html(
            "The label-geometry control is missing from this table: alignment to the brain cannot "
            "be told from alignment to the classes."
        )
    return html


def spread_text(mean: float, sd: float) -> str | None:
    """A mean with its standard deviation, the mean alone where there is none, None for NaN."""
    if math.isnan(mean):
        return None
    return decimal(mean) + ("" if math.isnan(sd) else f" ± {decimal(sd)}")


def difference_html(experiment: Experiment, figures: Figures) -> str:
    """Gains over each other condition: the figure, clean accuracy and area, then each ε."""
    titles = titles_of(experiment)
    found = [
        asdict(one)
        | {
            "title": titles[name], "kind": MEASURES[one.measure],
            "possible": "yes" if one.can_be_significant else "no",
            "curve": curve_label(one.attack, one.norm) if one.attack else None,
            "eps": None if one.eps is None else f"{one.eps:.3g}",
            "seed_interval": _interval(one.low, one.high), "n": one.n_seeds,
            "image_interval": _interval(one.images_low, one.images_high),
        }
        for name in titles
        if name != "aligned"
        for one in robustness_differences(experiment, against=name)
    ]  # fmt: skip
    if not found:
        return text_html("No condition shares a seed with the aligned network.")
    html = ""
    if "gains" in figures:
        html = figure_html(
            figures["gains"],
            "Dot plot of the gain of the aligned network over each other condition.",
            "Gain of the aligned network over each other condition. Ticks: seeds. Thick lines: "
            "95 % t interval over seeds; with a single seed, thin lines: 95 % interval over "
            "images, for these trained networks only.",
        )
    columns = {
        "title": "Aligned minus", "kind": "Measure", "curve": "Attack", "eps": "ε", "n": "Seeds",
        "mean": "Mean", "sd": "sd", "seed_interval": "95 % over seeds", "p": "p",
        "p_holm": "p (Holm)",
        "p_holm_smallest": "Smallest p", "possible": f"Can reach {ALPHA:g}",
        "image_interval": "95 % over images",
    }  # fmt: skip
    shared = (
        "p: exact two-sided sign-flip test over seeds. Smallest p: what this many seeds could give "
        "at best. The interval over images holds for these trained networks only."
    )
    single = [row for row in found if row["measure"] != "accuracy"]
    without = {name: text for name, text in columns.items() if name not in ("eps", "p_holm")}
    html += table_html(single, without, f"Clean accuracy and area under the curve. {shared}")
    rows = [row for row in found if row["eps"] not in (None, "0")]
    if rows:
        words = f"Accuracy at each ε > 0, Holm-corrected over the ε of a curve. {shared}"
        html += table_html(rows, columns, words, once=("kind",))
    return html


def _interval(low: float, high: float) -> str | None:
    return None if math.isnan(low) else f"{signed(low)} to {signed(high)}"


def dose_html(experiment: Experiment, figures: Figures) -> str:
    """Robustness over λ, and what clean accuracy leaves of it."""
    if not experiment.get("dose"):
        return text_html("Only one λ was trained; there is no dose–response.")
    by_lambda, by_alignment = (
        dose_response(experiment, by=name) for name in ("lambda", "alignment")
    )
    words = "\n".join(
        f"- {_dose_sentence(found, name)}"
        for found, name in ((by_lambda, "λ"), (by_alignment, "the alignment reached"))
    )
    note = (
        "Each run is one network trained at one λ from one seed; checkpoints are never pooled. p "
        "permutes runs within seeds."
    )
    html = figure_html(
        figures["dose"],
        "Line charts of area under the robustness curve, clean accuracy and alignment over λ.",
        "The baseline is λ = 0. Thin lines are seeds, thick ones their mean; λ is not to scale.",
    ) if "dose" in figures else ""  # fmt: skip
    return html + text_html(f"{words}\n\n{note}")


def _dose_sentence(found: DoseResponse, name: str) -> str:
    if math.isnan(found.spearman):
        return f"Robustness and {name}: undefined; {found.reason or 'nothing varies'}."
    partial = f"undefined ({found.reason})"
    if not math.isnan(found.partial):
        partial = f"{signed(found.partial)} (p {decimal(found.p_partial)})"
    return (
        f"Robustness and {name}: rank correlation {signed(found.spearman)} (p {decimal(found.p)}) "
        f"over {found.n_runs} runs; with clean accuracy held constant {partial}. By "
        f"{found.kind}; smallest attainable p {decimal(found.p_smallest)}."
    )


def corruption_html(experiment: Experiment, figures: Figures) -> str:
    """Accuracy under common corruptions, by severity and over all."""
    rows = corruption_rows(experiment)
    if not rows:
        return text_html("Common corruptions were not tested.")
    columns = {
        "title": "Condition", "n": "Seeds", "accuracy": "Mean accuracy",
        "relative": "Error relative to baseline",
    }  # fmt: skip
    html = figure_html(
        figures["corruptions"],
        "Line charts of accuracy against severity, a panel a category of corruptions.",
        "Mean over the corruptions of a category and over seeds.",
    ) if "corruptions" in figures else ""  # fmt: skip
    return html + table_html(
        rows,
        columns,
        "Common corruptions, mean ± standard deviation over seeds. The relative error is the mean "
        "over corruptions of the summed error by that of the baseline of the same seed; it is not "
        "normalised by AlexNet.",
    )


def corruption_rows(experiment: Experiment) -> list[dict[str, Any]]:
    """Return one row a condition: mean accuracy, and error relative to the same seed's baseline."""
    errors = {
        (name, seed): _errors(run.get("corruptions") or ())
        for name in titles_of(experiment)
        for seed, run in runs_of(experiment, name).items()
    }
    rows = []
    for name, title in titles_of(experiment).items():
        own = {seed: one for (condition, seed), one in errors.items() if condition == name and one}
        if not own:
            continue
        ratios = []
        for seed, one in own.items():
            base = errors.get(("baseline", seed), {})
            shared = [moments(one[k])[0] / moments(base[k])[0] for k in one
                      if moments(base.get(k, ()))[0] > 0]  # fmt: skip
            ratios.append(moments(shared)[0])
        means = [1 - moments(e for each in one.values() for e in each)[0] for one in own.values()]
        rows.append({
            "title": title, "n": len(own), "accuracy": spread_text(*moments(means)),
            "relative": spread_text(*moments(ratios)),
        })  # fmt: skip
    return rows


def _errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(str(row["corruption"]), []).append(1 - finite(row["accuracy"]))
    return found


SectionMaker = Callable[[Experiment, Figures], str]

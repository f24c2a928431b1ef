"""The text of an inference, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from repalign.inference.monte_carlo import FAR, draws_to_settle

if TYPE_CHECKING:
    from repalign.evidence.outcome import Inference

STARS = ((0.001, "***"), (0.01, "**"))
MOST_PAIRS = 10
MOST_DRAWS = 100_000  # what may be asked for, to settle a verdict
REGION = ["dataset", "species", "region"]
LEGEND = "* p ≤ {alpha:g}, ** p ≤ .01, *** p ≤ .001, corrected, above chance"


def stars(p: float | None, alpha: float) -> str:
    """Stars of a corrected p value."""
    if p is None or math.isnan(p) or p > alpha:
        return ""
    return next((marks for level, marks in STARS if p <= level), "*")


def p_text(p: float | None) -> str:
    """A p value with as many digits as it deserves; ``–`` where there was no test."""
    if p is None or math.isnan(p):
        return "–"
    return "< .0001" if p < 1e-4 else f"{p:.4f}".removeprefix("0")


def least_p(p: float) -> str:
    """The smallest p value that a test can give, in words."""
    return ", no smallest p" if p < 1e-300 else f", smallest p {p:.3g}"


def _range(low: float | None, high: float | None) -> str:
    missing = any(value is None or math.isnan(value) for value in (low, high))
    return "" if missing else f"{low:.3f} to {high:.3f}"


def summary_of(found: Inference) -> str:
    """Regions with their ceilings, one line a model; pairs that differ; notes and the claim."""
    lines: list[str] = []
    alpha = round(1 - float(found.settings["confidence"]), 12)
    for key, rows in found.table.groupby(REGION, sort=False):
        lines += _region(rows.to_dict("records"), key, found, alpha)
    lines += _tests_said(found, alpha)
    lines += _pairs_said(found, alpha)
    lines += _moving_said(found, alpha)
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join([*lines, "", found.claim])


def _region(rows: list[dict[Any, Any]], key: Any, found: Inference, alpha: float) -> list[str]:
    first = rows[0]
    named = " ".join(filter(None, key))
    who = f"{first['n_subjects']} subjects" if first["n_subjects"] > 1 else "1 subject"
    lines = [f"{named}, {who}, {first['n_stimuli']} stimuli, {found.settings['metric']}"]
    lower, upper = first["ceiling_lower"], first["ceiling_upper"]
    if lower is not None and not math.isnan(lower):
        both = f"{lower:.3f}" if lower == upper else f"{lower:.3f} to {upper:.3f}"
        spread = _range(first["ceiling_lower_low"], first["ceiling_lower_high"])
        what = "lower: " if lower != upper else ""
        ends = f" ({what}{100 * (1 - alpha):g} % interval {spread})" if spread else ""
        lines.append(f"noise ceiling {first['ceiling_kind']}: {both}{ends}")
    else:
        lines.append(f"noise ceiling: {first['ceiling_kind']}")
    titles = ["model", "value", f"{100 * (1 - alpha):g} % interval"]
    table: list[list[str]] = []
    tested = "p_corrected" in first
    chance = any(row["chance"] for row in rows if row["chance"] is not None)
    titles += ["chance"] if chance else []
    titles += ["p", "corrected"] if tested else []
    titles += ["labels p"] if "labels_p_corrected" in first else []
    titles += ["ceiling p"] if "ceiling_p_corrected" in first else []
    for row in rows:
        p = row.get("p_corrected")
        mark = stars(p, alpha) if row["verdict"].startswith("above") else ""
        cells = [row["name"], f"{row['value']:.3f}{mark}", _range(row["low"], row["high"])]
        cells += [f"{row['chance']:.3f}"] if chance else []
        cells += [p_text(row["p"]), p_text(p)] if tested else []
        for column in ("labels_p_corrected", "ceiling_p_corrected"):
            cells += [p_text(row[column])] if column in first else []
        table.append([*cells, row["verdict"]])
    return [*lines, "", *_aligned([[*titles, ""], *table]), ""]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _tests_said(found: Inference, alpha: float) -> list[str]:
    """Which tests those are, with the smallest p that each can give."""
    if found.tests.empty:
        return []
    what = {"chance": "p", "labels": "labels p", "ceiling": "ceiling p"}
    lines = [LEGEND.format(alpha=alpha)] if "p_corrected" in found.table else []
    kinds = found.tests.groupby(["hypothesis", "test"], sort=False)["smallest_p"].min()
    for row in kinds.reset_index().to_dict("records"):
        smallest = least_p(row["smallest_p"])
        given = "" if row["hypothesis"] == "chance" else ", corrected"
        lines.append(f"{what[row['hypothesis']]}: {row['test']}{smallest}{given}")
    return lines


def _moving_said(found: Inference, alpha: float) -> list[str]:
    """Verdicts that another seed may turn, and how many draws would settle them."""
    told = list(_moving(found, alpha))
    if not told:
        return []
    head = f"moves with the seed, since p is within {FAR:g} Monte Carlo errors of {alpha:g}:"
    more = [f"  … and {len(told) - MOST_PAIRS} more"] if len(told) > MOST_PAIRS else []
    return [head, *told[:MOST_PAIRS], *more, ""]


def _moving(found: Inference, alpha: float) -> Iterator[str]:
    several = len(found.table.groupby(REGION)) > 1
    tested = [*found.tests.to_dict("records"), *found.pairs.to_dict("records")]
    for row in tested:
        p, error = row["p_corrected"], row["p_corrected_error"]
        if not abs(p - alpha) <= FAR * error or error == 0 or "cannot" in row["verdict"]:
            continue
        where = " ".join(row[name] for name in REGION if row[name]) + ", " if several else ""
        who = row["name"] if "name" in row else f"{row['first']} − {row['second']}"
        what = {"labels": "labels p", "ceiling": "ceiling p"}.get(row.get("hypothesis", ""), "p")
        drawn = any(kind in row["test"] for kind in ("sign-flip", "permutation"))
        knob = "n_permutations" if drawn else "n_resamples"
        n = row["n_draws"] if drawn else found.settings["n_resamples"]
        needed = draws_to_settle(p, error, alpha, int(n))
        settled = f"{knob}={needed} would settle it, if p stays"
        if needed > MOST_DRAWS:
            settled = f"{knob}={MOST_DRAWS} would not settle it: call it undecided"
        yield f"  {where}{who}: {what}, corrected {p:.4f} ± {error:.4f}; {settled}"


def _pairs_said(found: Inference, alpha: float) -> list[str]:
    if found.pairs.empty:
        return []
    told = found.pairs[found.pairs["p_corrected"] <= alpha].sort_values("p_corrected")
    first = found.pairs.iloc[0]
    least = least_p(first["smallest_p"])
    lines = [
        "",
        f"{len(told)} of {len(found.pairs)} pairs of models differ ({first['test']}{least})",
    ]
    several = len(found.pairs.groupby(REGION)) > 1
    all_of_few = found.pairs.sort_values("p_corrected") if len(found.pairs) <= MOST_PAIRS else told
    for row in all_of_few.head(MOST_PAIRS).to_dict("records"):
        where = " ".join(row[name] for name in REGION if row[name]) + ", " if several else ""
        lines.append(
            f"  {where}{row['first']} − {row['second']}: {row['difference']:+.3f}"
            f" ({_range(row['low'], row['high'])}), corrected p {p_text(row['p_corrected'])}"
        )
    if len(told) > MOST_PAIRS:
        lines.append(
            f"  … and {len(told) - MOST_PAIRS} more, in the table of pairs (.pairs, --json, --out)"
        )
    if told.empty and len(found.pairs) > MOST_PAIRS:
        nearest = found.pairs.sort_values("p").iloc[0]
        lines.append(
            f"  nearest to it: {nearest['first']} − {nearest['second']}:"
            f" {nearest['difference']:+.3f}, p {p_text(nearest['p'])}, corrected"
            f" {p_text(nearest['p_corrected'])}"
        )
    layers = found.table["layer"].notna() & found.table["model"].duplicated(keep=False)
    if layers.any() and found.settings["fit"] == "fixed":
        lines.append(
            "  these pairs are of layers; fit='select' (--fit select) compares one value a model,"
            " at a layer chosen on other stimuli"
        )
    if told.empty and "cannot" in str(first["verdict"]):
        lines.append(f"  {first['verdict']}")
    return [*lines, ""]

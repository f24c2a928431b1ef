"""The plain-language verdict on an experiment, which follows from rules stated beforehand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from repalign.experiments.outcomes import (
    CONSISTENT,
    NOT_SIGNIFICANT,
    NOT_TESTED,
    NOT_TRUSTWORTHY,
    ONE_SEED,
    OPPOSITE,
    SIGNIFICANT,
    listed,
)
from repalign.experiments.run_records import Experiment, attacks_of, masking_by_condition
from repalign.experiments.verdict_rules import JUDGES, RULES, Evidence, Finding

__all__ = ["RULES", "Finding", "conclusion", "verdict"]

BASELINE_WORDS = {
    SIGNIFICANT: "The aligned network is more robust than the baseline, significantly over seeds",
    CONSISTENT: "The aligned network was more robust than the baseline in every seed, but these "
    "are too few seeds to be significant",
    ONE_SEED: "With one seed there is no test of whether alignment made the network more robust",
    NOT_SIGNIFICANT: "The aligned network is not significantly more robust than the baseline",
    OPPOSITE: "The aligned network is less robust than the baseline",
    NOT_TRUSTWORTHY: "So no claim can be made on whether alignment made the network more robust",
    NOT_TESTED: "Whether the alignment made the network more robust was not tested",
}
REST_WORDS = {
    NOT_SIGNIFICANT: "The gain is not shown to be more than that of {}.",
    OPPOSITE: "The gain is not shown to be more than that of {}.",
    CONSISTENT: "The gain was positive in every seed against {} too, with the same limit.",
    ONE_SEED: "Against {} one seed cannot decide.",
    NOT_TRUSTWORTHY: "No comparison with {} counts.",
    NOT_TESTED: "Not compared: {}.",
}
ASPECTS = {
    "R2": "shuffled or random responses",
    "R3": "label geometry",
    "R4": "another teacher or region",
    "R10": "augmentation",
    "R11": "a few dimensions",
}


def verdict(experiment: Experiment, *, attack: tuple[str, str] | None = None) -> list[Finding]:
    """Return what each of the ``RULES`` says of an experiment, in plain language.

    A gain is "significant" only by the exact sign-flip test over seeds. Where it has the same sign
    in all seeds, but so few seeds can never be significant (fewer than 6), the rule is left open
    and the text says so, with the smallest attainable p.

    Args:
        experiment: the record of the experiment.
        attack: (attack, norm) whose curve is judged; None takes the first one of the runs, and the
            others are reported beside it.

    Returns:
        One ``Finding`` a rule, in the order of ``RULES``; a failed masking audit (R6) comes first.

    Raises:
        ValueError: an attack that no run has, or two runs of one condition and seed.

    Note:
        R2 and R4 are conjunctions, each control tested at .05, and so need no correction for their
        number. Seeds are the sample: nothing is said of other animals or other images.

    Example:
        >>> [(one.rule, one.outcome) for one in verdict({"runs": []})][:2]
        [('R1', 'not tested'), ('R2', 'not tested')]
    """
    attacks = attacks_of(experiment)
    if attack is not None and attack not in attacks:
        raise ValueError(
            f"no run was attacked by {attack}; expected one of {attacks}. Leave attack out to "
            "judge by the first."
        )
    judged = attack or (attacks[0] if attacks else None)
    audits = masking_by_condition(experiment).items()
    masked = tuple(name for name, passed in audits if passed is False)
    evidence = Evidence(experiment, judged, masked)
    found = [judge(rule, evidence) for rule, judge in JUDGES.items()]
    return sorted(found, key=lambda one: not (one.rule == "R6" and one.passed is False))


def conclusion(findings: Sequence[Finding]) -> str:
    """Return the one sentence or two that the findings allow, and no more.

    Example:
        >>> conclusion(verdict({"runs": []}))
        'Whether the alignment made the network more robust was not tested.'
    """
    by_rule = {one.rule: one for one in findings}
    lead = f"{by_rule['R6'].text} " if by_rule["R6"].passed is False else ""
    said = lead + BASELINE_WORDS[by_rule["R1"].outcome]
    if by_rule["R1"].outcome not in (SIGNIFICANT, CONSISTENT):
        return f"{said}." + _costs(by_rule)
    kinds: dict[str, list[str]] = {words: [] for words in REST_WORDS.values()}
    for rule, text in ASPECTS.items():
        if by_rule[rule].passed is not True:
            kinds[REST_WORDS[by_rule[rule].outcome]].append(text)
    more = "".join(f" {words.format(listed(texts))}" for words, texts in kinds.items() if texts)
    if not more:
        more = f" The gain exceeds that of {listed(ASPECTS.values())}."
    return f"{said}.{more}{_costs(by_rule)}"


def _costs(by_rule: Mapping[str, Finding]) -> str:
    said = ""
    if by_rule["R5"].passed is False:
        said += " Clean accuracy was lost."
    if by_rule["R7"].passed is False:
        said += " The Goodhart audit does not clear the alignment itself."
    return said

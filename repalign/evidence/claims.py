"""What an inference claims, in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from repalign.evidence.materials import Region
from repalign.evidence.plans import Plan

CORRECTED = {
    "holm": "p values are corrected for all models and pairs by Holm's method",
    "benjamini-hochberg": "p values hold the false discovery rate over all models and pairs"
    " (Benjamini and Hochberg)",
    "max-t": "p values are corrected for all models and pairs by max-T",
    "none": "p values are not corrected for the number of models",
}


class FixedStimuliWarning(UserWarning):
    """Subjects are tested against zero, and the conclusion is of these stimuli and no others."""


def warn_of_fixed_stimuli(plan: Plan) -> None:
    """Warn where a test over subjects cannot tell a model from what these stimuli share by chance.

    The stimuli are the same for all subjects: what they happen to share with a model is true of
    every one of them, and grows no smaller with more subjects.
    """
    if plan.over == "subjects":
        warnings.warn(
            "over='subjects' tests models against zero for these stimuli and no others: what they"
            " share with a model by chance is found in every subject, and counts as an effect. For"
            " new stimuli too use over='both'; where these are all there are, silence this with"
            " warnings.simplefilter('ignore', repalign.FixedStimuliWarning)",
            FixedStimuliWarning,
            stacklevel=3,  # who called repalign.infer
        )


def claim_of(regions: Sequence[Region], n_models: int, *, pooled: bool, plan: Plan) -> str:
    """One sentence: of what units it speaks, and how models and layers came to be in it."""
    most = max(len(one.brains) for one in regions)
    those = "for this subject" if most == 1 else "for these subjects and no others"
    if pooled:
        those = "for these neuroids, pooled over subjects"
    whom = {
        "stimuli": f"Over new stimuli of this kind, {those}",
        "subjects": "Over new subjects of this kind, for these stimuli and no others",
        "both": "Over new stimuli and new subjects of this kind",
    }[plan.over]
    if plan.method == "heldout" and plan.interval == "percentile" and plan.over != "subjects":
        whom += ", intervals with the fits to these training stimuli"
    layers = {
        "weights": "weights of layers were fitted",
        "select": "layers were selected",
        "interpolate": "blends of layers were fitted",
    }.get(plan.fit)
    how = (
        "layers were not selected"
        if layers is None
        else f"{layers} on stimuli that their values never see"
    )
    many = "one model is reported" if n_models == 1 else f"all {n_models} models are reported"
    return f"{whom}; {how}: {many}, and {CORRECTED[plan.correction]}."

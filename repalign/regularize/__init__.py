"""Training toward the brain: alignment losses, and the controls that they have to beat."""

from repalign.regularize.alignment import AlignmentLoss
from repalign.regularize.alignment_terms import AlignmentTerm
from repalign.regularize.controls import CONTROLS, Control
from repalign.regularize.objectives import ALIGNMENT_LOSSES
from repalign.regularize.schedules import Schedule

__all__ = [
    "ALIGNMENT_LOSSES",
    "CONTROLS",
    "AlignmentLoss",
    "AlignmentTerm",
    "Control",
    "Schedule",
]

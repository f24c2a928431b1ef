"""Robustness: attacks on networks, in pixels, and what they leave of the accuracy."""

from repalign.robustness.apgd import APGD
from repalign.robustness.corruption_tables import CorruptionTable, corruption_table
from repalign.robustness.corruptions import CORRUPTIONS, Corruption
from repalign.robustness.curves import RobustnessCurve, robustness_curve, worst_case
from repalign.robustness.error_patterns import error_consistency, error_kappa, error_pattern
from repalign.robustness.foolbox_backend import FoolboxAttack
from repalign.robustness.gradient_attacks import FGSM, PGD, NoGradientError
from repalign.robustness.masking import (
    GradientMaskingError,
    GradientMaskingWarning,
    MaskingAudit,
    masking_audit,
)
from repalign.robustness.perturbations import BALLS, Attack
from repalign.robustness.pixels import PixelNetwork
from repalign.robustness.square_attack import Square

__all__ = [
    "APGD",
    "ATTACKS",
    "BALLS",
    "CORRUPTIONS",
    "FGSM",
    "PGD",
    "Attack",
    "Corruption",
    "CorruptionTable",
    "FoolboxAttack",
    "GradientMaskingError",
    "GradientMaskingWarning",
    "MaskingAudit",
    "NoGradientError",
    "PixelNetwork",
    "RobustnessCurve",
    "Square",
    "corruption_table",
    "error_consistency",
    "error_kappa",
    "error_pattern",
    "masking_audit",
    "robustness_curve",
    "worst_case",
]

ATTACKS: dict[str, type[Attack]] = {"apgd": APGD, "fgsm": FGSM, "pgd": PGD, "square": Square}

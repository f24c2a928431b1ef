"""Continuous recordings and what runs beside them: films, stories and play.

Features of the film are brought to the recording's volumes, delayed or convolved with a
haemodynamic response, and scored on runs or blocks of time that the fit never saw.
"""

from repalign.continuous.delays import complete_rows, fir_features
from repalign.continuous.encoding import fir_kernels, score_continuous
from repalign.continuous.features import features_at_tr, hrf_features
from repalign.continuous.folds import blocked_folds

__all__ = [
    "blocked_folds",
    "complete_rows",
    "features_at_tr",
    "fir_features",
    "fir_kernels",
    "hrf_features",
    "score_continuous",
]

"""Inference in one call: resamples, ceilings, tests and tables of recordings and models."""

from repalign.evidence.claims import FixedStimuliWarning
from repalign.evidence.inferring import infer
from repalign.evidence.outcome import Inference

__all__ = ["FixedStimuliWarning", "Inference", "infer"]

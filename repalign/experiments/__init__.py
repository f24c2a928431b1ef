"""Experiments: an aligned network beside its baseline and controls, tested and audited."""

from repalign.experiments.goodhart import GoodhartAudit, goodhart_audit
from repalign.experiments.laboratory import Experiment, run_experiment

__all__ = ["Experiment", "GoodhartAudit", "goodhart_audit", "run_experiment"]

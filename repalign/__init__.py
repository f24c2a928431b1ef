"""Compare brains with neural networks, and train networks toward brains.

Public names are loaded when they are first used, so that ``import repalign`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "ALIGNMENT_LOSSES": "repalign.regularize",
    "AlignmentLoss": "repalign.regularize",
    "AlignmentTerm": "repalign.regularize",
    "APGD": "repalign.robustness",
    "ATTACKS": "repalign.robustness",
    "autoencoder_features": "repalign.autoencoders",
    "average_repeats": "repalign.processing",
    "average_time": "repalign.processing",
    "brain_hierarchy_score": "repalign.layer_regions",
    "capture": "repalign.hooks",
    "check_recording": "repalign.recording_checks",
    "check_validity": "repalign.validity",
    "CKA": "repalign.metrics",
    "cka_of_layers": "repalign.layer_pairs",
    "cluster_table": "repalign.dynamics",
    "collect_study": "repalign.studies",
    "compare": "repalign.comparison",
    "CONTROLS": "repalign.regularize",
    "copy_store": "repalign.copying",
    "corruption_table": "repalign.robustness",
    "CORRUPTIONS": "repalign.robustness",
    "cross_temporal": "repalign.dynamics",
    "error_consistency": "repalign.robustness",
    "export": "repalign.exporting",
    "feature_study": "repalign.autoencoders",
    "FGSM": "repalign.robustness",
    "finetune": "repalign.finetuning",
    "FixedStimuliWarning": "repalign.evidence",
    "from_rsatoolbox": "repalign.rsatoolbox_objects",
    "goodhart_audit": "repalign.experiments",
    "infer": "repalign.evidence",
    "Inference": "repalign.evidence",
    "hierarchy_score": "repalign.layer_regions",
    "ingest": "repalign.loaders",
    "inspect_recording": "repalign.quality",
    "latency_table": "repalign.dynamics",
    "list_cards": "repalign.cards",
    "list_layers": "repalign.layer_list",
    "load_agent": "repalign.agents",
    "load_card": "repalign.cards",
    "load_network": "repalign.networks",
    "make_recording": "repalign.recording",
    "map_layers": "repalign.layer_regions",
    "masking_audit": "repalign.robustness",
    "match_features": "repalign.autoencoders",
    "METRICS": "repalign.metrics",
    "Network": "repalign.networks",
    "open_store": "repalign.store",
    "PGD": "repalign.robustness",
    "pilot_rdms": "repalign.pilots",
    "PixelNetwork": "repalign.robustness",
    "plan_study": "repalign.studies",
    "plot_layer_region": "repalign.reporting.region_maps",
    "plot_mds": "repalign.reporting.mds_figures",
    "plot_models": "repalign.reporting.model_comparison",
    "plot_rdms": "repalign.reporting.rdm_figures",
    "plot_time_by_time": "repalign.reporting.time_maps",
    "plot_time_course": "repalign.reporting.time_courses",
    "power": "repalign.designs",
    "PLS": "repalign.metrics",
    "principal_components": "repalign.autoencoders",
    "Procrustes": "repalign.metrics",
    "read_commitment": "repalign.layer_regions",
    "RECIPES": "repalign.recipes",
    "record": "repalign.activations",
    "replay": "repalign.agents",
    "ReusedDataWarning": "repalign.reused_data",
    "Ridge": "repalign.metrics",
    "robustness_curve": "repalign.robustness",
    "rollout": "repalign.agents",
    "rotated_layers": "repalign.rotations",
    "RSA": "repalign.metrics",
    "run_experiment": "repalign.experiments",
    "run_study": "repalign.studies",
    "save_recording": "repalign.opening",
    "Schedule": "repalign.regularize",
    "score_commitment": "repalign.layer_regions",
    "score_continuous": "repalign.continuous",
    "searchlight": "repalign.searchlights",
    "select": "repalign.recording",
    "select_reliable": "repalign.quality",
    "simulate": "repalign.simulation",
    "Square": "repalign.robustness",
    "Stimuli": "repalign.stimuli",
    "study_status": "repalign.studies",
    "StudyConfig": "repalign.studies",
    "time_clusters": "repalign.dynamics",
    "time_resolved": "repalign.dynamics",
    "to_rsatoolbox": "repalign.rsatoolbox_objects",
    "train_autoencoder": "repalign.autoencoders",
    "verify": "repalign.verification",
    "verify_store": "repalign.store_checks",
    "write_map": "repalign.searchlights",
    "write_commitment": "repalign.layer_regions",
    "write_recording_report": "repalign.reporting.recording_page",
    "write_report": "repalign.reporting",
    "write_study_report": "repalign.studies",
    "write_training_report": "repalign.reporting.training_page",
    "zscore_sessions": "repalign.processing",
}
__all__ = [
    "ALIGNMENT_LOSSES",
    "APGD",
    "ATTACKS",
    "CKA",
    "CONTROLS",
    "CORRUPTIONS",
    "FGSM",
    "METRICS",
    "PGD",
    "PLS",
    "RECIPES",
    "RSA",
    "AlignmentLoss",
    "AlignmentTerm",
    "FixedStimuliWarning",
    "Inference",
    "Network",
    "PixelNetwork",
    "Procrustes",
    "ReusedDataWarning",
    "Ridge",
    "Schedule",
    "Square",
    "Stimuli",
    "StudyConfig",
    "__version__",
    "autoencoder_features",
    "average_repeats",
    "average_time",
    "brain_hierarchy_score",
    "capture",
    "check_recording",
    "check_validity",
    "cka_of_layers",
    "cluster_table",
    "collect_study",
    "compare",
    "copy_store",
    "corruption_table",
    "cross_temporal",
    "error_consistency",
    "export",
    "feature_study",
    "finetune",
    "from_rsatoolbox",
    "goodhart_audit",
    "hierarchy_score",
    "infer",
    "ingest",
    "inspect_recording",
    "latency_table",
    "list_cards",
    "list_layers",
    "load_agent",
    "load_card",
    "load_network",
    "make_recording",
    "map_layers",
    "masking_audit",
    "match_features",
    "open_store",
    "pilot_rdms",
    "plan_study",
    "plot_layer_region",
    "plot_mds",
    "plot_models",
    "plot_rdms",
    "plot_time_by_time",
    "plot_time_course",
    "power",
    "principal_components",
    "read_commitment",
    "record",
    "replay",
    "robustness_curve",
    "rollout",
    "rotated_layers",
    "run_experiment",
    "run_study",
    "save_recording",
    "score_commitment",
    "score_continuous",
    "searchlight",
    "select",
    "select_reliable",
    "simulate",
    "study_status",
    "time_clusters",
    "time_resolved",
    "to_rsatoolbox",
    "train_autoencoder",
    "verify",
    "verify_store",
    "write_commitment",
    "write_map",
    "write_recording_report",
    "write_report",
    "write_study_report",
    "write_training_report",
    "zscore_sessions",
]

if TYPE_CHECKING:
    from repalign.activations import record
    from repalign.agents import load_agent, replay, rollout
    from repalign.autoencoders import (
        autoencoder_features,
        feature_study,
        match_features,
        principal_components,
        train_autoencoder,
    )
    from repalign.cards import list_cards, load_card
    from repalign.comparison import compare
    from repalign.continuous import score_continuous
    from repalign.copying import copy_store
    from repalign.designs import power
    from repalign.dynamics import (
        cluster_table,
        cross_temporal,
        latency_table,
        time_clusters,
        time_resolved,
    )
    from repalign.evidence import FixedStimuliWarning, Inference, infer
    from repalign.experiments import goodhart_audit, run_experiment
    from repalign.exporting import export
    from repalign.finetuning import finetune
    from repalign.hooks import capture
    from repalign.layer_list import list_layers
    from repalign.layer_pairs import cka_of_layers
    from repalign.layer_regions import (
        brain_hierarchy_score,
        hierarchy_score,
        map_layers,
        read_commitment,
        score_commitment,
        write_commitment,
    )
    from repalign.loaders import ingest
    from repalign.metrics import CKA, METRICS, PLS, RSA, Procrustes, Ridge
    from repalign.networks import Network, load_network
    from repalign.opening import save_recording
    from repalign.pilots import pilot_rdms
    from repalign.processing import average_repeats, average_time, zscore_sessions
    from repalign.quality import inspect_recording, select_reliable
    from repalign.recipes import RECIPES
    from repalign.recording import make_recording, select
    from repalign.recording_checks import check_recording
    from repalign.regularize import (
        ALIGNMENT_LOSSES,
        CONTROLS,
        AlignmentLoss,
        AlignmentTerm,
        Schedule,
    )
    from repalign.reporting import write_report
    from repalign.reporting.mds_figures import plot_mds
    from repalign.reporting.model_comparison import plot_models
    from repalign.reporting.rdm_figures import plot_rdms
    from repalign.reporting.recording_page import write_recording_report
    from repalign.reporting.region_maps import plot_layer_region
    from repalign.reporting.time_courses import plot_time_course
    from repalign.reporting.time_maps import plot_time_by_time
    from repalign.reporting.training_page import write_training_report
    from repalign.reused_data import ReusedDataWarning
    from repalign.robustness import (
        APGD,
        ATTACKS,
        CORRUPTIONS,
        FGSM,
        PGD,
        PixelNetwork,
        Square,
        corruption_table,
        error_consistency,
        masking_audit,
        robustness_curve,
    )
    from repalign.rotations import rotated_layers
    from repalign.rsatoolbox_objects import from_rsatoolbox, to_rsatoolbox
    from repalign.searchlights import searchlight, write_map
    from repalign.simulation import simulate
    from repalign.stimuli import Stimuli
    from repalign.store import open_store
    from repalign.store_checks import verify_store
    from repalign.studies import (
        StudyConfig,
        collect_study,
        plan_study,
        run_study,
        study_status,
        write_study_report,
    )
    from repalign.validity import check_validity
    from repalign.verification import verify


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'repalign' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

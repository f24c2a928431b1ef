"""Resampling, intervals and tests of comparisons; tensors and arrays only."""

from repalign.inference.checked_rdms import RESAMPLED
from repalign.inference.cka_intervals import delete_one_cka, jackknife_cka, subsampled_cka
from repalign.inference.cluster_permutations import (
    TestedClusters,
    cluster_permutation_test,
    cluster_test_of_null,
)
from repalign.inference.corrections import CORRECTIONS, benjamini_hochberg, holm
from repalign.inference.crossvalidation import (
    CrossvalidatedEvaluations,
    crossvalidate_resamples,
    draw_folds,
)
from repalign.inference.draws import Draws, bootstrap_draws, jackknife_draws, subsample_draws
from repalign.inference.evaluations import (
    DualEvaluations,
    Evaluations,
    evaluate_dual,
    evaluate_resamples,
)
from repalign.inference.flexible_models import ModelRDMs
from repalign.inference.graph_clusters import (
    Clusters,
    Graph,
    adjacency_of_voxels,
    find_clusters,
    tfce,
)
from repalign.inference.intervals import (
    Interval,
    bca_intervals,
    check_interval,
    percentile_intervals,
    t_intervals,
)
from repalign.inference.joint_tests import joint_t_test
from repalign.inference.label_permutations import label_permutation_test, rdm_chance
from repalign.inference.latencies import Latency, latency, onset_latency, peak_latency
from repalign.inference.map_tests import (
    MapSignificance,
    permutation_map_test,
    sign_flip_map_test,
)
from repalign.inference.prediction_intervals import bootstrap_predictions
from repalign.inference.resample_tests import resample_test, t_test
from repalign.inference.rsa_intervals import bootstrap_rsa, default_resamples
from repalign.inference.sign_flips import sign_flip_test
from repalign.inference.significance import Significance
from repalign.inference.variances import (
    Variances,
    crossvalidated_variances,
    estimated_variances,
    two_factor_crossvalidated_variances,
    two_factor_variances,
)

__all__ = [
    "CORRECTIONS",
    "RESAMPLED",
    "Clusters",
    "CrossvalidatedEvaluations",
    "Draws",
    "DualEvaluations",
    "Evaluations",
    "Graph",
    "Interval",
    "Latency",
    "MapSignificance",
    "ModelRDMs",
    "Significance",
    "TestedClusters",
    "Variances",
    "adjacency_of_voxels",
    "bca_intervals",
    "benjamini_hochberg",
    "bootstrap_draws",
    "bootstrap_predictions",
    "bootstrap_rsa",
    "check_interval",
    "cluster_permutation_test",
    "cluster_test_of_null",
    "crossvalidate_resamples",
    "crossvalidated_variances",
    "default_resamples",
    "delete_one_cka",
    "draw_folds",
    "estimated_variances",
    "evaluate_dual",
    "evaluate_resamples",
    "find_clusters",
    "holm",
    "jackknife_cka",
    "jackknife_draws",
    "joint_t_test",
    "label_permutation_test",
    "latency",
    "onset_latency",
    "peak_latency",
    "percentile_intervals",
    "permutation_map_test",
    "rdm_chance",
    "resample_test",
    "sign_flip_map_test",
    "sign_flip_test",
    "subsample_draws",
    "subsampled_cka",
    "t_intervals",
    "t_test",
    "tfce",
    "two_factor_crossvalidated_variances",
    "two_factor_variances",
]

"""Which layer stands for which region: chosen on one part of the data, scored on another."""

from repalign.layer_regions.commitments import Commitment, read_commitment, write_commitment
from repalign.layer_regions.committed_scores import committed_regions, score_commitment
from repalign.layer_regions.hierarchy import (
    HierarchyScore,
    brain_hierarchy_score,
    hierarchy_score,
)
from repalign.layer_regions.mapping import map_layers
from repalign.layer_regions.mapping_results import LayerMapping, RegionLayer

__all__ = [
    "Commitment",
    "HierarchyScore",
    "LayerMapping",
    "RegionLayer",
    "brain_hierarchy_score",
    "committed_regions",
    "hierarchy_score",
    "map_layers",
    "read_commitment",
    "score_commitment",
    "write_commitment",
]

"""Searchlights: RDMs and their similarity with models around each voxel of a volume or surface."""

from repalign.searchlights.around_neuroids import neighbourhoods_of
from repalign.searchlights.map_files import as_volume, write_map
from repalign.searchlights.map_significance import (
    graph_of_map,
    significance_over_permutations,
    significance_over_subjects,
)
from repalign.searchlights.meshes import (
    Mesh,
    disc_neighbourhoods,
    nearest_neighbourhoods,
    read_mesh,
)
from repalign.searchlights.neighbourhoods import (
    Neighbourhoods,
    gather_neighbourhoods,
    joined_neighbourhoods,
    mask_coordinates,
    sphere_neighbourhoods,
)
from repalign.searchlights.search import searchlight

__all__ = [
    "Mesh",
    "Neighbourhoods",
    "as_volume",
    "disc_neighbourhoods",
    "gather_neighbourhoods",
    "graph_of_map",
    "joined_neighbourhoods",
    "mask_coordinates",
    "nearest_neighbourhoods",
    "neighbourhoods_of",
    "read_mesh",
    "searchlight",
    "significance_over_permutations",
    "significance_over_subjects",
    "sphere_neighbourhoods",
    "write_map",
]

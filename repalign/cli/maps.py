"""The verb that maps models over a brain."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from repalign.cli.options import (
    Dataset,
    Degrees,
    Device,
    Layers,
    Mirror,
    Offline,
    Select,
    To,
    complete_models,
)

if TYPE_CHECKING:
    from repalign.inference.graph_clusters import Statistic


def searchlight(
    dataset: Dataset,
    models: Annotated[
        list[str],
        typer.Argument(
            help="What to compare it with: model cards, other datasets, or stores.",
            autocompletion=complete_models,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="File of the map: .nii.gz, .func.gii or .dscalar.nii. A run that was killed goes"
            " on from OUT.zarr.part."
        ),
    ],
    radius: Annotated[
        float | None, typer.Option(help="Of the spheres, or of discs on a surface.")
    ] = None,
    unit: Annotated[str, typer.Option(help="Of the radius: mm or voxels.")] = "mm",
    nearest: Annotated[
        int | None,
        typer.Option(help="On a surface: how many vertices a neighbourhood has, for --radius."),
    ] = None,
    left: Annotated[
        Path | None, typer.Option(help="Mesh of the left hemisphere (.surf.gii).")
    ] = None,
    right: Annotated[
        Path | None, typer.Option(help="Mesh of the right hemisphere (.surf.gii).")
    ] = None,
    minimum: Annotated[
        int, typer.Option(help="Neighbourhoods with fewer neuroids are left out.")
    ] = 10,
    metric: Annotated[
        str, typer.Option(help="rsa, with parameters: rsa:rdm=crossnobis,noise=shrinkage_eye.")
    ] = "rsa",
    fold: Annotated[
        str | None, typer.Option(help="Coordinate of presentations that tells runs apart.")
    ] = None,
    permutations: Annotated[
        int,
        typer.Option(
            help="Random orders of the conditions; then OUT also holds the family-wise p values, in"
            " a file with _p_family in its name."
        ),
    ] = 0,
    statistic: Annotated[
        str, typer.Option(help="Of the correction: tfce, extent, mass or max.")
    ] = "tfce",
    seed: Annotated[int, typer.Option(help="Of the random orders.")] = 0,
    like: Annotated[
        Path | None, typer.Option(help="An image of the same grid, for shape and affine.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw the map, .png or .pdf.")] = None,
    dtype: Annotated[
        str, typer.Option(help="float64, or float32 for half the memory.")
    ] = "float64",
    memory: Annotated[str, typer.Option(help="Most memory for patterns and maps.")] = "4GB",
    layers: Layers = None,
    select: Select = None,
    device: Device = "auto",
    visual_degrees: Degrees = None,
    to: To = None,
    mirror: Mirror = None,
    offline: Offline = False,
) -> None:
    """Compare models with the neuroids around each voxel or vertex, and write the map."""
    from repalign.choices import as_metric
    from repalign.inputs import named_layers, open_inputs, split_words
    from repalign.metrics import RSA
    from repalign.searchlights import (
        neighbourhoods_of,
        significance_over_permutations,
        write_map,
    )
    from repalign.searchlights import searchlight as run

    chosen = as_metric(metric)
    if not isinstance(chosen, RSA):
        raise ValueError(f"--metric {metric}: a searchlight compares RDMs; use rsa")
    if (radius is None) == (nearest is None):
        raise ValueError("give either --radius or --nearest")
    recording, opened = open_inputs(
        dataset,
        models,
        conditions=select,
        layers=split_words(layers),
        device=device,
        visual_degrees=visual_degrees,
        to=to,
        mirror=mirror,
        offline=offline,
    )
    given = {"left": left, "right": right}
    mesh = {side: path for side, path in given.items() if path is not None} or None
    hoods = neighbourhoods_of(
        recording, radius=radius, unit=unit, nearest=nearest, mesh=mesh, minimum=minimum
    )
    maps = run(
        recording,
        named_layers(opened),
        chosen,
        neighbourhoods=hoods,
        fold=fold,
        n_permutations=permutations,
        seed=seed,
        dtype=dtype,
        memory=memory,
        device=device,
        to=f"{out}.zarr",
        progress=True,
    )
    print(maps.attrs["note"], file=sys.stderr)
    written = write_map(maps, out, like=like)
    tested = None
    if permutations:
        tested = significance_over_permutations(
            maps, statistic=cast("Statistic", statistic), mesh=mesh
        )
        said = tested.attrs
        print(f"{said['test']}: smallest p {said['smallest_p']:.4g}", file=sys.stderr)
        for name, p in zip(tested["model"].values, tested["p_family"].values, strict=True):
            print(f"{name}: {(p <= 0.05).sum():,} places with p <= .05", file=sys.stderr)
        stem, dot, ending = out.name.partition(".")
        corrected = out.with_name(f"{stem}_p_family{dot}{ending}")
        written += write_map(tested, corrected, variable="p_family", like=like)
    if figure is not None:
        from repalign.reporting.brain_maps import map_figure
        from repalign.reporting.figures import save_figure

        written.append(
            save_figure(map_figure(maps, significance=tested, like=like, mesh=mesh), figure)
        )
    for path in written:
        print(path)

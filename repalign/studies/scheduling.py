"""What a study has still to compute, cut into tasks of some seconds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

from repalign.recording import Target
from repalign.studies.grid import Block, Grid, StudyLayer, StudyRecording
from repalign.studies.results_store import Stored
from repalign.studies.tasks import Task, Wanted

TASK_S = 3.0  # long beside what handing it out takes, short beside the study
TASKS_A_WORKER = 4  # at least, so that all end at about the same time

Costs = Mapping[tuple[str, str, str], float]
Work = tuple[StudyRecording, str, StudyLayer, tuple[Wanted, ...]]


def seconds_by_metric(stored: Stored) -> dict[tuple[str, str, str], float]:
    """Mean seconds a cell, by dataset, selection and metric, of what was computed before."""
    import pyarrow.compute as pc

    table = stored.table
    table = table.filter(pc.equal(table["kind"], "cell"))
    names = ("dataset", "selection", "metric")
    means = table.group_by(names).aggregate([("seconds", "mean")]).to_pylist()
    return {
        (row["dataset"], row["selection"], row["metric"]): row["seconds_mean"]
        for row in means
        if row["seconds_mean"] is not None
    }


def left_to_do(grid: Grid, done: Collection[str]) -> list[Work]:
    """The layers with what is wanted of each, without what is done; a ceiling stands once."""
    work: dict[tuple[int, str, str], tuple[Block, list[Wanted]]] = {}
    taken: set[str] = set()
    for block in grid.blocks():
        if not block.layer.fingerprint:
            continue
        keys = _left(block.keys, done, taken)
        ceilings = _left(block.ceilings, done, taken)
        if keys or ceilings:
            place = (id(block.recording), block.model, block.layer.layer)
            settings = grid.inference_of(block.metric)
            wanted = Wanted(grid.metrics[block.metric], keys, ceilings, settings)
            work.setdefault(place, (block, []))[1].append(wanted)
    return [
        (block.recording, block.model, block.layer, tuple(wanted))
        for block, wanted in work.values()
    ]


def _left(keys: Mapping[Target, str], done: Collection[str], taken: set[str]) -> dict[Target, str]:
    left = {
        target: key for target, key in keys.items() if key and key not in done and key not in taken
    }
    taken.update(left.values())
    return left


def cost_of(work: Work, costs: Costs) -> float | None:
    """Seconds that a layer will take; None where a metric of it was never timed."""
    recording, _, _, wanted = work
    total = 0.0
    for one in wanted:
        seconds = costs.get((recording.name, recording.selection, one.metric.name))
        if seconds is None:
            return None
        total += seconds * len(one.keys)
    return total


def first_tasks(
    work: Sequence[Work], costs: Costs, *, workers: int
) -> tuple[list[Task], list[Work]]:
    """For each worker a layer of each recording whose costs are not known, as tasks; the rest."""
    tried: Counter[int] = Counter()
    tasks, rest = [], []
    for one in work:
        recording, _, layer, wanted = one
        if tried[id(recording)] < workers and cost_of(one, costs) is None:
            tried[id(recording)] += 1
            tasks.append(Task(recording, ((layer, wanted),)))
        else:
            rest.append(one)
    return tasks, rest


def cut_tasks(work: Sequence[Work], costs: Costs, *, workers: int) -> list[Task]:
    """Layers of one recording and model in tasks of about three seconds, some for each worker."""
    known = [cost_of(one, costs) for one in work]
    total = sum(seconds for seconds in known if seconds is not None)
    limit = min(TASK_S, total / (TASKS_A_WORKER * workers)) if workers > 1 else TASK_S
    return [
        Task(group[0][0], tuple((layer, wanted) for _, _, layer, wanted in group))
        for group in _grouped(work, known, limit)
    ]


def _grouped(
    work: Sequence[Work], known: Sequence[float | None], limit: float
) -> Iterator[list[Work]]:
    group: list[Work] = []
    spent = 0.0
    for one, seconds in zip(work, known, strict=True):
        cost = limit if seconds is None else seconds
        same = group and group[-1][0] is one[0] and group[-1][1] == one[1]
        if group and (not same or spent + cost > limit):
            yield group
            group, spent = [], 0.0
        group.append(one)
        spent += cost
    if group:
        yield group

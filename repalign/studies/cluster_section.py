"""The `[cluster]` of a study: jobs of a batch system, and those that have GPUs."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from repalign.job_queues import JobQueue
from repalign.training.sections import Section

Work = Literal["recording", "comparing"]


class QueueSection(Section):
    """Keys of `repalign.job_queues.JobQueue`; a list or one text of the lines of a script.

    What is left out is as there: Dask's ``jobqueue.yaml`` decides.
    """

    system: str | None = None
    jobs: int | None = Field(default=None, ge=1)
    workers: int | None = Field(default=None, ge=1)
    cores: int | None = Field(default=None, ge=1)
    memory: str | None = None
    walltime: str | None = None
    gpus: int | None = Field(default=None, ge=0)
    queue: str | None = None
    account: str | None = None
    directives: str | tuple[str, ...] | None = None
    setup: str | tuple[str, ...] | None = None
    interface: str | None = None
    disk: str | None = None
    logs: str | None = None

    @field_validator("walltime", mode="before")
    @classmethod
    def _without_quotes(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, datetime.time) else value

    def given(self) -> dict[str, Any]:
        """What is not left out."""
        return {
            k: getattr(self, k) for k in QueueSection.model_fields if k in self.model_fields_set
        }


class ClusterSection(QueueSection):
    """Where a study runs: jobs of a batch system.

    Args:
        gpu: jobs of their own in which networks are recorded, before the others begin to compare.
            What is left out is that of the others; they have one GPU unless ``gpus`` says more.

    Example:
        >>> section = ClusterSection(system="slurm", cores=4, gpu={"gpus": 2, "queue": "a100"})
        >>> section.queues["recording"].queue, section.queues["comparing"].gpus
        ('a100', 0)
    """

    system: str
    gpu: QueueSection | None = None

    @model_validator(mode="after")
    def _fits(self) -> ClusterSection:
        assert self.queues
        return self

    def with_logs_at(self, folder: Path) -> ClusterSection:
        """The same with relative folders of logs taken from a folder."""
        moved: dict[str, Any]
        moved = {} if self.logs is None else {"logs": str(folder / Path(self.logs).expanduser())}
        if self.gpu is not None and self.gpu.logs is not None:
            logs = str(folder / Path(self.gpu.logs).expanduser())
            moved["gpu"] = self.gpu.model_copy(update={"logs": logs})
        return self.model_copy(update=moved)

    @property
    def queues(self) -> dict[Work, JobQueue]:
        """The jobs that record networks, and those that compare."""
        own = self.given()
        comparing = JobQueue(**own)
        if self.gpu is None:
            return {"recording": comparing, "comparing": comparing}
        recording = JobQueue(**own | {"gpus": 1} | self.gpu.given())
        return {"recording": recording, "comparing": comparing}

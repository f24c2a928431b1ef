"""Studies: recordings × models × layers × metrics from one file, resumable, in one table."""

from repalign.studies.collecting import StudyResults, collect_study
from repalign.studies.configuration import StudyConfig, read_study
from repalign.studies.counts import StudyStatus, study_status
from repalign.studies.planning import StudyPlan, plan_study
from repalign.studies.running import run_study
from repalign.studies.study_pages import write_study_report
from repalign.studies.workers import job_scripts

__all__ = [
    "StudyConfig",
    "StudyPlan",
    "StudyResults",
    "StudyStatus",
    "collect_study",
    "job_scripts",
    "plan_study",
    "read_study",
    "run_study",
    "study_status",
    "write_study_report",
]

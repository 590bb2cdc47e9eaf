"""A run shown to SwanLab under the names that the job gives; the other trackers take theirs from ``transformers``."""

from __future__ import annotations

from engine.options.jobs import TrainJob


def begin_tracking(job: TrainJob) -> None:
    """Start SwanLab's run, which transformers' own reporter finds then. The key comes from the environment."""
    if not job.use_swanlab:
        return
    import swanlab

    given = {
        "project": job.swanlab_project,
        "workspace": job.swanlab_workspace,
        "experiment_name": job.swanlab_run_name or job.training_arguments.get("run_name"),
        "mode": job.swanlab_mode,
        "logdir": job.swanlab_logdir,
    }
    swanlab.init(**{name: value for name, value in given.items() if value is not None})

"""Packages that a job needs beside those that are always installed; only looked for, never imported."""

from __future__ import annotations

import importlib.util

from engine.errors import Problem
from engine.options.jobs import TrainJob
from engine.options.rules_training import TRACKERS, optimizer_names

MODULES = {
    "galore-torch": "galore_torch", "apollo-torch": "apollo_torch", "adam-mini": "adam_mini",
    "lomo-optim": "lomo_optim", "torch-optimi": "optimi", "torch-xla": "torch_xla", "torch-npu": "torch_npu",
    "comet-ml": "comet_ml", "azureml-core": "azureml", "liger-kernel": "liger_kernel",
}  # fmt: skip
"""What a package is imported as, where that is not its name."""

BY_SWITCH = {"use_galore": "galore-torch", "use_apollo": "apollo-torch", "use_adam_mini": "adam-mini"}


def package_problems(job: TrainJob) -> list[Problem]:
    """A problem for each option whose package is not installed, with the command that installs it."""
    needed = [("optim", job.optim, optimizer_names().get(job.optim, ""))]
    needed += [("report_to", name, TRACKERS.get(name, "")) for name in job.report_to]
    needed += [(name, "true", BY_SWITCH[name]) for name in job.optimizers_by_switch if name in BY_SWITCH]
    if job.use_swanlab:
        needed.append(("use_swanlab", "true", "swanlab"))
    if job.training_arguments.get("use_liger_kernel"):
        needed.append(("use_liger_kernel", "true", "liger-kernel"))
    return [
        Problem("package_missing", option, {"option": option, "value": value, "command": f"pip install {package}"})
        for option, value, package in needed
        if package and not is_installed(package)
    ]


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(MODULES.get(package, package)) is not None

"""Which device a worker computes on: the best one of this machine that the installed torch can use."""

from __future__ import annotations

import torch

from engine.catalog.devices import Device, best_device, cpu, devices
from engine.runs.record import Recorder


def usable_device(recorder: Recorder) -> Device:
    """The best device, or the CPU, with a warning, where torch was built without support for the GPU."""
    best = best_device(devices())
    if best.is_cpu or torch.cuda.is_available():
        return best
    recorder.warn("gpu_not_usable", device=best.name, torch=torch.__version__)
    return cpu()

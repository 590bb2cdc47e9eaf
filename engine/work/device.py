"""Which device a worker computes on: the best one of this machine that the installed torch can use."""

from __future__ import annotations

import torch

from engine.catalog.devices import Device, best_device, cpu, devices
from engine.runs.record import Recorder
from engine.work.ranks import Ranks


def usable_device(recorder: Recorder, ranks: Ranks | None = None) -> Device:
    """The best device, or the CPU, with a warning, where torch was built without support for the GPU.

    Args:
        ranks: of several processes, each has the GPU of its own number on this machine.
    """
    found = devices()
    best = best_device(found)
    if best.is_cpu:
        return best
    if not torch.cuda.is_available():
        recorder.warn("gpu_not_usable", device=best.name, torch=torch.__version__)
        return cpu()
    if ranks is None or ranks.count == 1:
        return best
    return next(device for device in found if not device.is_cpu and device.index == ranks.local_rank)

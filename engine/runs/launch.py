"""As what a job's worker is started: on which devices, as how many processes, in which environment.

Several processes are torchrun's affair (``engine.work.torchrun``); an outer launcher that has already started this
process, torchrun or ``accelerate launch``, is recognised by the variables that it sets.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.catalog.devices import Device, memory_text, recommended_threads
from engine.errors import Problem
from engine.options.base import Options
from engine.options.jobs import EvalJob, PreflightJob, TrainJob
from engine.runs.folder import Folder

OF_A_RANK = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "ROLE_NAME",
)  # fmt: skip
"""What a launcher tells each process; of no meaning to a worker that is none of its processes."""


NOTES = "LATHE_RANK_NOTES"
"""The variable that names a folder where each process of a run says how it ended; set by ``engine.work.torchrun``."""


@dataclass(frozen=True)
class Place:
    """One of the processes that a launcher has started. All count from 0; ``local``: on this machine."""

    rank: int
    world_size: int
    local_rank: int

    @property
    def is_first(self) -> bool:
        return self.rank == 0


def place_in(environment: Mapping[str, str]) -> Place | None:
    """The place that a launcher has given to this process; None: it was started by nobody of that kind.

    All three variables must be there: clusters set some of them for machines, not for processes.
    """
    try:
        rank, world_size, local_rank = (int(environment[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    except (KeyError, ValueError):
        return None
    return Place(rank, world_size, local_rank)


def words_from_environment(environment: Mapping[str, str], find: Callable[[], Iterable[Device]]) -> list[str]:
    """Command-line words for what LLaMA-Factory reads from the environment.

    ``FORCE_TORCHRUN`` starts one process for each GPU; ``NPROC_PER_NODE``, ``NNODES``, ``NODE_RANK``, ``MASTER_ADDR``,
    ``MASTER_PORT`` and ``RDZV_ID`` are torchrun's flags of these names.

    Args:
        find: gives the devices of this machine; asked only where their number matters.
    """
    is_forced = environment.get("FORCE_TORCHRUN", "").lower() in ("true", "y", "1")
    if place_in(environment) or not (is_forced or {"NPROC_PER_NODE", "NNODES"} & environment.keys()):
        return []
    values = {
        name.lower(): environment[name]
        for name in ("NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "RDZV_ID")
        if environment.get(name)
    }
    if "nproc_per_node" not in values:
        values["nproc_per_node"] = str(max(1, sum(not device.is_cpu for device in find())))
    if "rdzv_id" in values:
        values["rdzv_backend"] = "c10d"
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def needs_torchrun(job: Options) -> bool:
    """Whether a job is done by processes that torchrun starts: several, or one that shards its model."""
    if not isinstance(job, TrainJob) or (isinstance(job, PreflightJob) and not job.smoke):
        return False
    own = job.training_arguments.get("deepspeed") or job.training_arguments.get("fsdp")
    return bool(job.processes_here > 1 or job.nnodes > 1 or job.parallel != "ddp" or own)


def chosen_gpus(job: TrainJob, found: Iterable[Device]) -> list[Device]:
    """The GPUs of a job, one for each of its processes: those it names, else those with the most free memory.

    Empty where there is none.
    """
    gpus = [device for device in found if not device.is_cpu]
    if job.devices:
        return [gpu for number in job.devices for gpu in gpus if str(gpu.index) == number.removeprefix("cuda:")]
    freest = sorted(gpus, key=lambda gpu: (-gpu.free_bytes, gpu.index))[: job.processes_here]
    return sorted(freest, key=lambda gpu: gpu.index)


def device_choices(found: Iterable[Device]) -> list[tuple[str, str]]:
    """(what a person reads, value of ``devices``) for each GPU."""
    return [
        (f"{gpu.index}: {gpu.name} ({memory_text(gpu.memory_bytes)})", str(gpu.index))
        for gpu in found
        if not gpu.is_cpu
    ]


def has_several(found: Iterable[Device]) -> bool:
    """Whether there is anything to choose between: more than one GPU."""
    return sum(not device.is_cpu for device in found) > 1


def device_problems(job: Options, found: Sequence[Device]) -> list[Problem]:
    """What a look at this machine shows to be wrong: devices that are not there, or DeepSpeed that is not installed."""
    if not isinstance(job, TrainJob):
        return []
    problems = []
    gpus = [device for device in found if not device.is_cpu]
    known = [str(gpu.index) for gpu in gpus]
    unknown = [number for number in job.devices if number.removeprefix("cuda:") not in known]
    if unknown:
        facts = {"unknown": ", ".join(unknown), "known": ", ".join(known) or "–"}
        problems.append(Problem("devices.unknown", "devices", facts))
    elif gpus and job.processes_here > len(gpus):
        facts = {"processes": job.processes_here, "gpus": len(gpus)}
        problems.append(Problem("devices.too_few", "nproc_per_node", facts))
    own_fsdp = job.training_arguments.get("fsdp")
    if not gpus and (job.parallel == "fsdp2" or own_fsdp):
        problems.append(Problem("devices.gpus_only", "fsdp" if own_fsdp else "parallel"))
    needs_deepspeed = job.parallel in ("zero2", "zero3") or job.training_arguments.get("deepspeed")
    if needs_deepspeed and importlib.util.find_spec("deepspeed") is None:
        option = "parallel" if job.parallel != "ddp" else "deepspeed"
        problems.append(Problem("devices.deepspeed_missing", option))
    return problems


def worker_command(folder: Folder, owner_pid: int | None) -> list[str]:
    command = [sys.executable, "-m", "engine.work", str(folder.path)]
    return [*command, str(owner_pid)] if owner_pid else command


def worker_environment(job: Options, environment: Mapping[str, str], found: Sequence[Device]) -> dict[str, str]:
    """The environment of a job's worker, made from this process's own.

    A worker sees no other GPUs than its job's: transformers would use all that it sees, each with a copy of the model.
    """
    place = place_in(environment) if isinstance(job, TrainJob) else None
    mine = {name: value for name, value in environment.items() if place or name not in OF_A_RANK}
    gpus = chosen_gpus(job, found) if isinstance(job, TrainJob) and not place else []
    if isinstance(job, EvalJob):
        gpus = [device for device in found if not device.is_cpu][:1]
    if gpus:
        visible = [word.strip() for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.strip()]
        mine["CUDA_VISIBLE_DEVICES"] = ",".join(visible[gpu.index] if visible else str(gpu.index) for gpu in gpus)
        mine.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts them
    if isinstance(job, TrainJob) and not place and job.processes_here > 1:
        mine.setdefault("OMP_NUM_THREADS", str(max(1, recommended_threads() // job.processes_here)))
    mine["PYTHONUNBUFFERED"] = "1"
    return mine


def own_folder(job: Options, main: Folder, environment: Mapping[str, str] = os.environ) -> Folder:
    """Where a process started by hand or by an outer launcher keeps its log and state.

    The first of all uses the run's own folder; every other one below it, so that each folder has one writer.
    """
    place = place_in(environment)
    if place and not place.is_first:
        return Folder(main.path / "ranks" / str(place.rank))
    if isinstance(job, TrainJob) and not place and job.node_rank:
        return Folder(main.path / "nodes" / str(job.node_rank))
    return main

"""Which choices of devices and processes go together: small pure functions, as in ``rules.py``."""

from __future__ import annotations

from engine.errors import Problem
from engine.options.jobs import TrainJob

SHARDED = ("fsdp2", "zero3")
"""Ways of working together in which no process holds the whole model."""


def node_is_one_of_them(job: TrainJob) -> Problem | None:
    wrong = job.node_rank >= job.nnodes
    return Problem("devices.node_rank", "node_rank", {"rank": job.node_rank, "nodes": job.nnodes}) if wrong else None


def nodes_meet_somewhere(job: TrainJob) -> Problem | None:
    missing = job.nnodes > 1 and not job.rdzv_endpoint and job.master_port is None
    return Problem("devices.no_meeting_point", "master_port", {"nodes": job.nnodes}) if missing else None


def nodes_share_a_folder_name(job: TrainJob) -> Problem | None:
    return Problem("devices.output_dir", "output_dir") if job.nnodes > 1 and not job.output_dir else None


def one_process_a_device(job: TrainJob) -> Problem | None:
    wrong = job.devices and job.nproc_per_node and job.nproc_per_node != len(job.devices)
    facts = {"processes": job.nproc_per_node, "devices": ", ".join(job.devices)}
    return Problem("devices.not_one_each", "nproc_per_node", facts) if wrong else None


def one_way_of_sharing(job: TrainJob) -> Problem | None:
    own = [name for name in ("deepspeed", "fsdp") if job.training_arguments.get(name)]
    if len(own) + (job.parallel != "ddp") < 2:
        return None
    return Problem("devices.two_ways", "parallel", {"parallel": job.parallel, "own": ", ".join(own)})


def shards_are_not_quantized(job: TrainJob) -> Problem | None:
    wrong = job.quantization_bit and job.parallel in SHARDED
    facts = {"parallel": job.parallel, "bits": job.quantization_bit}
    return Problem("devices.quantized_shards", "parallel", facts) if wrong else None


def ladder_needs_a_whole_model(job: TrainJob) -> Problem | None:
    own = next((name for name in ("deepspeed", "fsdp") if job.training_arguments.get(name)), None)
    way = own or (job.parallel if job.parallel in SHARDED else None)
    return Problem("ladder_sharded", "ladder_prompts", {"parallel": way}) if job.ladder and way else None


TRAIN_RULES = (
    node_is_one_of_them, nodes_meet_somewhere, nodes_share_a_folder_name, one_process_a_device, one_way_of_sharing,
    shards_are_not_quantized, ladder_needs_a_whole_model,
)  # fmt: skip

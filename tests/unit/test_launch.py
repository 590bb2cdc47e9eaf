"""As what a worker is started: devices described as data, and environments as mappings. Nothing is launched here."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from engine.catalog.devices import Device
from engine.options.command import parse, preview
from engine.options.devices import Devices
from engine.options.jobs import ChatJob, TrainJob
from engine.options.rules import problems_of
from engine.runs.folder import Folder
from engine.runs.launch import (
    NOTES,
    Place,
    chosen_gpus,
    device_choices,
    device_problems,
    has_several,
    needs_torchrun,
    own_folder,
    place_in,
    words_from_environment,
    worker_environment,
)  # fmt: skip
from tests.unit.house import PROJECT

CPU = Device("cpu", "a CPU", cores=8)
GPUS = tuple(Device("cuda", f"card {n}", 24 * 10**9, free * 10**9, n, (8, 6)) for n, free in enumerate((5, 20, 9, 20)))
MACHINE = (CPU, *GPUS)
RANK_1_OF_2 = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


def job_of(**values) -> TrainJob:
    return TrainJob.from_values({"dataset": "identity", **values})


def keys(problems) -> list[str]:
    return [problem.key for problem in problems]


# Which devices


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ({}, [1]),
        ({"devices": "2,0"}, [2, 0]),
        ({"devices": "cuda:3"}, [3]),
        ({"nproc_per_node": 2}, [1, 3]),
        ({"nproc_per_node": 3}, [1, 2, 3]),
    ],
)
def test_a_job_has_the_devices_it_names_else_the_freest(asked, numbers):
    assert [gpu.index for gpu in chosen_gpus(job_of(**asked), MACHINE)] == numbers


def test_a_worker_sees_its_own_devices_only():
    assert worker_environment(job_of(), {}, MACHINE)["CUDA_VISIBLE_DEVICES"] == "1"
    assert worker_environment(job_of(devices="3,0"), {}, MACHINE)["CUDA_VISIBLE_DEVICES"] == "3,0"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(job_of(), {}, (CPU,))
    kept = worker_environment(ChatJob.from_values({}), {"CUDA_VISIBLE_DEVICES": "2"}, MACHINE)
    assert kept["CUDA_VISIBLE_DEVICES"] == "2"


def test_devices_count_among_those_that_are_visible():
    """Of the machine's cards 4 and 6 are visible; they are numbers 0 and 1 here, as ``env`` shows them."""
    visible = worker_environment(job_of(devices="1"), {"CUDA_VISIBLE_DEVICES": "4, 6"}, (CPU, *GPUS[:2]))
    assert visible["CUDA_VISIBLE_DEVICES"] == "6"


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr("engine.runs.launch.recommended_threads", lambda: 8)
    assert worker_environment(job_of(nproc_per_node=3), {}, (CPU,))["OMP_NUM_THREADS"] == "2"
    assert worker_environment(job_of(nproc_per_node=16), {}, (CPU,))["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in worker_environment(job_of(), {}, (CPU,))
    own = worker_environment(job_of(nproc_per_node=2), {"OMP_NUM_THREADS": "7"}, (CPU,))
    assert own["OMP_NUM_THREADS"] == "7"


def test_the_page_offers_a_choice_only_where_there_is_one():
    assert not has_several((CPU,)) and not has_several((CPU, GPUS[0])) and has_several(MACHINE)
    assert device_choices(MACHINE)[1] == ("1: card 1 (24.0 GB)", "1") and len(device_choices(MACHINE)) == 4


# What is refused


@pytest.mark.parametrize(
    ("asked", "found", "expected"),
    [
        ({}, MACHINE, []),
        ({"nproc_per_node": 4}, MACHINE, []),
        ({"nproc_per_node": 2}, (CPU,), []),
        ({"devices": "4"}, MACHINE, ["devices.unknown"]),
        ({"devices": "0"}, (CPU,), ["devices.unknown"]),
        ({"nproc_per_node": 5}, MACHINE, ["devices.too_few"]),
        ({"parallel": "fsdp2", "nproc_per_node": 2}, MACHINE, []),
        ({"parallel": "fsdp2", "nproc_per_node": 2}, (CPU,), ["devices.gpus_only"]),
        ({"parallel": "zero3"}, MACHINE, ["devices.deepspeed_missing"]),
        ({"deepspeed": "ds.json"}, MACHINE, ["devices.deepspeed_missing"]),
    ],
)
def test_what_the_machine_cannot_do_is_refused_before_a_start(asked, found, expected, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "deepspeed" else real(name))
    problems = device_problems(job_of(**asked), found)
    assert keys(problems) == expected
    assert all(problem.option in asked for problem in problems)


def test_a_missing_deepspeed_names_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install deepspeed" in device_problems(job_of(parallel="zero2"), MACHINE)[0].text()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"nnodes": 2, "node_rank": 1, "master_port": 29500, "output_dir": "saves/r"}, None),
        ({"nnodes": 2, "node_rank": 2, "master_port": 29500, "output_dir": "saves/r"}, "devices.node_rank"),
        ({"nnodes": 2, "output_dir": "saves/r"}, "devices.no_meeting_point"),
        ({"nnodes": 2, "rdzv_endpoint": "host:29500", "output_dir": "saves/r"}, None),
        ({"nnodes": 2, "master_port": 29500}, "devices.output_dir"),
        ({"devices": "0,1", "nproc_per_node": 2}, None),
        ({"devices": "0,1", "nproc_per_node": 4}, "devices.not_one_each"),
        ({"parallel": "zero2", "deepspeed": "ds.json"}, "devices.two_ways"),
        ({"fsdp": "full_shard", "deepspeed": "ds.json"}, "devices.two_ways"),
        ({"fsdp": "full_shard"}, None),
        ({"parallel": "fsdp2", "quantization_bit": 4}, "devices.quantized_shards"),
        ({"parallel": "zero2", "quantization_bit": 4}, None),
    ],
)
def test_rules(asked, expected):
    found = [key for key in keys(problems_of(job_of(**asked))) if key.startswith("devices.")]
    assert found == ([expected] if expected else [])


# Who starts the processes


def test_several_processes_or_a_sharded_model_need_torchrun():
    assert not needs_torchrun(job_of()) and not needs_torchrun(job_of(devices="1"))
    assert not needs_torchrun(ChatJob.from_values({}))
    for asked in (
        {"nproc_per_node": 2}, {"devices": "0,1"}, {"nnodes": 2}, {"parallel": "fsdp2"}, {"deepspeed": "ds.json"},
        {"fsdp": "full_shard"},
    ):  # fmt: skip
        assert needs_torchrun(job_of(**asked)), asked


def test_an_outer_launcher_is_known_by_what_it_tells_each_process():
    assert place_in(RANK_1_OF_2) == Place(1, 2, 1)
    assert place_in({"WORLD_SIZE": "4", "RANK": "2", "MASTER_ADDR": "host"}) is None  # a cluster's, for machines
    assert place_in({}) is None
    main = Folder(PROJECT / "saves" / "r")
    assert own_folder(job_of(), main, RANK_1_OF_2).path == main.path / "ranks" / "1"
    assert own_folder(job_of(), main, {**RANK_1_OF_2, "RANK": "0"}) == main
    assert own_folder(job_of(nnodes=2, node_rank=1), main, {}).path == main.path / "nodes" / "1"
    assert own_folder(job_of(), main, {}) == main


def test_only_a_training_takes_its_place_among_ranks():
    assert worker_environment(job_of(), RANK_1_OF_2, MACHINE)["RANK"] == "1"
    assert "CUDA_VISIBLE_DEVICES" not in worker_environment(job_of(), RANK_1_OF_2, MACHINE)
    assert "RANK" not in worker_environment(ChatJob.from_values({}), RANK_1_OF_2, MACHINE)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"MASTER_ADDR": "host", "NODE_RANK": "1"}, []),
        ({"FORCE_TORCHRUN": "1"}, ["--nproc_per_node", "4"]),
        ({"FORCE_TORCHRUN": "0"}, []),
        ({"NPROC_PER_NODE": "2"}, ["--nproc_per_node", "2"]),
        (
            {"FORCE_TORCHRUN": "1", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
            ["--nnodes", "2", "--node_rank", "1", "--master_addr", "10.0.0.1", "--master_port", "29500",
             "--nproc_per_node", "4"],
        ),
        ({"FORCE_TORCHRUN": "1", **RANK_1_OF_2}, []),
    ],
)  # fmt: skip
def test_variables_of_llama_factory_become_options(environment, expected):
    assert words_from_environment(environment, lambda: MACHINE) == expected


def test_the_preview_starts_the_processes_itself():
    job, _ = parse(TrainJob, ["--dataset", "identity", "--nproc_per_node", "2", "--parallel", "fsdp2"])
    assert "--nproc_per_node 2" in preview(job) and "--parallel fsdp2" in preview(job)
    assert not {f"--{name}" for name in Devices.model_fields} & set(preview(job_of()).split())


# What torchrun is told, and what its processes say


def test_torchrun_is_told_in_its_own_words():
    from torch.distributed.run import config_from_args, parse_args

    from engine.work.torchrun import torchrun_words

    job = job_of(nproc_per_node=2, nnodes=3, node_rank=1, master_addr="10.0.0.1", master_port=29511, output_dir="r")
    config, _, words = config_from_args(parse_args(torchrun_words(job, PROJECT)))
    assert (config.nproc_per_node, config.min_nodes, config.max_nodes) == (2, 3, 3)
    assert config.rdzv_endpoint == "10.0.0.1:29511" and config.rdzv_configs["rank"] == 1
    assert words == ["-u", "-m", "engine.work", str(PROJECT)]
    by_name = job_of(rdzv_backend="c10d", rdzv_endpoint="host:1234", rdzv_id="mine", nproc_per_node=2)
    config, _, _ = config_from_args(parse_args(torchrun_words(by_name, PROJECT)))
    assert (config.rdzv_backend, config.rdzv_endpoint, config.run_id) == ("c10d", "host:1234", "mine")


def note(status, at, key="unexpected", is_echo=False, **facts):
    from engine.work.torchrun import Note

    return Note(status, at, {"key": key, "facts": facts}, is_echo=is_echo)


def test_the_first_error_that_is_no_echo_is_the_cause():
    from engine.work.torchrun import why_it_failed

    echo = note("failed", 2.0, is_echo=True, detail="Connection closed by peer")
    seen = {0: SimpleNamespace(exitcode=1), 1: SimpleNamespace(exitcode=1)}
    found = why_it_failed({0: echo, 1: note("failed", 1.0, "disk_full", detail="x")}, seen, 2)
    assert found.key == "rank_failed" and found.facts["rank"] == 1 and "disk is full" in found.facts["cause"]
    assert found.facts["cause_key"] == "disk_full"
    found = why_it_failed({0: note("failed", 1.0, "disk_full", detail="x"), 1: echo}, seen, 2)
    assert found.key == "disk_full"
    found = why_it_failed({0: echo}, {**seen, 1: SimpleNamespace(exitcode=-9, timestamp=1.0)}, 2)
    assert found.key == "rank_killed" and found.facts == {"rank": 1, "processes": 2, "signal": "SIGKILL"}
    found = why_it_failed({0: echo, 1: echo}, seen, 2)
    assert found.key == "ranks_parted" and "Connection closed" in found.text()


def test_a_rank_leaves_a_note_that_can_be_read(tmp_path, monkeypatch):
    from engine.work.torchrun import leave_note, read_notes

    monkeypatch.setenv(NOTES, str(tmp_path))
    leave_note(1, "failed", {"key": "disk_full", "facts": {"detail": "x"}}, is_echo=False)
    leave_note(0, "done", result={"saved_at": time.time()})
    notes = read_notes(tmp_path)
    assert notes[1].status == "failed" and notes[1].error["key"] == "disk_full" and notes[0].result["saved_at"]


# How the engines are told


def test_shards_are_told_in_transformers_words(tmp_path):
    from transformers import TrainingArguments

    from engine.work.parallel import preset

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, fsdp=True, fsdp_config=preset("fsdp2"))
    told = arguments.fsdp_plugin_args
    assert told["fsdp_version"] == 2 and told["state_dict_type"] == "FULL_STATE_DICT"
    assert told["reshard_after_forward"] is True and told["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_presets_say_what_transformers_fills_in(stage):
    """As data only: DeepSpeed is not tried here. The keys are those that transformers' own "auto" knows."""
    from transformers.integrations import deepspeed

    from engine.work.parallel import preset

    settings = preset(f"zero{stage}")
    assert settings == json.loads(json.dumps(settings)), "DeepSpeed reads JSON"
    assert settings["zero_optimization"]["stage"] == stage
    source = Path(deepspeed.__file__).read_text(encoding="utf-8")
    for key, value in _flat(settings):
        assert value != "auto" or f'"{key}"' in source or f'"{key.rsplit(".", 1)[-1]}"' in source, key
    if stage == 3:
        assert settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert isinstance(settings["zero_optimization"]["reduce_bucket_size"], int | str)


def test_presets_are_read_as_numbers_and_booleans():
    for path in (PROJECT / "engine" / "work" / "parallel").glob("*.yaml"):
        for key, value in _flat(yaml.safe_load(path.read_text(encoding="utf-8"))):
            assert not isinstance(value, str) or value in ("auto", "TRANSFORMER_BASED_WRAP", "FULL_STATE_DICT"), key


def _flat(settings: dict, before: str = ""):
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value

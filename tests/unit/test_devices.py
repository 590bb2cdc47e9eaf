"""Devices described as data, and the number format that each is fit for."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from engine.catalog import devices as module
from engine.catalog.devices import (
    Device,
    best_device,
    cpu,
    devices,
    gpus,
    memory_text,
    parse_gpus,
    precision,
    recommended_threads,
)
from engine.words import words

GB = 10**9
PLAIN_CPU = Device("cpu", "AMD EPYC", 16 * GB, 8 * GB, cores=2, flags=frozenset({"avx2", "fma"}))
ZEN4 = Device("cpu", "AMD EPYC 9354", 16 * GB, 8 * GB, cores=8, flags=frozenset({"avx512f", "avx512_bf16"}))
SAPPHIRE_RAPIDS = Device("cpu", "Xeon 8480", 16 * GB, 8 * GB, cores=8, flags=frozenset({"amx_tile", "amx_bf16"}))
P100 = Device("cuda", "Tesla P100", 16 * GB, 16 * GB, capability=(6, 0))
GTX1080 = Device("cuda", "GTX 1080", 8 * GB, 8 * GB, capability=(6, 1))
V100 = Device("cuda", "Tesla V100", 16 * GB, 16 * GB, capability=(7, 0))
T4 = Device("cuda", "Tesla T4", 16 * GB, 15 * GB, capability=(7, 5))
A100 = Device("cuda", "A100", 40 * GB, 40 * GB, capability=(8, 0))
H100 = Device("cuda", "H100", 80 * GB, 80 * GB, capability=(9, 0))


@pytest.mark.parametrize(
    ("device", "asked", "autocast", "is_changed", "reason"),
    [
        (T4, "bf16", "float16", True, "gpu_without_bfloat16"),
        (V100, "bf16", "float16", True, "gpu_without_bfloat16"),
        (P100, "bf16", "float16", True, "gpu_without_bfloat16"),
        (A100, "bf16", "bfloat16", False, "as_asked"),
        (H100, "bf16", "bfloat16", False, "as_asked"),
        (PLAIN_CPU, "bf16", "float32", True, "cpu_without_bfloat16"),
        (ZEN4, "bf16", "bfloat16", False, "as_asked"),
        (SAPPHIRE_RAPIDS, "bf16", "bfloat16", False, "as_asked"),
        (T4, "fp16", "float16", False, "as_asked"),
        (P100, "fp16", "float16", False, "as_asked"),
        (A100, "fp16", "float16", False, "as_asked"),
        (PLAIN_CPU, "fp16", "float32", True, "cpu_without_float16"),
        (ZEN4, "fp16", "float32", True, "cpu_without_float16"),
        (T4, None, "float16", False, "gpu_without_bfloat16"),
        (P100, None, "float16", False, "gpu_without_bfloat16"),
        (GTX1080, None, "float32", False, "gpu_slow_float16"),
        (A100, None, "bfloat16", False, "fast_bfloat16"),
        (PLAIN_CPU, None, "float32", False, "cpu_without_bfloat16"),
        (ZEN4, None, "bfloat16", False, "fast_bfloat16"),
        (T4, "pure_bf16", "float16", True, "gpu_without_bfloat16"),
        (PLAIN_CPU, "pure_bf16", "float32", True, "cpu_without_bfloat16"),
    ],
)
def test_precision(device, asked, autocast, is_changed, reason):
    chosen = precision(device, **({asked: True} if asked else {}))
    assert (chosen.autocast, chosen.is_changed) == (autocast, is_changed)
    assert chosen.reason_key == f"precision.{reason}"
    assert (chosen.weights, chosen.trained) == (autocast, "float32")
    assert chosen.is_cpu == device.is_cpu
    assert "{" not in words(f"errors.{chosen.reason_key}", "en", **chosen.facts)


def test_pure_bf16_trains_the_weights_themselves_in_bfloat16():
    chosen = precision(A100, pure_bf16=True)
    assert (chosen.weights, chosen.trained, chosen.autocast) == ("bfloat16", "bfloat16", "float32")
    assert not chosen.is_changed


def test_the_warning_names_the_gpu_and_its_capability():
    chosen = precision(T4, bf16=True)
    text = words(f"errors.{chosen.reason_key}", "en", **chosen.facts)
    assert "Tesla T4" in text and "7.5" in text and "float16" in text


def test_the_best_device_is_the_gpu_with_the_most_free_memory():
    busy = Device("cuda", "A100", 40 * GB, 1 * GB, index=0)
    assert best_device([PLAIN_CPU, busy, Device("cuda", "T4", 16 * GB, 15 * GB, index=1)]).address == "cuda:1"
    assert best_device([PLAIN_CPU]).address == "cpu"
    twins = [Device("cuda", "T4", 16 * GB, 15 * GB, index=index) for index in (0, 1)]
    assert best_device([PLAIN_CPU, *twins]).index == 0


LISTING = """0, Tesla T4, 15360, 14923, 7.5, GPU-aaaa
1, NVIDIA A100-SXM4-40GB, 40960, 40000, 8.0, GPU-bbbb
2, NVIDIA GB10, [N/A], [N/A], 12.1, GPU-cccc
"""


def test_nvidia_smi_is_read():
    t4, a100, shared = parse_gpus(LISTING)
    assert t4 == Device("cuda", "Tesla T4", 15360 * 2**20, 14923 * 2**20, 0, (7, 5))
    assert (a100.address, a100.capability) == ("cuda:1", (8, 0))
    assert (shared.memory_bytes, shared.capability) == (0, (12, 1))
    assert parse_gpus("No devices were found\n") == ()


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["T4", "A100", "GB10"]),
        ("1", ["A100"]),
        ("1,0", ["A100", "T4"]),
        ("GPU-cc", ["GB10"]),
        ("GPU-", []),
        ("", []),
        ("-1", []),
        ("0,7,1", ["T4"]),
    ],
)
def test_hidden_gpus_are_not_there_and_are_numbered_as_torch_does(visible, names):
    found = parse_gpus(LISTING, visible)
    assert len(found) == len(names)
    assert all(name in device.name for name, device in zip(names, found, strict=True))
    assert [device.index for device in found] == list(range(len(names)))


def fake_nvidia_smi(folder, text: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def test_gpus_through_the_program(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_nvidia_smi(tmp_path, "echo '0, Tesla T4, 15360, 14923, 7.5, GPU-aaaa'")
    assert [device.kind for device in devices()] == ["cpu", "cuda"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus() == ()


@pytest.mark.parametrize("text", ["echo 'NVIDIA-SMI has failed'; exit 9", "exec sleep 5", "echo nonsense"])
def test_a_broken_driver_is_no_gpu(tmp_path, monkeypatch, text):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(module, "NVIDIA_SMI_TIMEOUT_S", 0.3)
    fake_nvidia_smi(tmp_path, text)
    assert gpus() == ()


CPUINFO = "\n\n".join(
    f"processor\t: {number}\nmodel name\t: Some CPU\nphysical id\t: 0\ncore id\t: {core}\nflags\t\t: fpu avx512_bf16"
    for number, core in enumerate([0, 0, 1, 1])
)


def machine(folder, **files: str):
    proc, cgroup = folder / "proc", folder / "cgroup"
    proc.mkdir(), cgroup.mkdir()
    (proc / "cpuinfo").write_text(CPUINFO)
    (proc / "meminfo").write_text("MemTotal: 16000000 kB\nMemFree: 1 kB\nMemAvailable: 9000000 kB\n")
    for name, text in files.items():
        (cgroup / name.replace("_", ".")).write_text(text)
    return proc, cgroup


def test_the_cpu_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    found = cpu(*machine(tmp_path, memory_max="max", cpu_max="max 100000"))
    assert (found.name, found.cores) == ("Some CPU", 2)
    assert (found.memory_bytes, found.free_bytes) == (16000000 * 1024, 9000000 * 1024)
    assert found.has_fast_bfloat16


def test_a_containers_limits_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    limits = {"memory_max": str(4 * GB), "memory_current": str(3 * GB), "cpu_max": "100000 100000"}
    found = cpu(*machine(tmp_path, **limits))
    assert (found.memory_bytes, found.free_bytes, found.cores) == (4 * GB, GB, 1)


def test_cores_that_the_scheduler_keeps_from_us_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3})
    assert cpu(*machine(tmp_path)).cores == 1


def test_a_system_without_proc(tmp_path):
    found = cpu(tmp_path / "none", tmp_path / "none")
    assert (found.name, found.memory_bytes, found.flags) == ("CPU", 0, frozenset())
    assert found.cores >= 1


def test_this_machine():
    found = devices()[0]
    assert found.is_cpu and found.memory_bytes > found.free_bytes > 0
    assert 1 <= recommended_threads() <= os.cpu_count()


@pytest.mark.parametrize(
    ("size", "text"), [(15360 * 2**20, "16.1 GB"), (512_000_000, "512 MB"), (0, "0 MB"), (2_500_000_000_000, "2.5 TB")]
)
def test_sizes_for_people(size, text):
    assert memory_text(size) == text


def test_no_torch_is_needed():
    rooms = "engine.catalog.devices, engine.catalog.models, engine.catalog.datasets"
    code = f"import sys, {rooms}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "datasets", "pyarrow", "numpy", "huggingface_hub"}
    assert not heavy & set(done.stdout.split())

"""A weight that reads itself, against the same weight in memory: operation by operation, whole and in pieces."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from engine.work import shards, streamed
from engine.work.shards import stored_tensors
from engine.work.streamed import OnDisk

X, IDS = torch.linspace(-1, 1, 24).reshape(2, 3, 4), torch.tensor([[3, 0, 3], [6, 1, 0]])
OPERATIONS: dict[str, Callable] = {
    "linear": lambda weight: F.linear(X, weight),
    "linear_bias": lambda weight: F.linear(X, weight, weight[:, 0]),
    "embedding": lambda weight: F.embedding(IDS, weight),
    "transposed": lambda weight: X @ weight.T,
    "sum": lambda weight: weight + 0.5 * weight.to(torch.float32),
    "norm": lambda weight: torch.linalg.norm(weight, dim=1),
    "row": lambda weight: weight[2],
    "replaced_rows": lambda weight: weight.index_copy(0, torch.tensor([1]), torch.zeros(1, 4)),
}


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def weight(request, tmp_path: Path) -> tuple[torch.Tensor, OnDisk]:
    torch.manual_seed(0)
    saved = torch.randn(7, 4).to(request.param)
    save_file({"first": torch.zeros(5), "weight": saved}, tmp_path / "model.safetensors")
    return saved.float(), OnDisk(stored_tensors(tmp_path / "model.safetensors")["weight"], "cpu")


@pytest.mark.parametrize("block", [1, 9, 1000])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_gives_what_it_gives_in_memory(name: str, block: int, weight, monkeypatch) -> None:
    monkeypatch.setattr(streamed, "BLOCK", block)
    in_memory, on_disk = weight
    with torch.no_grad():
        found = OPERATIONS[name](on_disk)
        torch.testing.assert_close(found, OPERATIONS[name](in_memory), rtol=1e-6, atol=1e-6)
    assert type(found) is torch.Tensor


def test_it_looks_like_the_weight_and_reads_nothing_for_that(weight, monkeypatch) -> None:
    in_memory, on_disk = weight
    monkeypatch.setattr(streamed, "load", None)
    assert (on_disk.shape, on_disk.dtype, on_disk.device) == (in_memory.shape, torch.float32, in_memory.device)
    assert isinstance(on_disk, nn.Parameter) and isinstance(copy.deepcopy(on_disk), OnDisk)


def test_an_embedding_reads_only_the_rows_it_looks_up(weight, monkeypatch) -> None:
    read = []
    monkeypatch.setattr(streamed, "load_rows", lambda *given: read.append(given[1:]) or shards.load_rows(*given))
    F.embedding(IDS, weight[1])
    assert read == [(0, 1), (1, 2), (3, 4), (6, 7)]


def test_modules_compute_with_it(weight) -> None:
    in_memory, on_disk = weight
    layer = nn.Linear(4, 7)
    layer._parameters["weight"] = on_disk
    with torch.no_grad():
        torch.testing.assert_close(layer(X), F.linear(X, in_memory, layer.bias))

"""The arithmetic of merging alone, and the safetensors files it is written to."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from engine.errors import UserError
from engine.work.folding import merged_weight, merged_weight_dora
from engine.work.shards import in_shards, load, shard_names, stored_tensors, write_model


def test_merged_weight_is_the_sum() -> None:
    weight, a, b = torch.randn(5, 7), torch.randn(2, 7), torch.randn(5, 2)
    before = [x.clone() for x in (weight, a, b)]
    expected = (weight.double() + 0.5 * b.double() @ a.double()).float()
    torch.testing.assert_close(merged_weight(weight, a, b, 0.5), expected)
    assert all(torch.equal(x, y) for x, y in zip(before, (weight, a, b), strict=True))


def test_small_updates_are_added_in_float32() -> None:
    """A weight of 1 and two updates of 0.003 each: in bfloat16 the product 0.006 counts, rounded only once."""
    weight = torch.ones(1, 1, dtype=torch.bfloat16)
    a = torch.full((2, 1), 0.003, dtype=torch.bfloat16)
    merged = merged_weight(weight, a, torch.ones(1, 2, dtype=torch.bfloat16), 1.0)
    assert merged.dtype == torch.bfloat16
    assert float(merged) == float(torch.tensor(1.0 + 2 * float(a[0, 0])).bfloat16()) > 1


def test_shapes_that_do_not_chain_are_named() -> None:
    with pytest.raises(ValueError, match=r"W \(5, 7\), A \(2, 6\), B \(5, 2\)"):
        merged_weight(torch.zeros(5, 7), torch.zeros(2, 6), torch.zeros(5, 2), 1.0)


def test_dora_gives_each_row_its_length() -> None:
    weight, a, b, length = torch.randn(5, 7), torch.randn(2, 7), torch.randn(5, 2), torch.rand(5) + 1
    merged = merged_weight_dora(weight, a, b, 0.5, length, dim=1)
    torch.testing.assert_close(merged.norm(dim=1), length)
    columns = merged_weight_dora(weight, a, b, 0.5, torch.ones(7), dim=0)
    torch.testing.assert_close(columns.norm(dim=0), torch.ones(7))


def test_shards_are_filled_in_order() -> None:
    sizes = {"a": 4, "b": 4, "c": 4, "large": 30, "d": 1}
    assert in_shards(sizes, 8) == [["a", "b"], ["c"], ["large"], ["d"]]
    assert shard_names(1) == ["model.safetensors"]
    assert shard_names(12)[1] == "model-00002-of-00012.safetensors"


def test_files_read_back_as_written(tmp_path: Path) -> None:
    """By the safetensors library as by our own reader, for every dtype, shapes without a side or of size 0 included."""
    tensors = {
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(3, 5).half(),
        "brain": torch.randn(7).bfloat16(),
        "single": torch.randn(2, 3).T,
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "whole": torch.arange(5),
    }
    contents = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    assert sorted(write_model(tmp_path, contents, 10**9, tensors.__getitem__)) == sorted(tensors)
    file = tmp_path / "model.safetensors"
    by_library, stored = load_file(file), stored_tensors(file)
    for name, tensor in tensors.items():
        assert torch.equal(by_library[name], tensor)
        assert torch.equal(load(stored[name]), tensor)
    with safe_open(file, framework="pt") as content:
        assert content.metadata() == {"format": "pt"}


def test_cut_off_file_is_refused(tmp_path: Path) -> None:
    list(write_model(tmp_path, {"x": ((100,), torch.float32)}, 10**9, lambda name: torch.zeros(100)))
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError) as caught:
        stored_tensors(file)
    assert caught.value.key == "merge.file_broken"

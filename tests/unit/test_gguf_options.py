"""Types of a GGUF job: one or several, none, and those that need an importance matrix; expected sizes from headers."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from engine.catalog.gguf_sizes import expected_sizes
from engine.errors import Refused
from engine.options.command import parse, preview
from engine.options.jobs import GgufJob


def problems(*words: str) -> list[str]:
    with pytest.raises(Refused) as caught:
        parse(GgufJob, list(words))
    return [problem.key for problem in caught.value.problems]


@pytest.mark.parametrize("words", [["--outtype", "q8_0,q4_k_m"], ["--outtype", "q8_0", "q4_k_m"],
                                   ["outtype=q8_0, q4_k_m"]])  # fmt: skip
def test_several_types_are_a_list(words):
    job = parse(GgufJob, words).job
    assert job.outtype == ("q8_0", "q4_k_m") and "--outtype q8_0,q4_k_m" in preview(job)


def test_one_type_is_one():
    assert parse(GgufJob, ["--outtype", "q4_0"]).job.outtype == ("q4_0",) == GgufJob(outtype="q4_0").outtype


def test_types_that_cannot_be_made():
    assert problems("--outtype", "q8_0,q9_9") == ["not_a_choice"]
    assert problems("--outtype=") == ["outtype_missing"]
    assert problems("--outtype", "q2_k,iq2_xxs") == ["outtype_needs_imatrix"]
    assert parse(GgufJob, ["--outtype", "iq2_xxs", "--imatrix", "m.dat"]).job.imatrix == "m.dat"


def write_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    content = {name: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for name, shape in shapes.items()}
    header = json.dumps(content).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def test_sizes_are_counted_from_shapes(tmp_path: Path):
    """By hand: a block of q8_0 is 34 bytes for 32 weights, of q4_0 18; norms are float32, the output layer finer."""
    write_header(tmp_path / "model-1.safetensors", {"model.layers.0.mlp.up_proj.weight": (512, 256)})
    write_header(tmp_path / "model-2.safetensors", {"lm_head.weight": (1000, 256), "model.norm.weight": (256,)})
    found = expected_sizes(tmp_path)
    assert found["f16"] == 2 * (512 + 1000) * 256 + 4 * 256
    assert found["q8_0"] == (512 + 1000) * 256 // 32 * 34 + 4 * 256
    assert found["q4_0"] == 512 * 256 // 32 * 18 + 1000 * 256 // 32 * 34 + 4 * 256
    assert found["q6_k"] < found["q8_0"] and found["q4_k_m"] < found["q5_k_m"]


def test_no_sizes_where_there_is_nothing_to_count(tmp_path: Path):
    assert expected_sizes(tmp_path) == {} and expected_sizes(tmp_path / "none") == {}
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0no json!")
    assert expected_sizes(tmp_path) == {}

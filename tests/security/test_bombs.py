"""Files that mean harm: archives, links, devices, bombs of every format, weights that are programs, poisoned configs."""

# ruff: noqa: E501, an attack is left in one line

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from engine.catalog.entry import Entry
from engine.catalog.pages import page_of_rows
from engine.catalog.recognise import recognise
from engine.catalog.shape import shape_of
from engine.errors import UserError
from engine.options.jobs import ChatJob
from tests.conftest import PROJECT

ALL_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".pkl", ".pickle", ".pt",
                ".bin", ".npy", ".npz", ".h5", ".exe", ".sh", ".py", ".html", ".xlsx", ".xml", ".yaml", ".sqlite", "")  # fmt: skip


class Program:
    """An object whose unpickling runs a command."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self):
        return os.system, (f"touch '{self._mark}'",)


def looked_at(path: Path) -> None:
    """All that the Data tab does with a file that was brought."""
    recognise(path)
    page_of_rows(Entry("x", path), 0, 5)


def archive(kind: str) -> bytes:
    """With a name that leads out of the folder, a link, and a gigabyte of zeros."""
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
            made.writestr("../../../../tmp/slipped", "x")
            made.writestr("bomb.json", b"0" * 50_000_000)
    elif kind == "tar":
        with tarfile.open(fileobj=data, mode="w:gz") as made:
            link = tarfile.TarInfo("link.json")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            made.addfile(link)
            made.addfile(tarfile.TarInfo("../../slipped"))
    else:
        data.write(gzip.compress(b"[" + b"0," * 20_000_000 + b"0]"))
    return data.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "gz"])
@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet", ".arrow"])
def test_an_archive_under_another_name(tmp_path, kind, suffix):
    """Nothing is ever unpacked: it is a broken file of the kind that its name says."""
    path = tmp_path / f"data{suffix}"
    path.write_bytes(archive(kind))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError) as caught:
        looked_at(path)
    assert caught.value.text("en") and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", ALL_SUFFIXES)
def test_other_kinds_are_refused_by_their_name(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    path.write_bytes(pickle.dumps(Program(tmp_path / "ran")))
    with pytest.raises(UserError):
        looked_at(path)
    assert not (tmp_path / "ran").exists()


TEXTS = {
    "deep": (".json", b"[" * 1_000_000), "deep rows": (".jsonl", b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
    "deep in a row": (".json", b'[{"instruction": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]"),
    "a long number": (".json", b'[{"instruction": 1' + b"0" * 1_000_000 + b"}]"),
    "a big exponent": (".jsonl", b'{"instruction": 1e999999999, "output": -1e999999999}\n'),
    "one line without an end": (".jsonl", b'{"instruction": "' + b"a" * 80_000_000),
    "NaN": (".jsonl", b'{"instruction": NaN, "output": Infinity}\n'), "zeros": (".json", bytes(5_000_000)),
    "no text": (".csv", os.urandom(100_000)), "quotes without an end": (".csv", b'a,b\n"' + b"x,\n" * 3_000_000),
    "many columns": (".csv", b"a," * 500_000 + b"\n" + b"1," * 500_000), "half a letter": (".jsonl", b'{"a": "\xff\xfe'),
    "surrogates": (".jsonl", b'{"instruction": "\\ud800", "output": "\\udfff"}\n'),
    "the same key": (".jsonl", b'{"instruction": "a", "instruction": {"__class__": "x"}, "output": []}\n'),
    "no parquet": (".parquet", b"PAR1" + os.urandom(5000) + struct.pack("<I", 2**31) + b"PAR1"),
    "no arrow": (".arrow", b"ARROW1\0\0" + os.urandom(5000) + b"ARROW1"), "huge arrow": (".arrow", b"\xff" * 4 + b"\x7f" * 9000),
}  # fmt: skip


@pytest.mark.parametrize("why", TEXTS)
def test_a_bomb_of_text(tmp_path, little_memory, why):
    """Read, or refused with a sentence; no other exception, and not more memory than there is."""
    suffix, content = TEXTS[why]
    path = tmp_path / f"data{suffix}"
    path.write_bytes(content)
    try:
        looked_at(path)
    except UserError as error:
        assert error.text("ru")


def test_a_parquet_that_unpacks_to_gigabytes(tmp_path, little_memory):
    """A hundred million times the same letter, in some kilobytes."""
    import pyarrow
    from pyarrow import parquet

    path = tmp_path / "data.parquet"
    row = pyarrow.array(["a" * 1_000_000])
    table = pyarrow.table(
        {"instruction": pyarrow.chunked_array([row] * 400), "output": pyarrow.chunked_array([row] * 400)}
    )
    parquet.write_table(table, path, compression="zstd", use_dictionary=True)
    assert path.stat().st_size < 5_000_000
    try:
        looked_at(path)
    except UserError as error:
        assert error.text("en")


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "gone"])
def test_what_is_no_file(tmp_path, kind):
    """In a process that is ended where it waits for ever."""
    path = tmp_path / "data.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.symlink_to({"device": "/dev/zero", "loop": path}[kind])
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(PROJECT)!r})
from engine.errors import UserError
from tests.security.test_bombs import looked_at
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
try:
    looked_at(Path({str(path)!r}))
except UserError as error:
    print("REFUSED", error.text("en"))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=40, check=False)
    assert "REFUSED" in answer.stdout, answer.stderr[-1500:]


HEADERS = {
    "a length without an end": struct.pack("<Q", 2**63), "all of it": struct.pack("<Q", 2**64 - 1), "nothing": b"",
    "half a length": b"\1\2\3", "longer than the file": struct.pack("<Q", 10**8) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"[[[[", "a list": struct.pack("<Q", 2) + b"[]",
    "deep": struct.pack("<Q", 400_000) + b'{"a":' * 80_000,
    "no shape": struct.pack("<Q", 9) + b'{"a": {}}', "a number": struct.pack("<Q", 8) + b'{"a": 1}',
    "too large": struct.pack("<Q", 75) + json.dumps(
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}).ljust(75).encode(),
    "one over the other": struct.pack("<Q", 160) + json.dumps(
        {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}).ljust(160).encode() + bytes(8),
}  # fmt: skip


@pytest.mark.parametrize("why", HEADERS)
def test_a_bomb_in_the_header_of_weights(tmp_path, why):
    """Wherever weights are read: the form's sizes, merging, GGUF."""
    from engine.catalog.gguf_sizes import expected_sizes
    from engine.work.gguf.source import read_weights
    from engine.work.shards import stored_tensors

    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    file = tmp_path / "model.safetensors"
    file.write_bytes(HEADERS[why])
    with pytest.raises(UserError):
        stored_tensors(file)
    with pytest.raises(UserError):
        read_weights(tmp_path)
    shape_of(str(tmp_path))  # on the page, which goes on whatever they say
    expected_sizes(tmp_path)


def hostile(tiny_model: Path, folder: Path, has_weights: bool = False) -> Path:
    folder.mkdir()
    for path in tiny_model.iterdir():
        if has_weights or path.suffix != ".safetensors":
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00001.bin"])
def test_weights_that_are_programs_are_not_run(tiny_model, tmp_path, name):
    import torch

    from engine.work.load import load_model

    folder, mark = hostile(tiny_model, tmp_path / "model"), tmp_path / "ran"
    torch.save({"model.embed_tokens.weight": Program(mark)}, folder / name)
    if "-of-" in name:
        index = {"metadata": {"total_size": 1}, "weight_map": {"model.embed_tokens.weight": name}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError) as caught:
        load_model(folder, ChatJob.from_values({"model_name_or_path": str(folder)}), torch.float32, "cpu")
    assert caught.value.key == "load.pickled" and not mark.exists()


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_code_that_came_with_a_model_is_not_run(tiny_model, tmp_path, where):
    """Unless the owner has said so at the start, and he is told how."""
    import torch

    from engine.work.load import load_model, load_tokenizer

    folder, mark = hostile(tiny_model, tmp_path / "model", has_weights=True), tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    content = json.loads((folder / where).read_text())
    content["auto_map"] = {name: "evil.Evil" for name in ("AutoConfig", "AutoModelForCausalLM")} | {
        "AutoTokenizer": ["evil.Evil", "evil.Evil"]
    }
    content |= {"model_type": "evil", "tokenizer_class": "Evil"}
    (folder / where).write_text(json.dumps(content))
    job = ChatJob.from_values({"model_name_or_path": str(folder)})
    for load in (lambda: load_tokenizer(folder, job), lambda: load_model(folder, job, torch.float32, "cpu")):
        try:
            load()
        except UserError as error:
            assert error.key in ("load.remote_code", "load.model_unreadable")
    assert not mark.exists()


def test_trusting_code_is_no_setting_of_the_page(page):
    """Options that let programs run are typed where the page is started, and no control, file or event sets them."""
    ids = {getattr(block, "elem_id", None) or "" for block in page.blocks.values()}
    for name in ("trust_remote_code", "on_finish", "llama_cpp_dir"):
        assert not any(each.endswith(name) for each in ids), name


@pytest.mark.parametrize(
    "poison",
    [{"auto_mapping": {"base_model_class": "x", "parent_library": "evil"}}, {"megatron_core": "evil", "megatron_config": {"a": 1}},
     {"base_model_name_or_path": "/etc/passwd"}, {"peft_type": "evil"}, {"peft_type": "../../evil"}, {"r": 10**12},
     {"target_modules": "(a+)+$"}, {"task_type": "evil"}, {"peft_version": "x" * 10**6}, {"runtime_config": {"a": "b"}},
     {"init_lora_weights": "evil"}, {"layer_replication": [[0, 10**9]]}],
    ids=str,
)  # fmt: skip
def test_a_poisoned_adapter(tiny_model, tmp_path, monkeypatch, poison):
    """It is loaded as if the poison were not there, or refused with a sentence; it imports and reads nothing else."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from engine.work.load import apply_adapters, load_model

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    adapter = tmp_path / "adapter"
    get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=2, target_modules=["q_proj"])
    ).save_pretrained(adapter)
    config = json.loads((adapter / "adapter_config.json").read_text()) | poison
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    job = ChatJob.from_values({"model_name_or_path": str(tiny_model)})
    base = load_model(tiny_model, job, torch.float32, "cpu")
    try:
        apply_adapters(base, (str(adapter),))
    except UserError as error:
        assert error.text("en")
    assert not (tmp_path / "ran").exists()


def test_a_pickled_adapter_is_not_run(tiny_model, tmp_path):
    import torch

    from engine.work.load import apply_adapters, load_model

    adapter, mark = tmp_path / "adapter", tmp_path / "ran"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]}')
    torch.save({"x": Program(mark)}, adapter / "adapter_model.bin")
    base = load_model(tiny_model, ChatJob.from_values({"model_name_or_path": str(tiny_model)}), torch.float32, "cpu")
    with pytest.raises(UserError, match="pickle"):
        apply_adapters(base, (str(adapter),))
    assert not mark.exists()

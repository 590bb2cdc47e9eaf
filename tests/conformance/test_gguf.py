"""GGUF files against the weights they come from, transformers and llama.cpp: values, tokens, logits, no halves."""

from __future__ import annotations

import json
import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.errors import UserError
from engine.options.jobs import GgufJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested
from engine.work.gguf import architecture, convert, job, making, material
from engine.work.gguf import tensors as tensors_of
from engine.work.gguf.source import read_weights
from tests.conformance.gguf_models import tiny

WHY_LLAMA = "llama-cpp-python is not installed; it is optional and built from source (requirements-llama.txt)"


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    (tmp_path / "run").mkdir()
    return Recorder(Folder(tmp_path / "run"))


@pytest.fixture
def without_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where llama-cpp-python is not installed: the import fails."""
    monkeypatch.setitem(__import__("sys").modules, "llama_cpp", None)


def make(model: Path, outfile: Path, outtype: str, recorder: Recorder, **more) -> dict:
    return job.run(GgufJob(model_name_or_path=str(model), outfile=str(outfile), outtype=outtype, **more), recorder)


def tensors(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def metadata(path: Path) -> dict:
    return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}


def warnings(recorder: Recorder) -> list[str]:
    lines = recorder.folder.events.read_text(encoding="utf-8").splitlines()
    return [event["warning"] for event in map(json.loads, lines) if "warning" in event]


def unpermuted(stored: np.ndarray, heads: int) -> np.ndarray:
    """A q or k projection of a llama .gguf as transformers has it; by hand, one row at a time."""
    size = stored.shape[0] // heads
    rows = [np.empty(0)] * stored.shape[0]
    for head in range(heads):
        for i in range(size // 2):
            rows[head * size + i] = stored[head * size + 2 * i]
            rows[head * size + size // 2 + i] = stored[head * size + 2 * i + 1]
    return np.stack(rows)


NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm"}  # fmt: skip


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16"])
def test_tensors_read_back_are_the_saved_weights(bundled_model, tmp_path, recorder, without_llama, outtype):
    outfile = tmp_path / "out" / "m.gguf"
    result = make(bundled_model, outfile, outtype, recorder)
    found, saved = tensors(outfile), load_file(bundled_model / "model.safetensors")
    kinds = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    expected_names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    for layer in range(30):
        for theirs, ours in NAMES.items():
            expected_names[f"model.layers.{layer}.{theirs}.weight"] = f"blk.{layer}.{ours}.weight"
    assert set(found) == set(expected_names.values()) and set(saved) == set(expected_names)
    for theirs, weight in saved.items():
        name = expected_names[theirs]
        values = gguf.quants.dequantize(found[name].data, found[name].tensor_type)
        if ".attn_q." in name or ".attn_k." in name:
            values = unpermuted(values, 9 if ".attn_q." in name else 3)
        kind = torch.float32 if weight.dim() == 1 else kinds[outtype]
        assert found[name].tensor_type.name == {v: k for k, v in kinds.items()}[kind].upper()
        assert torch.equal(torch.from_numpy(np.array(values)), weight.to(kind).float()), name
    assert result["size_bytes"] == outfile.stat().st_size
    assert result["verified"]["values_equal"] == len(saved)


def test_q8_0_is_as_close_as_eight_bits_can_be(bundled_model, tmp_path, recorder, without_llama):
    outfile = tmp_path / "m.gguf"
    make(bundled_model, outfile, "q8_0", recorder)
    stored = tensors(outfile)["blk.7.ffn_down.weight"]
    weight = load_file(bundled_model / "model.safetensors")["model.layers.7.mlp.down_proj.weight"].float().numpy()
    step = np.abs(weight).reshape(-1, 32).max(-1, keepdims=True) / 127
    error = np.abs(gguf.quants.dequantize(stored.data, stored.tensor_type) - weight).reshape(-1, 32)
    assert stored.tensor_type.name == "Q8_0"
    assert (error <= step * 0.57).all() and error.max() > 0


def test_metadata(bundled_model, tmp_path, recorder, without_llama):
    outfile = tmp_path / "m.gguf"
    make(bundled_model, outfile, "f16", recorder)
    found, tokenizer = metadata(outfile), AutoTokenizer.from_pretrained(bundled_model)
    assert found["general.architecture"] == "llama" and found["general.name"]
    assert found["tokenizer.ggml.model"] == "gpt2" and found["tokenizer.ggml.pre"] == "smollm"
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert found["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    kinds = found["tokenizer.ggml.token_type"]
    assert [kinds[1], kinds[2], kinds[100]] == [gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, gguf.TokenType.NORMAL]
    assert (found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert found["tokenizer.ggml.add_bos_token"] is False
    assert found["llama.attention.head_count_kv"] == 3 and found["llama.rope.freq_base"] == 100000
    assert found["general.file_type"] == 1 and found["llama.rope.dimension_count"] == 64


@pytest.mark.slow
def test_f16_says_what_the_model_says(bundled_model, tmp_path, recorder):
    """First 20 greedy tokens, each side left to itself: transformers in float32, llama.cpp with the f16 file."""
    llama_cpp = pytest.importorskip("llama_cpp", reason=WHY_LLAMA)
    outfile = tmp_path / "m.gguf"
    verified = make(bundled_model, outfile, "f16", recorder)["verified"]
    assert verified["greedy_equal"] == [20, 20, 20] and verified["logit_max_difference"] < 0.1
    assert "gguf.greedy_differs" not in warnings(recorder)
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    theirs = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32)
    ours = llama_cpp.Llama(str(outfile), n_ctx=256, n_gpu_layers=0, verbose=False, n_threads=2)
    for text in ("What is the capital of France?", "Name three colours.", "Write a haiku about the sea."):
        messages = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        assert ours.tokenize(prompt.encode(), add_bos=False, special=True) == ids
        wanted = theirs.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :].tolist()
        ours.reset()
        stream = ours.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0)
        assert [next(stream) for _ in wanted] == wanted, text
    ours.close()


def test_sharded_is_the_same_file_as_single(tiny_model, tmp_path, recorder, without_llama):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    for name, size in (("single", "5GB"), ("sharded", "200KB")):
        folder = tmp_path / name / "model"
        model.save_pretrained(folder, max_shard_size=size)
        tokenizer.save_pretrained(folder)
        make(folder, tmp_path / f"{name}.gguf", "f16", recorder)
    assert len(list((tmp_path / "sharded" / "model").glob("*.safetensors"))) > 2
    single, sharded = tensors(tmp_path / "single.gguf"), tensors(tmp_path / "sharded.gguf")
    assert set(single) == set(sharded)
    for name, tensor in single.items():
        assert np.array_equal(tensor.data, sharded[name].data), name
    one, other = metadata(tmp_path / "single.gguf"), metadata(tmp_path / "sharded.gguf")
    assert one == other


def test_chunks_make_the_same_file(tiny_model, tmp_path, recorder, without_llama, monkeypatch):
    make(tiny_model, tmp_path / "a.gguf", "q8_0", recorder)
    monkeypatch.setattr(tensors_of, "CHUNK_BYTES", 4096)
    make(tiny_model, tmp_path / "b.gguf", "q8_0", recorder)
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_default_name_and_neighbours(tiny_model, tmp_path, recorder, without_llama):
    copy = tmp_path / "merged"
    copy.mkdir()
    for path in tiny_model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    result = job.run(GgufJob(model_name_or_path=str(copy)), recorder)
    assert Path(result["outfile"]) == copy / "merged-Q8_0.gguf"
    assert Path(result["modelfile"]) == copy / "Modelfile"
    assert (copy / "Modelfile").read_text(encoding="utf-8").startswith("FROM ./merged-Q8_0.gguf\n")
    second = job.run(GgufJob(model_name_or_path=str(copy), outtype="f16"), recorder)
    assert Path(second["modelfile"]) == copy / "merged-F16.Modelfile"
    report = json.loads((copy / "merged-F16.gguf.report.json").read_text(encoding="utf-8"))
    assert report["verified"]["tensors"] == second["verified"]["tensors"]
    assert "gguf.not_run" in warnings(recorder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to stand for a full disk")
def test_a_full_disk_leaves_what_was_there(tiny_model, tmp_path, recorder, without_llama, monkeypatch):
    outfile = tmp_path / "m.gguf"
    outfile.write_bytes(b"the one before")
    outfile.with_name(".m.gguf.lathe.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError) as caught:
        make(tiny_model, outfile, "f32", recorder)
    assert caught.value.key == "disk_full"
    assert outfile.read_bytes() == b"the one before"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["m.gguf"]


def test_too_little_space_is_told_before_the_start(tiny_model, tmp_path, recorder, without_llama, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(making.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError) as caught:
        make(tiny_model, tmp_path / "m.gguf", "f32", recorder)
    assert caught.value.key == "gguf.disk_too_small" and not list(tmp_path.glob("*m.gguf*"))


def test_stopping_leaves_nothing(tiny_model, tmp_path, recorder, without_llama):
    recorder.folder.stop_request.touch()
    with pytest.raises(StopRequested):
        make(tiny_model, tmp_path / "m.gguf", "f32", recorder)
    assert not list(tmp_path.glob("*m.gguf*"))


def test_a_spoilt_file_never_gets_its_name(tiny_model, tmp_path, recorder, without_llama, monkeypatch):
    write = convert.write

    def write_and_spoil(paths, *rest):
        write(paths, *rest)
        with paths["f32"].open("r+b") as file:
            file.seek(-100, os.SEEK_END)
            file.write(b"\x55")

    monkeypatch.setattr(convert, "write", write_and_spoil)
    with pytest.raises(UserError) as caught:
        make(tiny_model, tmp_path / "m.gguf", "f32", recorder)
    assert caught.value.key == "gguf.verify_failed" and not list(tmp_path.glob("*m.gguf*"))
    caught.value.text()


def test_what_cannot_be_converted_is_refused(tiny_model, tmp_path, recorder, without_llama):
    def refused(folder: Path, **more) -> str:
        with pytest.raises(UserError) as caught:
            make(folder, tmp_path / "m.gguf", more.pop("outtype", "f32"), recorder, **more)
        assert caught.value.text() and not list(tmp_path.glob("*m.gguf*"))
        return caught.value.key

    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    assert refused(copy, outtype="q4_k_m") == "gguf.llama_cpp_missing"
    for changes, key in (
        ({"architectures": ["BloomForCausalLM"]}, "gguf.architecture_unknown"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "short_factor": [1.0] * 8,
                    "long_factor": [2.0] * 8,
                }
            },
            "gguf.rope_unknown",
        ),
        ({"vocab_size": 100}, "gguf.vocabulary_too_large"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "gguf.already_quantized"),
    ):
        (copy / "config.json").write_text(json.dumps({**config, **changes}), encoding="utf-8")
        assert refused(copy) == key
    (copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    other = {
        **tokenizer,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": False, "trim_offsets": True},
    }
    (copy / "tokenizer.json").write_text(json.dumps(other), encoding="utf-8")
    assert refused(copy) == "gguf.pretokenizer_unknown"
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (copy / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:-1000])
    assert refused(copy) == "merge.file_broken"
    (copy / "model.safetensors").unlink()
    assert refused(copy) == "gguf.no_safetensors"
    for index in ("{", "{}", "[]", '{"weight_map": []}'):
        (copy / "model.safetensors.index.json").write_text(index, encoding="utf-8")
        assert refused(copy) == "gguf.weights_unreadable"


def family_and_config(folder: Path) -> tuple:
    config = architecture.read_config(folder)
    return architecture.find_architecture(config), config


def test_several_chat_templates_are_written_as_they_are_named(tiny_model, tmp_path, recorder, without_llama):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "tool_use": "{{ tools }}"}
    tokenizer.save_pretrained(copy)
    make(copy, tmp_path / "m.gguf", "f32", recorder)
    found = metadata(tmp_path / "m.gguf")
    assert found["tokenizer.chat_template"] == "{{ messages[0].content }}"
    assert found["tokenizer.chat_template.tool_use"] == "{{ tools }}"


def test_an_output_layer_that_llama_cpp_has_no_place_for_is_not_lost(bundled_model, tmp_path, recorder, without_llama):
    """Gemma 2's is always its embedding there; one that was trained by itself would be dropped without a word."""
    model = tiny("gemma2", AutoTokenizer.from_pretrained(bundled_model), tmp_path / "m", tie_word_embeddings=False)
    with pytest.raises(UserError) as caught:
        material.gather(GgufJob(model_name_or_path=str(tmp_path / "m")), recorder)
    assert caught.value.key == "gguf.tensor_unknown" and "lm_head" in caught.value.text()
    model.lm_head.weight.data = model.get_input_embeddings().weight.data.clone()
    model.save_pretrained(tmp_path / "m")
    planned = tensors_of.plan(read_weights(tmp_path / "m"), *family_and_config(tmp_path / "m"))
    assert planned and all(each.name != "output.weight" for each in planned)


def test_float16_never_overflows_in_silence():
    with pytest.raises(UserError) as caught:
        convert.encode(np.array([[1.0, 7e4]], np.float32), gguf.GGMLQuantizationType.F16, "x")
    assert caught.value.key == "gguf.too_large_for_f16" and "70000" in caught.value.text()

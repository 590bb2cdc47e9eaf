"""Several types of one conversion, importance matrices, adapters and a checkout: against llama.cpp and peft."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.catalog.gguf_sizes import expected_sizes
from engine.errors import UserError
from engine.options.jobs import GgufJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.gguf import convert, job, parity, quantize, tensors
from tests.conformance.gguf_models import tiny

llama_cpp = pytest.importorskip(
    "llama_cpp",
    reason="llama-cpp-python is not installed; it is optional and built from source (requirements-llama.txt)",
)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    (tmp_path / "run").mkdir()
    return Recorder(Folder(tmp_path / "run"))


@pytest.fixture(scope="module")
def tokenizer(bundled_model):
    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.fixture(scope="module")
def wide(tokenizer, tmp_path_factory) -> Path:
    """A Llama whose rows K-quants can divide."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    model = tiny("llama", tokenizer, folder, hidden_size=256, intermediate_size=512)
    model.get_input_embeddings().weight.data *= 10  # so that it prefers some tokens to others
    model.save_pretrained(folder)
    return folder


def stored(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def make(recorder: Recorder, model: Path, **options) -> dict:
    return job.run(GgufJob(model_name_or_path=str(model), **options), recorder)


def test_several_types_of_one_conversion(wide, tmp_path, recorder, monkeypatch):
    """Each is the file it would have been alone, under its own name, proven, and as large as was said."""
    written = []
    write = job_write()
    monkeypatch.setattr(
        "engine.work.gguf.convert.write", lambda paths, *rest: written.append(list(paths)) or write(paths, *rest)
    )
    types = ("q8_0", "q4_k_m", "q4_0", "iq4_xs")
    left_by_a_killed_job = tmp_path / "out" / "..m-Q8_0.gguf.lathe.tmp.speak-x"
    left_by_a_killed_job.mkdir(parents=True)
    result = make(recorder, wide, outfile=str(tmp_path / "out" / "m.gguf"), outtype=types)
    assert written == [["q8_0", "q4_0", "f32"]], "the weights are read once"
    assert not left_by_a_killed_job.exists()
    names = {f"m-{outtype.upper()}.gguf" for outtype in types}
    assert {path.name for path in (tmp_path / "out").glob("*.gguf")} == names
    assert [each["outtype"] for each in result["files"]] == list(types)
    for each in result["files"]:
        path = Path(each["outfile"])
        assert each["verified"]["tensors"] == 20 and each["verified"]["divergence"] >= 0 and not each["failed"]
        assert json.loads(path.with_name(f"{path.name}.report.json").read_text())["verified"] == each["verified"]
        assert path.stat().st_size == pytest.approx(each["expected_bytes"], rel=0.07)
    alone = make(recorder, wide, outfile=str(tmp_path / "alone.gguf"), outtype="q4_k_m")
    assert Path(alone["outfile"]).read_bytes() == (tmp_path / "out" / "m-Q4_K_M.gguf").read_bytes()
    assert not list(tmp_path.rglob("*.lathe.tmp*"))


def job_write():
    from engine.work.gguf import convert

    return convert.write


@pytest.mark.parametrize("outtype", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0"])
def test_quantised_bytes_are_llama_cpps(outtype, wide, tmp_path, recorder):
    make(recorder, wide, outfile=str(tmp_path / "m.gguf"), outtype=f"f32,{outtype}")
    theirs = tmp_path / "theirs.gguf"
    quantize.quantize(tmp_path / "m-F32.gguf", theirs, outtype, pure=True)
    found, wanted = stored(tmp_path / f"m-{outtype.upper()}.gguf"), stored(theirs)
    same = [name for name in wanted if np.array_equal(found[name].data, wanted[name].data)]
    assert {name for name in wanted if name not in same} <= {"token_embd.weight"}, "the output layer is finer"


def test_expected_sizes_are_those_of_llama_cpp(bundled_model, wide):
    """Every type that can be chosen has an expected size, and a smaller number of bits is never a larger file."""
    for folder in (bundled_model, wide):
        sizes = expected_sizes(folder)
        assert sizes["f32"] > sizes["bf16"] == sizes["f16"] > sizes["q8_0"] > sizes["q5_k_m"] > sizes["q4_k_m"]
        assert sizes["q4_k_m"] > sizes["q3_k_m"] >= sizes["q2_k"] >= sizes["iq2_xxs"] >= sizes["iq1_s"]


def test_a_type_that_differs_too_much_is_kept_aside(wide, tmp_path, recorder, monkeypatch):
    strict = {**parity.tolerances(), "q4_0": {"divergence": 0.0, "perplexity_ratio": 1.0, "logit_difference": 0.0}}
    monkeypatch.setattr(parity, "tolerances", lambda: strict)
    with pytest.raises(UserError) as caught:
        make(recorder, wide, outfile=str(tmp_path / "m.gguf"), outtype="q4_0,q8_0")
    assert caught.value.key == "gguf.parity_failed" and "q4_0" in caught.value.text()
    assert (tmp_path / "m-Q8_0.gguf").is_file() and (tmp_path / "m-Q4_0.gguf.failed").is_file()
    assert not (tmp_path / "m-Q4_0.gguf").exists()
    report = json.loads((tmp_path / "m-Q4_0.gguf.failed.report.json").read_text())
    assert "divergence" in report["failed"]


def test_wrong_weights_fail_by_their_answers(wide, tmp_path, recorder, monkeypatch):
    """Queries in the wrong order are a whole, well-formed file that says something else."""
    monkeypatch.setattr(tensors, "paired_order", lambda rows, heads: np.arange(rows))
    with pytest.raises(UserError) as caught:
        make(recorder, wide, outfile=str(tmp_path / "m.gguf"), outtype="f16")
    assert caught.value.key == "gguf.computed_otherwise" and (tmp_path / "m.gguf.failed").is_file()


@pytest.mark.parametrize("change", [np.zeros_like, np.flipud])
def test_a_wrong_matrix_in_a_file_of_llama_cpps_is_noticed(change, wide, tmp_path, recorder, monkeypatch):
    """A single one moves the answers less than four bits do."""
    write = convert.write

    def write_wrong(paths, planned, *rest):
        wrong = [
            replace(each, rows=lambda *at, rows=each.rows: change(rows(*at)))
            if each.name == "blk.1.attn_v.weight"
            else each
            for each in planned
        ]
        write(paths, wrong, *rest)

    monkeypatch.setattr(convert, "write", write_wrong)
    with pytest.raises(UserError) as caught:
        make(recorder, wide, outfile=str(tmp_path / "m.gguf"), outtype="q4_k_m")
    assert caught.value.key == "gguf.verify_failed" and "blk.1.attn_v.weight" in caught.value.text()
    assert not list(tmp_path.glob("*m.gguf*"))


def test_positions_that_llama_cpp_computes_otherwise_fail(tokenizer, tmp_path, recorder):
    """It does not read YaRN's attention_factor; the divergence of a model that expects hardly anything hides that."""
    yarn = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}
    tiny("llama", tokenizer, tmp_path / "m", rope_parameters={**yarn, "attention_factor": 1.3})
    with pytest.raises(UserError) as caught:
        make(recorder, tmp_path / "m", outfile=str(tmp_path / "m.gguf"), outtype="f16")
    assert caught.value.key == "gguf.computed_otherwise" and "logits" in caught.value.text()


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_importance_goes_where_it_is_said_to(form, wide, tmp_path, recorder):
    """Columns that a matrix calls important lose less; and the smallest types can be made at all."""
    matters = np.full(256, 1e-3, np.float32)
    matters[::8] = 100.0
    names = [f"blk.{layer}.{kind}.weight" for layer in (0, 1)
             for kind in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up")]  # fmt: skip
    path = tmp_path / "imatrix"
    importance = {name: matters for name in names} | {
        f"blk.{i}.ffn_down.weight": np.ones(512, np.float32) for i in (0, 1)
    }
    write_imatrix(path, importance, form)
    make(recorder, wide, outfile=str(tmp_path / "plain.gguf"), outtype="q4_k_s")
    types = "q4_k_s,iq2_xxs"
    try:
        make(recorder, wide, outfile=str(tmp_path / "m.gguf"), outtype=types, imatrix=str(path))
    except UserError as error:  # random weights suffer from two bits more than trained ones
        assert error.key == "gguf.parity_failed" and error.facts["outtype"] == "iq2_xxs"
    weight = load_file(wide / "model.safetensors")["model.layers.0.mlp.gate_proj.weight"].numpy()
    errors = []
    for file in ("plain.gguf", "m-Q4_K_S.gguf"):
        tensor = stored(tmp_path / file)["blk.0.ffn_gate.weight"]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        errors.append(float(np.abs(values - weight)[:, ::8].mean()))
    assert errors[1] < 0.8 * errors[0]
    assert list(tmp_path.glob("m-IQ2_XXS.gguf*"))


def write_imatrix(path: Path, importance: dict[str, np.ndarray], form: str) -> None:
    calls = 4
    if form == "gguf":
        writer = gguf.GGUFWriter(path, "imatrix")
        writer.add_type("imatrix")
        for name, values in importance.items():
            writer.add_tensor(f"{name}.in_sum2", values * calls)
            writer.add_tensor(f"{name}.counts", np.array([calls], np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return
    content = struct.pack("<i", len(importance))
    for name, values in importance.items():
        content += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size)
        content += (values * calls).tobytes()
    path.write_bytes(content)


def test_an_imatrix_of_another_model_is_refused(wide, tmp_path, recorder):
    for importance, key in (
        ({"blk.9.attn_q.weight": np.ones(256, np.float32)}, "gguf.imatrix_of_another_model"),
        ({"blk.0.attn_q.weight": np.ones(96, np.float32)}, "gguf.imatrix_of_another_model"),
        ({"blk.0.attn_q.weight": np.full(256, np.nan, np.float32)}, "gguf.imatrix_unreadable"),
    ):
        write_imatrix(tmp_path / "imatrix", importance, "dat")
        with pytest.raises(UserError) as caught:
            make(recorder, wide, outfile=str(tmp_path / "m.gguf"), imatrix=str(tmp_path / "imatrix"))
        assert caught.value.key == key and caught.value.text()


@pytest.mark.parametrize("special", ["plain", "rslora and a pattern"])
def test_an_adapter_beside_its_base(special, wide, tokenizer, tmp_path, recorder):
    """llama.cpp with base and adapter computes what peft does; proven in the job, and here once more."""
    options = {
        "plain": {},
        "rslora and a pattern": {"use_rslora": True, "alpha_pattern": {"down_proj": 3}, "rank_pattern": {"q_proj": 2}},
    }[special]
    model = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32)
    chosen = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj"], **options}
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **chosen)).eval()
    generator = torch.Generator().manual_seed(3)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    out = tmp_path / "lora.gguf"
    result = make(recorder, wide, adapter_name_or_path=(str(tmp_path / "adapter"),), outfile=str(out), outtype="f32")
    assert result["verified"]["greedy_equal"] == [20, 20, 20] and result["modelfile"] is None
    about = {key: field.contents() for key, field in gguf.GGUFReader(out).fields.items()}
    assert (about["general.type"], about["adapter.type"], about["adapter.lora.alpha"]) == ("adapter", "lora", 16)
    make(recorder, wide, outfile=str(tmp_path / "base.gguf"), outtype="f32")
    ids = tokenizer.encode("The quick brown fox jumps over the lazy dog, and 12 others look on.")
    with torch.inference_mode():
        wanted = adapted(torch.tensor([ids])).logits[0].numpy()
        with adapted.disable_adapter():
            without = adapted(torch.tensor([ids])).logits[0].numpy()
    ours = llama_cpp.Llama(
        str(tmp_path / "base.gguf"), lora_path=str(out), n_ctx=64, n_gpu_layers=0, n_threads=1, logits_all=True,
        type_k=0, type_v=0, verbose=False,
    )  # fmt: skip
    ours.eval(ids)
    found = ours.scores[: len(ids)].copy()
    ours.close()
    assert np.abs(wanted - without).max() > 0.05, "an adapter that changes nothing proves nothing"
    assert np.abs(found - wanted).max() < 1e-3


def test_adapters_that_a_file_cannot_hold(wide, tmp_path, recorder):
    def refused(**options) -> str:
        with pytest.raises(UserError) as caught:
            make(recorder, wide, outfile=str(tmp_path / "m.gguf"), **options)
        assert caught.value.text() and not list(tmp_path.glob("*m.gguf*"))
        return caught.value.key

    model = AutoModelForCausalLM.from_pretrained(wide)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], use_dora=True)
    get_peft_model(model, config).save_pretrained(tmp_path / "dora")
    dora = str(tmp_path / "dora")
    assert refused(adapter_name_or_path=(dora,)) == "gguf.adapter_not_plain"
    assert refused(adapter_name_or_path=(dora, dora)) == "gguf.several_adapters"
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(wide), config).save_pretrained(tmp_path / "turned")
    said = json.loads((tmp_path / "turned" / "adapter_config.json").read_text())
    (tmp_path / "turned" / "adapter_config.json").write_text(json.dumps({**said, "fan_in_fan_out": True}))
    assert refused(adapter_name_or_path=(str(tmp_path / "turned"),)) == "gguf.adapter_not_plain"
    # Embeddings that are the output layer too: llama.cpp would abort.
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "embed_tokens"])
    model = AutoModelForCausalLM.from_pretrained(wide)
    get_peft_model(model, config).save_pretrained(tmp_path / "tied", save_embedding_layers=False)
    assert refused(adapter_name_or_path=(str(tmp_path / "tied"),), outtype="f32") == "gguf.adapter_not_plain"
    assert refused(adapter_name_or_path=(dora,), outtype="q4_k_m") == "gguf.adapter_outtype"


def test_a_checkout_converts_what_is_not_declared(wide, tmp_path, recorder):
    """Here a stand-in that copies a file; it is run with the model, a temporary name and a lossless type."""
    make(recorder, wide, outfile=str(tmp_path / "known.gguf"), outtype="bf16")
    strange = tmp_path / "strange"
    strange.mkdir()
    for path in wide.iterdir():
        (strange / path.name).write_bytes(path.read_bytes())
    config = json.loads((strange / "config.json").read_text())
    (strange / "config.json").write_text(json.dumps({**config, "architectures": ["StrangeForCausalLM"]}))
    checkout = tmp_path / "llama.cpp"
    checkout.mkdir()
    options = {"outfile": str(tmp_path / "m.gguf"), "outtype": "q4_k_m", "llama_cpp_dir": str(checkout)}
    with pytest.raises(UserError) as caught:
        make(recorder, strange, **options)
    assert caught.value.key == "gguf.checkout_missing"
    script = checkout / "convert_hf_to_gguf.py"
    script.write_text("import sys; sys.exit('no such model')")
    with pytest.raises(UserError) as caught:
        make(recorder, strange, **options)
    assert caught.value.key == "gguf.checkout_failed" and "no such model" in caught.value.text()
    known = tmp_path / "known.gguf"
    script.write_text(
        "import shutil, sys\nassert sys.argv[2::2] == ['--outfile', '--outtype'] and sys.argv[5] == 'bf16'\n"
        f"shutil.copy({str(known)!r}, sys.argv[3])\n"
    )
    result = make(recorder, strange, **options)
    assert result["verified"]["greedy_tokens"] == 20 and stored(tmp_path / "m.gguf").keys() == stored(known).keys()
    with pytest.raises(UserError) as caught:
        make(recorder, strange, outfile=str(tmp_path / "n.gguf"))
    assert caught.value.key == "gguf.architecture_unknown" and "Gemma3ForCausalLM" in caught.value.text()

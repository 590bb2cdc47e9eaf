"""Every declared family, as a tiny random model: llama.cpp computes from the .gguf what transformers computes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from engine.options.jobs import GgufJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder
from engine.work.gguf import job, vocabulary
from engine.work.gguf.architecture import families
from engine.work.gguf.rope import llama3_factors
from tests.conformance.gguf_models import LLAMA3, MODELS, tiny

llama_cpp = pytest.importorskip(
    "llama_cpp",
    reason="llama-cpp-python is not installed; it is optional and built from source (requirements-llama.txt)",
)


@pytest.mark.parametrize("name", MODELS)
def test_logits_in_llama_cpp_are_transformers(name, bundled_model, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    model = tiny(name, tokenizer, tmp_path / "tiny")
    if name.startswith("qwen2"):  # transformers cuts text as Qwen does, whatever the tokens: a mixture nobody knows
        monkeypatch.setattr(vocabulary, "pretokenizer_of", lambda tokenizer: "qwen2")
    (tmp_path / "run").mkdir()
    asked = GgufJob(model_name_or_path=str(tmp_path / "tiny"), outfile=str(tmp_path / "tiny.gguf"), outtype="f32")
    verified = job.run(asked, Recorder(Folder(tmp_path / "run")))["verified"]
    if name != "internlm2":  # which transformers cannot run; its Llama is asked below
        assert verified["greedy_equal"] == [20, 20, 20] and verified["top_k_equal"] > 0.99
    ids = tokenizer.encode("The quick brown fox jumps over the lazy dog, and 12 other animals look on in silence.")
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0].numpy()
    ours = llama_cpp.Llama(
        str(tmp_path / "tiny.gguf"), n_ctx=128, n_gpu_layers=0, n_threads=1, logits_all=True, type_k=0, type_v=0,
        verbose=False,
    )  # fmt: skip
    ours.eval(ids)
    found = ours.scores[: len(ids)].copy()
    ours.close()
    assert np.abs(wanted).max() > 0.1, "a model that says nothing proves nothing"
    assert np.abs(found - wanted).max() < 1e-3


def test_every_family_is_tried():
    tried = {getattr(transformers, config_class).model_type for config_class, _ in MODELS.values()}
    tried = {kind.removesuffix("_text").replace("_moe", "moe") for kind in tried} | set(MODELS)
    assert {family.architecture for family in families()} <= tried
    classes = {name for family in families() for name in family.classes}
    assert "MistralForCausalLM" in classes and "mistral" in tried


def test_llama3_factors_are_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(hidden_size=512, num_attention_heads=4, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1.0 / 500000.0 ** (np.arange(0, 128, 2) / 128)
    assert np.allclose(plain / scaled.numpy(), llama3_factors(128, LLAMA3), rtol=1e-5)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """A small tokenizer in the manner of Llama 2, taught by this file: a letter for each space, bytes for the rest."""
    letter = "\u2581"
    learner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    learner.pre_tokenizer = pre_tokenizers.Metaspace(letter)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    learner.train_from_iterator(lines, trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    backend = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(letter), normalizers.Replace(" ", letter)])
    backend.decoder = decoders.Sequence(
        [decoders.Replace(letter, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def test_sentencepiece_tokens_are_cut_alike(tmp_path):
    """The scores, made from the order of merges, lead llama.cpp to the same tokens; bytes for what is not a piece."""
    tokenizer = sentencepiece_tokenizer()
    tiny("llama", tokenizer, tmp_path / "tiny")
    (tmp_path / "run").mkdir()
    out = tmp_path / "tiny.gguf"
    asked = GgufJob(model_name_or_path=str(tmp_path / "tiny"), outfile=str(out), outtype="f32")
    job.run(asked, Recorder(Folder(tmp_path / "run")))
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "tiny")
    ours = llama_cpp.Llama(str(out), n_ctx=128, n_gpu_layers=0, n_threads=1, vocab_only=True, verbose=False)
    lines = [line for line in Path(job.__file__).read_text(encoding="utf-8").splitlines() if line.strip()]
    for text in (*lines[:60], "  that   was hot ", "\u957f\u57ce 123\nthey\tare"):
        assert ours.tokenize(text.encode(), add_bos=True, special=False) == reloaded.encode(text), text
    assert len(reloaded.encode(" ".join(lines))) < 0.6 * len(" ".join(lines)), "merges are at work"
    ours.close()


@pytest.mark.parametrize("outtype", ["q6_k", "q4_k_m", "q2_k"])
def test_k_quants(outtype, bundled_model, tmp_path):
    """Through llama.cpp, from a temporary file that is gone afterwards; still about the model, and smaller."""
    tokenizer = AutoTokenizer.from_pretrained(bundled_model)
    tiny("llama", tokenizer, tmp_path / "tiny", hidden_size=256, intermediate_size=256)
    (tmp_path / "run").mkdir()
    out = tmp_path / "out" / "m.gguf"
    asked = GgufJob(model_name_or_path=str(tmp_path / "tiny"), outfile=str(out), outtype=outtype)
    result = job.run(asked, Recorder(Folder(tmp_path / "run")))
    assert {path.name for path in out.parent.iterdir()} == {"m.gguf", "m.gguf.report.json", "Modelfile"}
    weights = (tmp_path / "tiny" / "model.safetensors").stat().st_size
    assert out.stat().st_size < weights / 2 and result["verified"]["tensors"] == 20

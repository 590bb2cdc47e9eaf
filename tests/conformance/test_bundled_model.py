"""The bundled model's folder against its GGUF as gguf and llama.cpp read it, and against the original's config."""

from __future__ import annotations

import json

import numpy
import pytest

from engine.work.bundled import bundled_gguf

TEXTS = [
    "Hello world", "  1", "\n\n1 and 12", "a\n\n 1", "2024-05-01", "x=10**3\n\tif y:\n        return 7", "don't I'll",
    "句子中包含了哪些信息，输出json：", "naïve café — “quoted” 🙂", "<|im_start|>user\nHi<|im_end|>\n", "   ",
    "a  b   3  c",
]  # fmt: skip

# config.json, generation_config.json and tokenizer_config.json of HuggingFaceTB/SmolLM2-135M-Instruct.
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
    "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "hidden_act": "silu", "tie_word_embeddings": True,
    "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "dtype": "bfloat16",
    "initializer_range": 0.041666666666666664,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(bundled_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model)


def test_config_is_the_originals(bundled_model):
    config = json.loads((bundled_model / "config.json").read_text())
    assert {name: config.get(name) for name in CONFIG} == CONFIG
    assert config["rope_parameters"] == {"rope_theta": 100000.0, "rope_type": "default"}
    assert "quantization_config" not in config
    generation = json.loads((bundled_model / "generation_config.json").read_text())
    assert (generation["bos_token_id"], generation["eos_token_id"], generation["pad_token_id"]) == (1, 2, 2)


def test_special_tokens_are_the_originals(tokenizer):
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert tokenizer.unk_token == "<|endoftext|>"
    assert tokenizer.model_max_length == 8192
    assert len(tokenizer) == 49152
    assert tokenizer("Hi").input_ids == tokenizer("Hi", add_special_tokens=False).input_ids


def test_chat_template_is_the_originals(tokenizer):
    user, system = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be brief."}
    assert tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.apply_chat_template([system, user], tokenize=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    )


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_those_of_llama_cpp(tokenizer, text, vocabulary):
    assert tokenizer(text, add_special_tokens=False).input_ids == vocabulary(text)
    assert tokenizer.decode(vocabulary(text)) == text


@pytest.fixture(scope="module")
def vocabulary():
    llama_cpp = pytest.importorskip("llama_cpp")
    llama = llama_cpp.Llama(str(bundled_gguf()), vocab_only=True, verbose=False)
    return lambda text: llama.tokenize(text.encode(), add_bos=False, special=True)


def test_weights_are_the_ggufs(bundled_model):
    """Read by the gguf package, which shares no code with transformers' reader."""
    import gguf
    import torch
    from safetensors import safe_open

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(bundled_gguf()).tensors}
    with safe_open(bundled_model / "model.safetensors", "pt") as weights:
        for theirs, ours, heads in [
            ("token_embd.weight", "model.embed_tokens.weight", 0),
            ("blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", 9),
            ("blk.29.attn_k.weight", "model.layers.29.self_attn.k_proj.weight", 3),
            ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight", 0),
            ("output_norm.weight", "model.norm.weight", 0),
        ]:
            expected = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
            if heads:  # llama.cpp keeps the two halves of each rotated pair side by side
                rows, columns = expected.shape
                pairs = expected.reshape(heads, rows // heads // 2, 2, columns)
                expected = pairs.swapaxes(1, 2).reshape(rows, columns)
            expected = torch.from_numpy(numpy.array(expected)).to(torch.bfloat16)
            assert torch.equal(weights.get_tensor(ours), expected), ours


def test_it_knows_the_capital_of_france(bundled_model, tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"

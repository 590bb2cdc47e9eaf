"""Tiny random models of every declared family, for the tests of GGUF files. The same numbers on every machine."""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 16}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 512}

MODELS = {
    "llama": ("LlamaConfig", {}),
    "llama, own output layer and biases": (
        "LlamaConfig", {"tie_word_embeddings": False, "attention_bias": True, "head_dim": 32},
    ),
    "llama 3 rope": ("LlamaConfig", {"rope_parameters": LLAMA3}),
    "llama, linear rope": (
        "LlamaConfig", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "mistral": ("MistralConfig", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("Qwen2Config", {}),
    "qwen2, yarn": ("Qwen2Config", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3Config", {"head_dim": 32}),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 5, "no_rope_layer_interval": 4}),
    "granite": (
        "GraniteConfig",
        {"attention_multiplier": 0.1, "embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 4.0},
    ),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "hidden_activation": "gelu_pytorch_tanh"},
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 7,
         "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}},
    ),
    "phi3": ("Phi3Config", {"original_max_position_embeddings": 2048, "tie_word_embeddings": False}),
    "phi3, longrope": (
        "Phi3Config",
        {"original_max_position_embeddings": 512, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 512,
            "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [1.5 + 0.5 * i for i in range(8)]}},
    ),
    "qwen3moe": (
        "Qwen3MoeConfig",
        {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
         "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
    ),
    "internlm2": ("LlamaConfig", {"tie_word_embeddings": False}),
    "internlm3": ("LlamaConfig", {"tie_word_embeddings": False, "attention_bias": True, "head_dim": 32}),
}  # fmt: skip
"""A name → the configuration's class, and what differs from the common tiny size."""


COMMON = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip


def tiny(name: str, tokenizer, folder: Path, **more):
    """A model of a family with random weights, norms and biases included, saved in ``folder``.

    Queries and keys are large, so that attention is sharp and a wrong rotation changes the logits.

    Returns:
        The model; for InternLM, of which transformers has no class, a Llama that computes the same.
    """
    config_class, changes = MODELS[name]
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    settings = {**COMMON, "vocab_size": len(tokenizer), **special, **changes, **more}
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, config_class)(**settings)).eval()
    for parameter_name, parameter in model.named_parameters():
        drawn = np.random.default_rng(crc32(parameter_name.encode())).standard_normal(parameter.shape)
        values = torch.from_numpy(drawn).float()
        if parameter.dim() == 1:
            starts_at_one = "norm" in parameter_name and not name.startswith("gemma")
            parameter.data = 0.2 * values + (1.0 if starts_at_one else 0.0)
        else:
            is_sharp = any(each in parameter_name for each in (".q_proj.", ".k_proj.", ".qkv_proj."))
            parameter.data = 0.02 * (10 if is_sharp and name != "phi3" else 1) * values
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if name.startswith("internlm"):
        _as_internlm(name, folder, settings)
    if name.startswith("phi3"):  # so that the reference converter reads a BPE tokenizer, as of Phi 4
        path = folder / "tokenizer_config.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**content, "tokenizer_class": "GPT2Tokenizer"}), encoding="utf-8")
    return model


def _as_internlm(name: str, folder: Path, settings: dict) -> None:
    """Give a saved Llama the names of InternLM; InternLM2 keeps queries, keys and values in one matrix, by group."""
    config = {key: value for key, value in settings.items() if not key.startswith("rope")}
    kind = "InternLM2ForCausalLM" if name == "internlm2" else "InternLM3ForCausalLM"
    has_bias = name == "internlm3"
    config |= {"architectures": [kind], "model_type": name, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
               "hidden_act": "silu", "bias": has_bias, "qkv_bias": has_bias,
               "rope_scaling": {"type": "dynamic", "factor": 2.0}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if name == "internlm3":
        return
    weights, renamed = load_file(folder / "model.safetensors"), {}
    names = {"model.embed_tokens": "model.tok_embeddings", "lm_head": "output", "self_attn.o_proj": "attention.wo",
             "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
             "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for key, value in weights.items():
        for theirs, own in names.items():
            key = key.replace(theirs, own)
        if "self_attn" not in key:
            renamed[key] = value
    for layer in range(settings["num_hidden_layers"]):
        q, k, v = (weights[f"model.layers.{layer}.self_attn.{each}_proj.weight"] for each in "qkv")
        groups = [
            torch.cat([q[32 * g : 32 * g + 32], k[16 * g : 16 * g + 16], v[16 * g : 16 * g + 16]]) for g in (0, 1)
        ]
        renamed[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat(groups)
    save_file(renamed, folder / "model.safetensors")

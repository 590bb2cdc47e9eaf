"""Norms and gated activations as single operations: what is replaced, and that results and gradients stay the same."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from engine.work import fused

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
}  # fmt: skip
IDS = torch.arange(20).view(2, 10)


def a_model(config=None):
    torch.manual_seed(0)
    config = config or LlamaConfig(**SMALL)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)  # a norm that forgets its weight is found out
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.0)
    return get_peft_model(model, adapter)


def outcome(model):
    model.zero_grad()
    logits = model(input_ids=IDS).logits
    logits.square().mean().backward()
    return logits, *(each.grad for each in model.parameters() if each.requires_grad)


def layers_of(model):
    return model.base_model.model.model.layers


def test_all_norms_and_gated_activations_of_a_llama_are_replaced_and_give_the_same():
    plain = a_model()
    model = copy.deepcopy(plain)
    assert fused.fuse(model) == 3 * 3 + 1
    for own, ours in zip(outcome(plain), outcome(model), strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-6)


def test_a_norm_in_half_precision_computes_in_float32():
    """Its output is transformers' own; its gradient is nearer to the one that float64 gives than transformers' is."""
    torch.manual_seed(0)
    norm = LlamaRMSNorm(512).bfloat16().requires_grad_(False)
    norm.weight.add_(torch.randn(512) / 4)
    x, upstream = torch.randn(2, 300, 512).bfloat16(), torch.randn(2, 300, 512).bfloat16()
    exact = x.double().requires_grad_()
    scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    (exact * scale * norm.weight.double()).backward(upstream.double())
    found = {}
    for forward in (type(norm).forward, fused._norm):
        own = x.clone().requires_grad_()
        out = forward(norm, own)
        out.backward(upstream)
        found[forward] = out, (own.grad.double() - exact.grad).square().mean().item()
    (plain, error), (ours, our_error) = found.values()
    assert torch.equal(plain, ours)
    assert our_error <= error < 1e-4


def test_what_computes_differently_stays():
    model = a_model(Gemma3TextConfig(**SMALL))  # its norms multiply by 1 + weight, and its activation is gelu
    plain = copy.deepcopy(model)
    assert fused.fuse(model) == 0
    torch.testing.assert_close(outcome(model), outcome(plain), rtol=0, atol=0)


def test_a_module_of_each_kind_is_tried(monkeypatch):
    tried = []
    own = fused._gives_the_same
    monkeypatch.setattr(fused, "_gives_the_same", lambda module, forward: tried.append(module) or own(module, forward))
    model = a_model()
    fused.fuse(model)
    first = layers_of(model)[0]
    assert tried == [first.mlp, first.input_layernorm]


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_one_with_another_activation_is_told_from_the_others(name):
    model = a_model()
    layers_of(model)[1].mlp.act_fn = ACT2FN[name]
    plain = copy.deepcopy(model)
    assert fused.fuse(model) == 3 * 3
    for own, ours in zip(outcome(plain), outcome(model), strict=True):
        torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-6)

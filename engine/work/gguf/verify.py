"""Proves that a .gguf file is the model it was made from, before it gets its name.

Three questions, each harder than the one before: are all tensors there with the right values; does llama.cpp cut a
prompt into the same tokens; does it then say the same as the source model does in float32.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

from engine.errors import UserError
from engine.work.gguf.convert import Planned, encode
from engine.work.gguf.header import stored_tensors
from engine.work.gguf.vocabulary import known_text

PROMPTS = (
    "What is the capital of France?",
    "Write a Python function that returns the larger of 2 numbers.",
    "用一句话介绍长城。🏯",
)
GREEDY_TOKENS = 20
CONTEXT = 512
LARGEST_SOURCE_BYTES = 4e9
"""Of weight files: a larger source model is not loaded for comparison, as it would take twice that in memory."""

WHOLE_TYPES = (Type.F32, Type.F16, Type.BF16)
LEAST_EQUAL = 0.5
"""Share of greedy tokens below which f32, f16, bf16 or q8_0 is not the model: rounding moves only near ties."""


@dataclass(frozen=True)
class Answer:
    """What llama.cpp says to a prompt: ``logits[i]`` chose ``tokens[i]``, shape (GREEDY_TOKENS, V)."""

    prompt: list[int]
    tokens: list[int]
    logits: np.ndarray


def verify_tensors(path: Path, planned: list[Planned], types_may_differ: bool, recorder) -> dict[str, Any]:
    """Read the file back and compare it with its source.

    Args:
        types_may_differ: True after llama.cpp has chosen a type for each tensor: then only names and shapes are
            compared. Otherwise every value of f32, f16 and bf16 must be the source's, rounded once, and the first
            rows of a quantised tensor must lie within its step.

    Returns:
        ``tensors``: how many there are; ``values_equal``: in how many every value was compared.

    Raises:
        UserError: anything differs.
    """
    try:
        found = stored_tensors(path)
    except ValueError as error:
        raise UserError("gguf.verify_failed", detail=str(error)) from error
    wanted = {tensor.name for tensor in planned}
    if set(found) != wanted:
        _fail(f"tensors missing or left over: {', '.join(sorted(set(found) ^ wanted)[:8])}")
    compared = 0
    for number, tensor in enumerate(planned):
        recorder.check_stop()
        recorder.phase("verifying", number, len(planned), "tensors")
        stored = found[tensor.name]
        if stored.shape != tensor.shape:
            _fail(f"{tensor.name} has the shape {stored.shape} instead of {tensor.shape}")
        if types_may_differ:
            continue
        if stored.type != tensor.type:
            _fail(f"{tensor.name} is stored as {stored.type.name} instead of {tensor.type.name}")
        if tensor.type in WHOLE_TYPES:
            _compare_values(tensor, stored.data)
            compared += 1
        else:
            _compare_first_rows(tensor, stored.data)
    recorder.phase("verifying", len(planned), len(planned), "tensors")
    return {"tensors": len(planned), "values_equal": compared}


def llama_answers(path: Path, tokenizer, llama_cpp, recorder) -> list[Answer]:
    """Load the file in llama.cpp, on the CPU, check how it cuts the prompts, and let it answer without chance.

    The cache holds float32: a half-precision one would be an error of the run, not of the file.

    Raises:
        UserError: llama.cpp cannot load the file, cuts a prompt into other tokens, or computes no finite numbers.
    """
    try:
        model = llama_cpp.Llama(
            model_path=str(path), n_ctx=CONTEXT, n_batch=CONTEXT, n_ubatch=CONTEXT, n_gpu_layers=0, logits_all=True,
            n_threads=os.cpu_count(), n_threads_batch=os.cpu_count(), type_k=0, type_v=0, verbose=False,
        )  # fmt: skip
    except (ValueError, RuntimeError) as error:
        raise UserError("gguf.verify_failed", detail=f"llama.cpp cannot load it: {error}") from error
    try:
        texts = prompts(tokenizer)
        for text in texts:
            _same_tokens(model, tokenizer, text)
        if _tokens_of(model, known_text()) != tokenizer.encode(known_text(), add_special_tokens=False):
            recorder.warn("gguf.odd_text_differs")
        return [_answer(model, tokenizer.encode(text, add_special_tokens=False), recorder) for text in texts]
    finally:
        model.close()


def compare_with_source(folder: Path, answers: list[Answer], recorder) -> dict[str, Any]:
    """Ask the model of ``folder``, in float32, what it would have said at each place of llama.cpp's answers.

    If it agrees everywhere, its own greedy answers are the same; and where a near tie fell the other way, what follows
    can still be compared. One pass for a prompt, instead of one for a token.

    Returns:
        ``greedy_equal``: for each prompt, how many of ``greedy_tokens`` are the source's; ``logit_max_difference``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    equal, difference = [], 0.0
    for answer in answers:
        recorder.check_stop()
        with torch.inference_mode():
            output = model(torch.tensor([answer.prompt + answer.tokens[:-1]]), logits_to_keep=GREEDY_TOKENS)
        logits = output.logits[0].numpy()
        equal.append(int((logits.argmax(-1) == np.array(answer.tokens)).sum()))
        difference = max(difference, float(np.abs(logits - answer.logits).max()))
    return {"greedy_tokens": GREEDY_TOKENS, "greedy_equal": equal, "logit_max_difference": difference}


def judge(result: dict[str, Any], outtype: str, recorder) -> None:
    """Warn where greedy tokens differ; fail where they differ so much that it cannot be rounding."""
    equal, total = sum(result["greedy_equal"]), result["greedy_tokens"] * len(result["greedy_equal"])
    is_k_quant = "_k" in outtype
    if equal < LEAST_EQUAL * total and not is_k_quant:
        _fail(f"only {equal} of {total} greedy tokens are the source model's")
    if equal < total:
        recorder.warn("gguf.greedy_differs", outtype=outtype, equal=equal, total=total)


def prompts(tokenizer) -> list[str]:
    """The prompts as the chat template renders them, or as they are where there is none."""
    if not tokenizer.chat_template:
        return list(PROMPTS)
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in PROMPTS
    ]


def _compare_values(tensor: Planned, stored: np.ndarray) -> None:
    at = 0
    for chunk in tensor.chunks():
        wanted = encode(chunk, tensor.type, tensor.name)
        if not np.array_equal(stored[at : at + wanted.size], wanted):
            _fail(f"{tensor.name} does not hold the values of the model")
        at += wanted.size
    if at != stored.size:
        _fail(f"{tensor.name} has {stored.size} bytes instead of {at}")


def _compare_first_rows(tensor: Planned, stored: np.ndarray, rows: int = 64) -> None:
    """A Q8_0 value is at most half a step from the source's; a step is its block's largest value / 127, in float16."""
    wanted = tensor.rows(0, min(rows, tensor.shape[0]))
    found = gguf.quants.dequantize(stored.reshape(tensor.shape[0], -1)[: wanted.shape[0]], tensor.type)
    block = gguf.GGML_QUANT_SIZES[tensor.type][0]
    error = np.abs(found - wanted).reshape(-1, block).max(-1)
    largest = np.abs(wanted).reshape(-1, block).max(-1)
    if not (error <= largest * (0.5 / 127 + 2**-11) + 2**-20).all():
        _fail(f"{tensor.name} is further from the model than {tensor.type.name} rounds")


def _same_tokens(model, tokenizer, text: str) -> None:
    wanted = tokenizer.encode(text, add_special_tokens=False)
    found = _tokens_of(model, text)
    if found != wanted:
        at = next(
            (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b), min(len(found), len(wanted))
        )
        raise UserError(
            "gguf.tokens_differ", text=text[:80], position=at, llama=found[at : at + 5], own=wanted[at : at + 5]
        )


def _tokens_of(model, text: str) -> list[int]:
    return model.tokenize(text.encode("utf-8"), add_bos=False, special=True)


def _answer(model, prompt: list[int], recorder) -> Answer:
    model.reset()
    model.eval(prompt)
    tokens, logits = [], []
    while True:
        recorder.check_stop()
        logits.append(model.scores[model.n_tokens - 1].copy())
        if not np.isfinite(logits[-1]).all():
            _fail("llama.cpp computes no finite numbers with it")
        tokens.append(int(logits[-1].argmax()))
        if len(tokens) == GREEDY_TOKENS:
            return Answer(prompt, tokens, np.stack(logits))
        model.eval(tokens[-1:])


def _fail(detail: str) -> None:
    raise UserError("gguf.verify_failed", detail=detail)

"""Does a .gguf file say what its source model says? The same tokens go through both, and what each expects is compared.

The source speaks once, in float32, however many files are made from it: it answers a few prompts, rendered by its chat
template, without chance. Each file then reads prompt and answer, and is asked at every place what comes next.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from signal import SIGILL
from typing import Any

import numpy as np
import yaml

from engine.catalog.rendering import Renderer
from engine.work.gguf.speak import Crashed, speak
from engine.work.gguf.verify import compare_tokens, fail
from engine.work.gguf.vocabulary import known_text

TOLERANCES = Path(__file__).with_name("tolerances.yaml")
PROMPTS = (
    "What is the capital of France?",
    "Write a Python function that returns the larger of 2 numbers.",
    "\u7528\u4e00\u53e5\u8bdd\u4ecb\u7ecd\u957f\u57ce\u3002\U0001f3ef",
)
GREEDY_TOKENS = 20
TOP_K = 10


@dataclass(frozen=True)
class Spoken:
    """A prompt with the source's answer to it: T tokens, the last ``GREEDY_TOKENS`` of which are the answer.

    ``logits`` are the source's, shape (T, V); None where it could not be asked, and the tokens are the prompt alone.
    """

    tokens: list[int]
    logits: np.ndarray | None


def prompts(tokenizer) -> list[str]:
    """The prompts as the chat template renders them, or as they are where there is none."""
    if not tokenizer.chat_template:
        return list(PROMPTS)
    renderer = Renderer(tokenizer.chat_template, dict(tokenizer.special_tokens_map), model=tokenizer.name_or_path)
    return [renderer.render([{"role": "user", "content": text}], add_generation_prompt=True) for text in PROMPTS]


def ask_source(folder: Path, tokenizer, trust_remote_code: bool, recorder, adapter: Path | None = None) -> list[Spoken]:
    """What the source model, with its adapter if there is one, answers, and what it expects at every place.

    Returns:
        One for each prompt; without logits where the model does not fit into memory, or transformers does not know its
        class. Both are told as warnings.
    """
    asked = [tokenizer.encode(text, add_special_tokens=False) for text in prompts(tokenizer)]
    needed, free = memory_needed(folder), free_memory()
    if needed > free:
        recorder.warn("gguf.source_too_large", needed=f"{needed / 1e9:.1f}", free=f"{free / 1e9:.1f}")
        return [Spoken(tokens, None) for tokens in asked]
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=trust_remote_code
        ).eval()
    except (ValueError, ImportError, AttributeError) as error:  # a class of its own, or one for an older transformers
        recorder.warn("gguf.source_not_run", detail=str(error).splitlines()[0])
        return [Spoken(tokens, None) for tokens in asked]
    if adapter is not None:
        from engine.work.load import apply_adapters

        model = apply_adapters(model, (str(adapter),))
    spoken = []
    with torch.inference_mode():
        for tokens in asked:
            tokens = list(tokens)
            output = model(torch.tensor([tokens]), use_cache=True)
            rows = [output.logits[0]]
            for left in range(GREEDY_TOKENS, 0, -1):
                recorder.check_stop()
                tokens.append(int(rows[-1][-1].argmax()))
                if left > 1:
                    output = model(torch.tensor([tokens[-1:]]), past_key_values=output.past_key_values, use_cache=True)
                    rows.append(output.logits[0])
            spoken.append(Spoken(tokens[:-1], torch.cat(rows).numpy()))
    return spoken


def memory_needed(folder: Path) -> float:
    """Bytes for the source model in float32, with some room to compute."""
    from engine.work.gguf.source import read_weights

    return 1.1 * 4 * sum(float(np.prod(weight.shape)) for weight in read_weights(folder).values())


def free_memory() -> float:
    import psutil

    return psutil.virtual_memory().available


def compare(path: Path, tokenizer, spoken: list[Spoken], recorder, adapter: Path | None = None) -> dict[str, Any]:
    """Let llama.cpp read with a file, on the CPU, beside an adapter's file if one is given; compare with the source.

    Returns:
        ``prompt_tokens_equal``: how many prompts were cut alike. Where the source was asked: ``greedy_equal``, for each
        prompt, how many of the answer's ``greedy_tokens`` the file would have chosen too; ``top_k_equal``, the mean
        share of the source's ten likeliest tokens that are among the file's; ``perplexity`` and ``perplexity_source``
        of all tokens; ``divergence``, the mean of Kullback and Leibler's in nats; ``logit_max_difference``;
        ``logit_difference``, the root mean square as a share of the source's own.

    Raises:
        UserError: llama.cpp cannot load the file, cuts a prompt into other tokens, or computes no finite numbers.
    """
    texts = [*prompts(tokenizer), known_text()]
    asked = [each.tokens for each in spoken]
    result: dict[str, Any] = {"prompt_tokens_equal": len(spoken)}
    try:
        cut, found = speak(path, texts, asked, recorder, adapter)
    except Crashed as crash:
        if crash.args[0] != SIGILL:
            fail(f"llama.cpp ended by signal {crash}")
        recorder.warn("gguf.not_computed_here", path=path)  # nothing is wrong with the file
        return {"prompt_tokens_equal": 0}
    compare_tokens(cut, tokenizer, texts, recorder)
    if not all(np.isfinite(logits).all() for logits in found):
        fail("llama.cpp computes no finite numbers with it")
    return result | (_compared(spoken, found) if spoken[0].logits is not None else {})


def judge(result: dict[str, Any], outtype: str) -> str | None:
    """What is wrong with a file, as ``tolerances.yaml`` has it; None for nothing, and where nothing was compared."""
    if "divergence" not in result:
        return None
    allowed = tolerances()[outtype]
    wrong = []
    if result["divergence"] > allowed["divergence"]:
        wrong.append(f"divergence {result['divergence']:.3g} > {allowed['divergence']:g}")
    ratio = max(result["perplexity"] / result["perplexity_source"], result["perplexity_source"] / result["perplexity"])
    if ratio > allowed["perplexity_ratio"]:
        wrong.append(f"perplexity × {ratio:.3g} > {allowed['perplexity_ratio']:g}")
    if result["logit_difference"] > allowed["logit_difference"]:
        wrong.append(f"logits {result['logit_difference']:.3g} > {allowed['logit_difference']:g}")
    return "; ".join(wrong) or None


@lru_cache(maxsize=1)
def tolerances() -> dict[str, dict[str, float]]:
    """By type: the most that may differ."""
    content = yaml.safe_load(TOLERANCES.read_text(encoding="utf-8"))
    return {outtype: group["allowed"] for group in content.values() for outtype in group["types"]}


def _compared(spoken: list[Spoken], found: list[np.ndarray]) -> dict[str, Any]:
    greedy, overlaps, divergences, source_losses, file_losses, difference = [], [], [], [], [], 0.0
    apart = spread = 0.0
    for each, file_logits in zip(spoken, found, strict=True):
        source_logits = each.logits
        assert source_logits is not None
        chosen = file_logits.argmax(-1) == source_logits.argmax(-1)
        greedy.append(int(chosen[-GREEDY_TOKENS:].sum()))
        likeliest = [np.argpartition(logits, -TOP_K)[:, -TOP_K:] for logits in (source_logits, file_logits)]
        overlaps += [len(set(a) & set(b)) / TOP_K for a, b in zip(*likeliest, strict=True)]
        source_logps, file_logps = _logps(source_logits), _logps(file_logits)
        divergences += (np.exp(source_logps) * (source_logps - file_logps)).sum(-1).tolist()
        at = np.arange(len(each.tokens) - 1), np.array(each.tokens[1:])
        source_losses += (-source_logps[at]).tolist()
        file_losses += (-file_logps[at]).tolist()
        difference = max(difference, float(np.abs(source_logits - file_logits).max()))
        apart += _squares(file_logits - source_logits)
        spread += _squares(source_logits)
    return {
        "greedy_tokens": GREEDY_TOKENS, "greedy_equal": greedy, "top_k": TOP_K,
        "top_k_equal": round(float(np.mean(overlaps)), 4),
        "perplexity_source": round(float(np.exp(np.mean(source_losses))), 4),
        "perplexity": round(float(np.exp(np.mean(file_losses))), 4),
        "divergence": float(f"{max(0.0, np.mean(divergences)):.3g}"), "logit_max_difference": difference,
        "logit_difference": float(f"{np.sqrt(apart / spread):.3g}") if spread else 0.0,
    }  # fmt: skip


def _squares(logits: np.ndarray) -> float:
    """Sum of the squares around each place's mean, which changes no probability."""
    return float(np.square(logits - logits.mean(-1, keepdims=True), dtype=np.float64).sum())


def _logps(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    largest = logits.max(-1, keepdims=True)
    return logits - largest - np.log(np.exp(logits - largest).sum(-1, keepdims=True))

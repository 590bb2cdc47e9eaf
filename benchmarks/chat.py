"""How fast a chat answers: our end for transformers against plain ``generate``, and for GGUF against llama_cpp alone.

    python benchmarks/chat.py [tokens]

Each pair takes turns in one process, so that whatever else runs slows both; what is printed is the best of each.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.options.jobs import ChatJob
from engine.runs import chat
from engine.runs.folder import Folder
from engine.runs.record import Recorder

ROUNDS = 4
MESSAGES = [{"role": "user", "content": "Write a long story about a lathe and the people who work at it."}]


def best(*measured: Callable[[], float]) -> list[float]:
    """The shortest time of each, in seconds; they take turns."""
    times = [[each() for each in measured] for _ in range(ROUNDS)]
    return [min(column) for column in zip(*times, strict=True)]


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def through_worker(tokens: int, **options) -> dict[str, float]:
    """From the start of a worker to its first token; then the first token of a second answer, and all of it."""
    began = time.perf_counter()
    folder = chat.load(ChatJob(**options), owner_pid=os.getpid())
    try:
        chat.wait_until_ready(folder, 300)
        next(chat.answer(folder, MESSAGES, max_new_tokens=tokens))
        loaded = time.perf_counter() - began
        firsts, rates = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            answer = chat.answer(folder, MESSAGES, do_sample=False, max_new_tokens=tokens)
            next(answer)
            firsts.append(time.perf_counter() - began)
            last = list(answer)[-1]
            rates.append((last.tokens - 1) / (time.perf_counter() - began - firsts[-1]))
        return {"load_to_first_token_s": loaded, "first_token_s": min(firsts), "tokens_per_s": max(rates)}
    finally:
        chat.unload(folder)


def transformers_end(tokens: int) -> dict[str, float]:
    """Tokens per second of our loop, and of ``generate`` with the same model object and prompt."""
    import torch

    from engine.work.chat import pieces
    from engine.work.generate import load_for_answers

    with tempfile.TemporaryDirectory() as folder:
        job = ChatJob(do_sample=False, max_new_tokens=tokens)
        model = load_for_answers(job, Recorder(Folder(Path(folder))))
    prompt = model.encode(MESSAGES, job)
    ids = torch.tensor([prompt])
    counted: dict[str, int] = {}

    def ours() -> None:
        counted["ours"] = list(pieces(model, MESSAGES, job))[-1].tokens

    def theirs() -> None:
        with torch.inference_mode():
            made = model._model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens
            )
        counted["plain"] = made.shape[1] - len(prompt)

    ours_s, plain_s = best(lambda: timed(ours), lambda: timed(theirs))
    return {"ours_tokens_per_s": counted["ours"] / ours_s, "generate_tokens_per_s": counted["plain"] / plain_s}


def gguf_end(tokens: int) -> dict[str, float]:
    """Time per token of our loop with text, stop and pieces, and of llama_cpp's own ``generate`` without any of it."""
    from engine.work.bundled import bundled_gguf
    from engine.work.chat import pieces
    from engine.work.llama import LlamaModel

    job = ChatJob(gguf=str(bundled_gguf()), context_length=2048, do_sample=False, max_new_tokens=tokens)
    model = LlamaModel(job)
    prompt = model.encode(MESSAGES, job)
    counted: dict[str, int] = {}

    def ours() -> None:
        counted["ours"] = list(pieces(model, MESSAGES, job))[-1].tokens

    def theirs() -> None:
        model._llama.reset()
        count = 0
        for _ in model._llama.generate(prompt, top_k=job.top_k, top_p=job.top_p, min_p=0.0, temp=0.0):
            count += 1
            if count == counted["ours"]:
                break
        counted["plain"] = count

    ours()
    ours_s, plain_s = best(lambda: timed(ours), lambda: timed(theirs))
    ours_ms, plain_ms = 1000 * ours_s / counted["ours"], 1000 * plain_s / counted["plain"]
    return {"ours_ms_per_token": ours_ms, "llama_cpp_ms_per_token": plain_ms,
            "overhead_percent": 100 * (ours_ms / plain_ms - 1)}  # fmt: skip


def main(tokens: int) -> None:
    found = {"worker": through_worker(tokens), "transformers": transformers_end(tokens)}
    try:
        import llama_cpp  # noqa: F401

        found["gguf"] = gguf_end(tokens)
    except ImportError:
        found["gguf"] = {}
    for name, figures in found.items():
        print(name, json.dumps({key: round(value, 3) for key, value in figures.items()}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)

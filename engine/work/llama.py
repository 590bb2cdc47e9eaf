"""A .gguf file in llama.cpp that answers conversations; the prompt is rendered as transformers would render it."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.catalog.devices import recommended_threads
from engine.catalog.rendering import Renderer, named_template, tools_of, with_system
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.work.gguf.quantize import import_llama_cpp
from engine.work.steering import Steering

SEEDS = 2**32 - 1
"""How many there are: the number after the last one asks llama.cpp for another answer each time."""
TAIL = 16
"""Tokens at the end of a prompt that show whether it opens a thought."""


class LlamaModel:
    """A model in llama.cpp.

    Raises:
        UserError: llama-cpp-python is missing, or the file cannot be read.
    """

    def __init__(self, job: ChatJob) -> None:
        self._llama_cpp = import_llama_cpp()
        path = Path(job.gguf)
        if not path.is_file():
            raise UserError("chat.gguf_missing", path=path)
        threads = recommended_threads()
        try:
            self._llama = self._llama_cpp.Llama(
                str(path), n_ctx=job.context_length, n_threads=threads, n_threads_batch=threads, n_gpu_layers=-1,
                verbose=False,
            )  # fmt: skip
        except (ValueError, RuntimeError) as error:
            raise UserError("chat.gguf_unreadable", path=path, detail=error) from error
        template = named_template(job)
        self._template = template.chat_template if template else self._own_template()
        self.dtype = self._llama._model.desc().split()[
            -1
        ]  # "llama 135M F16"; no public name in llama-cpp-python 0.3.36
        self.device = "llama.cpp"
        self.holds_many = False  # one state, so one answer at a time
        self.vocabulary_size = self._llama.n_vocab()
        architecture = self._llama.metadata.get("general.architecture", "")
        trained_for = int(self._llama.metadata.get(f"{architecture}.context_length", self._llama.n_ctx()))
        self.context_length: int = min(self._llama.n_ctx(), trained_for)

    def encode(self, messages: list[dict[str, Any]], job: ChatJob) -> list[int]:
        """The prompt of a conversation in tokens; no token is added to what the chat template writes.

        Raises:
            UserError: the file has no chat template, or it refuses these messages.
        """
        return self.encode_rendered(self.render(messages, job))

    def render(
        self, messages: list[dict[str, Any]], job: ChatJob, tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:  # fmt: skip
        """A conversation as the chat template writes it. Raises: UserError, if it cannot."""
        return Renderer(self._template, self._special_tokens()).render(
            with_system(messages, job),
            add_generation_prompt,
            tools=tools if tools is not None else tools_of(job),
            enable_thinking=job.enable_thinking,
            preserve_thinking=job.preserve_thinking or None,
        )

    def encode_rendered(self, text: str) -> list[int]:
        """Tokens of what a chat template wrote: none is added."""
        return self._llama.tokenize(text.encode("utf-8"), add_bos=False, special=True)

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of a text as the model read texts when it was made: with a token in front, where the file says so."""
        return self._llama.tokenize(text.encode("utf-8"), add_bos=True, special=True)

    def tokens(self, prompt: list[int], job: ChatJob, steering: Steering | None = None) -> Iterator[int]:
        """Tokens of the answer, until the model ends its turn; without a limit of their number.

        llama.cpp applies top_k and top_p before the temperature, transformers after it.
        """
        is_sampled = job.do_sample and job.temperature > 0
        seed = job.sampling_seed
        self._llama.set_seed(self._llama_cpp.LLAMA_DEFAULT_SEED if seed is None else seed % SEEDS)
        self._llama.reset()  # nothing of an earlier answer is used again: a fixed seed gives the same text
        vocabulary = self._llama._model.vocab  # no public name for it in llama-cpp-python 0.3.36
        processors = [lambda ids, scores: steering.steer(scores)] if steering else None
        for token in self._llama.generate(
            prompt, top_k=job.top_k, top_p=job.top_p, min_p=0.0, temp=job.temperature if is_sampled else 0.0,
            repeat_penalty=job.repetition_penalty, logits_processor=processors,
        ):  # fmt: skip
            if self._llama_cpp.llama_vocab_is_eog(vocabulary, token):
                return
            if steering:
                steering.note(token)
            yield token

    def tail(self, prompt: list[int]) -> str:
        """How a prompt ends, its special tokens included."""
        return self._llama.detokenize(prompt[-TAIL:], special=True).decode("utf-8", errors="ignore")

    def reader(self, keeps_special: bool = False) -> BytesReader:
        return BytesReader(self._llama, keeps_special)

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for, which may be a part of a character."""
        return self._llama.detokenize([token], special=True)

    def recover(self) -> None:
        self._llama.reset()

    def _own_template(self) -> str | None:
        return self._llama.metadata.get("tokenizer.chat_template")

    def _special_tokens(self) -> dict[str, str]:
        """What a chat template may write: the text of the beginning and the end of a sequence."""
        model = self._llama._model
        found = {"bos_token": self._llama.token_bos(), "eos_token": self._llama.token_eos()}
        return {name: model.token_get_text(token) for name, token in found.items() if token >= 0}


class BytesReader:
    """Text from llama.cpp's tokens as they come. A character that is not complete yet is kept back."""

    def __init__(self, llama: Any, keeps_special: bool = False) -> None:
        self._llama = llama
        self._keeps_special = keeps_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: int) -> str:
        """What has become readable with one more token."""
        return self._decoder.decode(self._llama.detokenize([token], special=self._keeps_special))

    def finish(self) -> str:
        """Nothing: only half a character can be left, and it is dropped."""
        return ""

"""Tokens of an answer, one by one, from a model in transformers; and text from tokens, never half a character.

It does not know who asks: sampling comes from the options, everything else from the model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.catalog.devices import Device, best_device, devices, precision, recommended_threads
from engine.errors import UserError
from engine.options.generation import Generation
from engine.options.jobs import ChatJob
from engine.options.model import Model
from engine.runs.record import Recorder
from engine.runs.sides import BASE
from engine.work.download import local_model
from engine.work.load import apply_adapters, load_model, load_tokenizer, render_prompt
from engine.work.rope import longest
from engine.work.sides import Sides
from engine.work.steering import Steering

TAIL = 16
"""Tokens at the end of a prompt that show whether it opens a thought."""
FEW_ROWS = 8
"""Below so many rows, a product with bfloat16 weights is limited by memory, and the CPU's own is the fastest."""


def load_for_answers(job: ChatJob, recorder: Recorder) -> TransformersModel:
    """Load what a job names: base model, adapters, tokenizer.

    Raises:
        UserError: something of it is missing or does not fit.
    """
    device = best_device(devices())
    dtype = inference_dtype(job, device)
    path = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
    recorder.phase("loading_tokenizer")
    tokenizer = load_tokenizer(path, job)
    recorder.phase("loading_model")
    torch.set_num_threads(recommended_threads())

    def load_base() -> torch.nn.Module:
        model = load_model(path, job, dtype, device.address)
        if device.is_cpu and not device.has_fast_bfloat16:
            widen(model)
        return model

    model = load_base()
    if job.adapters:
        model = apply_adapters(model, job.adapters)
    return TransformersModel(model, tokenizer, job, path, load_base)


def inference_dtype(job: ChatJob, device: Device) -> torch.dtype:
    """The format of the weights: the one that is asked for, else the one that gives the most tokens per second.

    On a GPU that is what it computes best in. On a CPU, bfloat16: each token reads all weights once, and half as many
    bytes are read sooner. Measured with the bundled model on two cores of an EPYC with AVX2 only: 34 tokens/s in
    bfloat16, 21 in float32; the arithmetic of a long prompt is left to :class:`WideLinear`.
    """
    if job.infer_dtype != "auto":
        return getattr(torch, job.infer_dtype)
    return torch.bfloat16 if device.is_cpu else getattr(torch, precision(device).weights)


class TransformersModel:
    """A model in transformers that answers conversations.

    Args:
        path: the base model's folder; load_base: gives it anew. Needed by :meth:`use` alone.
    """

    def __init__(
        self, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, job: ChatJob, path: Any = None,
        load_base: Callable[[], torch.nn.Module] | None = None,
    ) -> None:  # fmt: skip
        self._model, self._tokenizer = model, tokenizer
        self._end_ids = end_ids(model, tokenizer, job)
        self._job, self._path = job, path
        self._sides = Sides(model, job, load_base)
        self._words: dict[str | None, tuple[PreTrainedTokenizerBase, frozenset[int]]]
        self._words = {None: (tokenizer, self._end_ids)}
        self.dtype = str(model.dtype).removeprefix("torch.")
        self.device = str(model.device)
        self.holds_many = True  # answers at once: each has a cache of its own
        self._added = frozenset(tokenizer.added_tokens_decoder)
        self.vocabulary_size = int(model.config.get_text_config().vocab_size)
        self.context_length: int = longest(model.config.get_text_config()) or 2**31

    def encode(self, messages: list[dict[str, Any]], job: ChatJob) -> list[int]:
        """The prompt of a conversation in tokens. Raises: UserError, if it cannot be rendered."""
        return self.encode_rendered(self.render(messages, job))

    def render(
        self, messages: list[dict[str, Any]], job: ChatJob, tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:  # fmt: skip
        """A conversation as the chat template writes it. Raises: UserError, if it cannot."""
        return render_prompt(self._tokenizer, messages, job, add_generation_prompt, tools)

    def encode_rendered(self, text: str) -> list[int]:
        """Tokens of what a chat template wrote: none is added."""
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of a text as the model read texts when it was made: with a token in front, where it has one."""
        return self._tokenizer(text)["input_ids"]

    def tokens(self, prompt: list[int], job: ChatJob, steering: Steering | None = None) -> Iterator[int]:
        """Tokens of the answer, until the model ends its turn; without a limit of their number."""
        return generate(self._model, prompt, job, self._end_ids, steering=steering)

    def use(self, side: str | None) -> None:
        """Answer from now on as loaded (None), as the base model alone ("base"), or with the adapter in a folder.

        Tokenizer and chat template are those it would have if it had been loaded so.

        Raises:
            UserError: the adapter cannot stand beside this base.
        """
        try:
            self._sides.switch(side)
        finally:
            self._model = self._sides.model  # which a failure may have replaced too
        if side not in self._words:
            named = {"adapter_name_or_path": () if side == BASE else (side,), "adapter_folder": None}
            job = self._job.model_copy(update=named)
            tokenizer = load_tokenizer(self._path, job)
            self._words[side] = (tokenizer, end_ids(self._model, tokenizer, job))
        self._tokenizer, self._end_ids = self._words[side]

    def tail(self, prompt: list[int]) -> str:
        """How a prompt ends, its special tokens included."""
        return self._tokenizer.decode(prompt[-TAIL:])

    def reader(self, keeps_special: bool = False) -> TextReader:
        return TextReader(self._tokenizer, keeps_special)

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for, which may be a part of a character."""
        text = self._tokenizer.convert_ids_to_tokens(token) or ""
        if token in self._added:
            return text.encode("utf-8")
        if self._has_byte_letters and all(letter in _BYTES for letter in text):
            return bytes(_BYTES[letter] for letter in text)
        if re.fullmatch("<0x[0-9A-F]{2}>", text):
            return bytes([int(text[3:5], 16)])
        return text.replace("\u2581", " ").encode("utf-8")

    @cached_property
    def _has_byte_letters(self) -> bool:
        """Whether each letter of a token stands for a byte, as in GPT-2's vocabulary and its many kin."""
        return "ByteLevel" in repr(getattr(getattr(self._tokenizer, "backend_tokenizer", None), "decoder", ""))

    def recover(self) -> None:
        """Give back what a failed answer has left in the device's memory."""
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def generate(
    model: torch.nn.Module, prompt: list[int], sampling: Generation, end_ids: frozenset[int],
    mode: Callable = torch.inference_mode, steering: Steering | None = None,
) -> Iterator[int]:  # fmt: skip
    """Tokens one by one, the same as ``model.generate`` gives them, until one of ``end_ids``.

    Its own loop, because an answer ends when its reader goes away, a failure reaches the reader, and each token costs
    about 3 ms less than there. Every answer computes its prompt anew: what an earlier answer has left in a cache
    differs in the last bits, and a fixed seed would no longer give the same text.

    Args:
        prompt: input_ids, at least one.
        sampling: greedy unless ``do_sample`` and ``temperature`` > 0. With a ``sampling_seed`` the result is
            reproducible; the global random state is never touched.
        mode: ``torch.no_grad`` for a model that is trained afterwards: what it keeps from here may then be used there.
        steering: what is done to the scores before all else.

    Source: transformers 5.23 ``GenerationMixin._sample``. Checked against it in tests/end_to_end/test_chat.py.
    """
    device = next(model.parameters()).device
    is_sampled = sampling.do_sample and sampling.temperature > 0
    processors = _processors(sampling, is_sampled)
    if steering:
        processors.insert(0, Steered(steering))
    source = torch.Generator(device=device)
    if sampling.sampling_seed is None:
        source.seed()
    else:
        source.manual_seed(sampling.sampling_seed)
    keep = {"logits_to_keep": 1} if takes(model, "logits_to_keep") else {}
    seen = torch.tensor([prompt], device=device)
    new, cache = seen, None
    while True:
        with mode():
            output = model(input_ids=new, past_key_values=cache, use_cache=True, **keep)
            scores = processors(seen, output.logits[:, -1].float())
            if is_sampled:
                chosen = torch.multinomial(functional.softmax(scores, dim=-1), 1, generator=source)
            else:
                chosen = scores.argmax(dim=-1, keepdim=True)
            seen = torch.cat([seen, chosen], dim=-1)
        cache = getattr(output, "past_key_values", None)
        new = chosen if cache is not None else seen  # a model without such a cache reads everything each time
        token = int(chosen)
        if token in end_ids:
            return
        if steering:
            steering.note(token)
        yield token


class Steered(LogitsProcessor):
    """A :class:`Steering` among transformers' own processors."""

    def __init__(self, steering: Steering) -> None:
        self._steering = steering

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._steering.steer(scores[0])
        return scores


def end_ids(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, job: Model) -> frozenset[int]:
    """Every token that ends an answer: the model's, the tokenizer's, and what the chat template puts after a turn."""
    found = set(_ids_after_turn(tokenizer, job))
    for ids in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found |= set(ids) if isinstance(ids, list) else {ids}
    return frozenset(found - {None})


class TextReader:
    """Text from tokens as they come. A character that is not complete yet is kept back."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keeps_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skips_special = not keeps_special
        self._ids: list[int] = []  # since the last text but one: the beginning of a word depends on what is before it
        self._read = 0

    def add(self, token: int) -> str:
        """What has become readable with one more token."""
        self._ids.append(token)
        before, after = self._decode(self._ids[: self._read]), self._decode(self._ids)
        if after.endswith("\ufffd") or len(after) <= len(before):
            return ""
        self._ids, self._read = self._ids[self._read :], len(self._ids) - self._read
        return after[len(before) :]

    def finish(self) -> str:
        """What is left; half a character is dropped."""
        before, after = self._decode(self._ids[: self._read]), self._decode(self._ids)
        return after[len(before) :].rstrip("\ufffd")

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skips_special, clean_up_tokenization_spaces=False)


class WideLinear(torch.nn.Linear):
    """A linear layer that multiplies many rows in float32, whatever its weights are stored in.

    For CPUs without instructions for bfloat16, where a product of one row is limited by memory (so the narrow weights
    are faster) but one of many rows by arithmetic: 16 GFLOP/s in bfloat16, 143 in float32 on an EPYC with AVX2. There
    the bundled model reads a prompt of 512 tokens in 1.3 s in place of 7.4.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.numel() < FEW_ROWS * self.in_features or self.weight.dtype == torch.float32:
            return functional.linear(input, self.weight, self.bias)
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(input.float(), self.weight.float(), bias).to(input.dtype)


def widen(model: torch.nn.Module) -> None:
    """Make every plain linear layer a :class:`WideLinear`, in place: the weights stay where they are."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = WideLinear


def _processors(sampling: Generation, is_sampled: bool) -> LogitsProcessorList:
    """In the order in which transformers applies them."""
    chosen = LogitsProcessorList()
    if sampling.repetition_penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if is_sampled:
        if sampling.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            chosen.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            chosen.append(TopPLogitsWarper(sampling.top_p))
    return chosen


def _byte_letters() -> dict[str, int]:
    """GPT-2's letter for each byte: printable ones stand for themselves, the others for letters from U+0100 on.

    Source: ``bytes_to_unicode`` in OpenAI's gpt-2, encoder.py.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_letters()


def takes(model: torch.nn.Module, argument: str) -> bool:
    """Whether a model, plain or wrapped by peft, can be given this argument."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(inner.forward).parameters


def _ids_after_turn(tokenizer: PreTrainedTokenizerBase, job: Model) -> list[int]:
    """The special token that the chat template puts behind an answer, if it does."""
    mark = "answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
    try:
        text = render_prompt(tokenizer, turns, job, add_generation_prompt=False)
    except UserError:
        return []  # without a template, or with one that wants other turns; a prompt that needs it will say so
    rest = tokenizer(text.rpartition(mark)[2], add_special_tokens=False)["input_ids"]
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [number for number in rest[:1] if number in special]

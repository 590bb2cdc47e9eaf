"""One request → what is said in answer, step by step; a step costs one token, so that requests can take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.catalog.tool_formats import Call, ToolFormat
from engine.options.jobs import ChatJob
from engine.work.answers import Said, room_for, said
from engine.work.api.asked import SEEDS, Asked
from engine.work.api.calls import CallReader, format_of
from engine.work.api.errors import ApiError
from engine.work.chat import stop_words
from engine.work.steering import Steering


@dataclass(frozen=True)
class Looked:
    """A token with what the model thought of it: bytes and natural log of the probability; and the likeliest ones."""

    content: bytes
    logp: float
    likeliest: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True)
class Begun:
    """The prompt could be read: from here on there is an answer."""

    prompt_tokens: int


@dataclass(frozen=True)
class Delta:
    """Some more of one choice; the last has a reason, and the calls."""

    index: int
    text: str
    looked: tuple[Looked, ...] = ()
    calls: tuple[Call, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Ended:
    """All choices are given."""

    prompt_tokens: int
    completion_tokens: int


Event = Begun | Delta | Ended


def answer(model: Any, asked: Asked, job: ChatJob, is_left: Callable[[], bool]) -> Iterator[Event | None]:
    """What is said, and None for a token that has brought no text yet.

    Args:
        model: as ``engine.work.chat`` takes it.
        is_left: whether nobody waits for the answer any more; asked after every token.

    Raises:
        UserError: the conversation cannot be rendered, or leaves no room for an answer.
    """
    job = type(job).from_values({**job.values(), **asked.options})
    prompts, tool_format = _prompts(model, asked, job)
    unknown = [token for token in asked.bias if not 0 <= token < model.vocabulary_size]
    if unknown:
        raise ApiError("api.not_a_token", param="logit_bias", token=unknown[0])
    rooms = [room_for(prompt, model) for prompt in prompts]
    prompt_tokens, count = sum(map(len, prompts)), 0
    yield Begun(prompt_tokens)
    for number, (prompt, room) in enumerate(zip(prompts, rooms, strict=True)):
        limit = min(asked.limit or job.max_new_tokens, room)
        for choice in range(asked.choices):
            if is_left():
                return
            index = number * asked.choices + choice
            seed = job.sampling_seed if asked.seed is None else asked.seed
            own = job.model_copy(update={"sampling_seed": None if seed is None else (seed + index) % SEEDS})
            count += yield from _choice(model, asked, own, prompt, limit, index, tool_format, is_left)
    yield Ended(prompt_tokens, count)


def _prompts(model: Any, asked: Asked, job: ChatJob) -> tuple[list[list[int]], ToolFormat | None]:
    """The prompts in tokens, and how calls are written where there are tools."""
    if not asked.is_chat:
        return [_plain_prompt(model, prompt) for prompt in asked.prompts], None

    def render(messages: list[dict[str, Any]], tools: list | None, add_generation_prompt: bool) -> str:
        return model.render(messages, job, tools, add_generation_prompt)

    tool_format = format_of(job, render) if asked.tools else None
    text = render(asked.messages, asked.tools or None, True)
    return [model.encode_rendered(text)], tool_format


def _plain_prompt(model: Any, prompt: str | list[int]) -> list[int]:
    ids = model.encode_plain(prompt) if isinstance(prompt, str) else prompt
    if not ids:
        raise ApiError("api.empty_prompt", param="prompt")
    unknown = [token for token in ids if token >= model.vocabulary_size]
    if unknown:
        raise ApiError("api.not_a_token", param="prompt", token=unknown[0])
    return ids


def _choice(
    model: Any, asked: Asked, job: ChatJob, prompt: list[int], limit: int, index: int, tool_format: ToolFormat | None,
    is_left: Callable[[], bool],
) -> Iterator[Delta | None]:  # fmt: skip
    """One answer. Returns the number of its tokens."""
    looks = asked.likeliest is not None
    steering = Steering(asked.presence, asked.frequency, asked.bias, looks)
    calls = CallReader(tool_format, asked.one_call) if tool_format else None
    reader = model.reader(keeps_special=calls is not None)  # a call may be marked by special tokens
    stop = (*asked.stop, *(stop_words(job) if asked.is_chat else ()))
    looked = Lookout(model, steering, asked.likeliest or 0) if looks else None
    for each in said(model, prompt, job, limit, stop, is_left, steering, reader):
        text = calls.add(each.text) if calls else each.text
        found: list[Call] = []
        if calls and each.reason:
            rest, found = calls.finish()
            text += rest
        reason = "tool_calls" if found and each.reason == "stop" else each.reason
        tokens = looked.add(each, text) if looked else ()
        yield Delta(index, text, tokens, tuple(found), reason) if text or tokens or reason else None
    return each.count


class Lookout:
    """Log-probabilities of the tokens whose text is shown, no sooner than that text; none of a stop word's."""

    def __init__(self, model: Any, steering: Steering, likeliest: int) -> None:
        self._model, self._steering, self._likeliest = model, steering, likeliest
        self._waiting: deque[tuple[int, Looked]] = deque()
        self._read = self._shown = 0  # bytes

    def add(self, each: Said, text: str) -> tuple[Looked, ...]:
        if each.token is not None:
            looked = self._look(each.token)
            self._waiting.append((self._read, looked))
            self._read += len(looked.content)
        self._shown += len(text.encode("utf-8"))
        is_whole = each.reason is not None and not each.is_cut
        ready = []
        while self._waiting and (is_whole or self._waiting[0][0] < self._shown):
            ready.append(self._waiting.popleft()[1])
        return tuple(ready)

    def _look(self, token: int) -> Looked:
        likeliest = self._steering.likeliest(self._likeliest)
        return Looked(
            self._model.bytes_of(token),
            self._steering.logp(token),
            tuple((self._model.bytes_of(each), self._steering.logp(each)) for each in likeliest),
        )

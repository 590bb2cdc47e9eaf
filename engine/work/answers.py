"""An answer as it grows: token by token, with the text that has become certain, until something ends it.

It does not know who listens: a chat and the API server both read from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.work.steering import Steering

Reason = Literal["stop", "length", "stopped"]


@dataclass(frozen=True)
class Said:
    """One token more, or the end.

    Args:
        text: what is certain to belong to the answer and has not been said before; often none.
        reason: of the last one: why the answer has ended; None before.
        count: of the answer's tokens so far.
        token: the one that is new; None at an end that has brought none.
        is_cut: whether a stop word was found, so that what was read behind it is no part of the answer.
    """

    text: str
    reason: Reason | None
    count: int
    token: int | None
    is_cut: bool = False


def room_for(prompt: list[int], model: Any) -> int:
    """How many tokens an answer may have. Raises: UserError, if there is no room for one."""
    room = model.context_length - len(prompt)
    if room < 1:
        raise UserError("chat.context_overflow", tokens=len(prompt), context=model.context_length)
    return room


def room_for_answer(prompt_tokens: int, context: int, max_new_tokens: int) -> int:
    """How many tokens an answer may have that is asked to have at most so many.

    One that is asked for to fill the whole context gets what is left of it; any other gets what it asks for.

    Raises:
        UserError: the prompt alone fills the context, or leaves less than was asked for.
    """
    room = context - prompt_tokens
    if room < 1:
        raise UserError("chat.context_overflow", tokens=prompt_tokens, context=context)
    if room < max_new_tokens < context:
        raise UserError("chat.no_room", tokens=prompt_tokens, context=context, asked=max_new_tokens, room=room)
    return min(max_new_tokens, room)


def said(
    model: Any, prompt: list[int], job: ChatJob, limit: int, stop: tuple[str, ...] = (),
    is_stopped: Callable[[], bool] = lambda: False, steering: Steering | None = None, reader: Any = None,
) -> Iterator[Said]:  # fmt: skip
    """Every token of an answer; the last one has a reason.

    Args:
        limit: of tokens.
        stop: words that end the answer; they are no part of it, and neither is what follows.
        is_stopped: asked after every token.
        steering: what is done to the scores of each token.
        reader: tokens → text; None: the model's own, which leaves out special tokens.
    """
    reader, stop_words = reader or model.reader(), StopWords(stop)
    text, token, reason, count = "", None, "stop", 0
    for token in model.tokens(prompt, job, steering):
        count += 1
        text = stop_words.add(reader.add(token))
        if stop_words.is_found:
            break
        if is_stopped() or count == limit:
            reason = "stopped" if is_stopped() else "length"
            break
        yield Said(text, None, count, token)
        text, token = "", None
    if not stop_words.is_found:
        text += stop_words.add(reader.finish()) + stop_words.finish()
    yield Said(text, reason, count, token, stop_words.is_found)


class StopWords:
    """Passes text on until one of some words, whose possible beginnings it keeps back."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._words = words
        self._kept = ""
        self.is_found = False

    def add(self, text: str) -> str:
        """What is certain to be no stop word; nothing after one."""
        text, self._kept = self._kept + text, ""
        found = [at for at in (text.find(word) for word in self._words) if at >= 0]
        if found:
            self.is_found = True
            return text[: min(found)]
        longest = max((n for word in self._words for n in range(1, len(word)) if text.endswith(word[:n])), default=0)
        self._kept = text[len(text) - longest :]
        return text[: len(text) - longest]

    def finish(self) -> str:
        """What was kept back in vain."""
        kept, self._kept = self._kept, ""
        return kept

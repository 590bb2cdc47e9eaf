"""Answers as OpenAI's API writes them: whole, and piece by piece."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

from engine.catalog.tool_formats import Call
from engine.work.api.answering import Delta, Ended, Looked
from engine.work.api.asked import Asked

Json = dict[str, Any]


class Shape:
    """One answer's id, time and model, and the two ways in which it can be written."""

    def __init__(self, asked: Asked, model: str) -> None:
        self._asked = asked
        kind = "chatcmpl" if asked.is_chat else "cmpl"
        self._head = {"id": f"{kind}-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._begun: set[int] = set()
        self._offsets: dict[int, int] = {}

    def whole(self, deltas: list[Delta], ended: Ended) -> Json:
        """All of an answer at once."""
        indices = sorted({delta.index for delta in deltas})
        write = self._whole_message if self._asked.is_chat else self._piece_of_text
        choices = [write(_joined([delta for delta in deltas if delta.index == index])) for index in indices]
        kind = "chat.completion" if self._asked.is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": choices, "usage": _usage(ended)}

    def chunks(self, delta: Delta) -> Iterator[Json]:
        """What is written of some more of a choice; a chat's choice begins with its role."""
        if not self._asked.is_chat:
            yield self._chunk(self._piece_of_text(delta))
            return
        if delta.index not in self._begun:
            self._begun.add(delta.index)
            yield self._chunk(_choice(delta.index, {"delta": {"role": "assistant", "content": ""}}))
        if delta.text or delta.looked:
            yield self._chunk(_choice(delta.index, {"delta": {"content": delta.text}}, self._logprobs(delta.looked)))
        for number, call in enumerate(delta.calls):
            yield self._chunk(_choice(delta.index, {"delta": {"tool_calls": [{"index": number, **_call(call)}]}}))
        if delta.reason:
            yield self._chunk(_choice(delta.index, {"delta": {}}, reason=delta.reason))

    def last_chunk(self, ended: Ended) -> Json | None:
        """The numbers of tokens, where they are wanted."""
        return {**self._chunk(), "usage": _usage(ended)} if self._asked.shows_usage else None

    def _chunk(self, *choices: Json) -> Json:
        kind = "chat.completion.chunk" if self._asked.is_chat else "text_completion"
        usage = {"usage": None} if self._asked.shows_usage else {}
        return {**self._head, "object": kind, "choices": list(choices), **usage}

    def _whole_message(self, delta: Delta) -> Json:
        message: Json = {"role": "assistant", "content": delta.text, "refusal": None}
        if delta.calls:
            message |= {"content": delta.text or None, "tool_calls": [_call(call) for call in delta.calls]}
        return _choice(delta.index, {"message": message}, self._logprobs(delta.looked), delta.reason)

    def _piece_of_text(self, delta: Delta) -> Json:
        found = self._text_logprobs(delta) if self._asked.likeliest is not None else None
        return _choice(delta.index, {"text": delta.text}, found, delta.reason)

    def _logprobs(self, looked: tuple[Looked, ...]) -> Json | None:
        """The way of chats."""
        if self._asked.likeliest is None:
            return None
        content = [
            {
                **_token(each.content, each.logp),
                "top_logprobs": [_token(content, logp) for content, logp in each.likeliest],
            }
            for each in looked
        ]
        return {"content": content, "refusal": None}

    def _text_logprobs(self, delta: Delta) -> Json:
        """The way of completions, with the place of each token in the text."""
        offsets = []
        for each in delta.looked:
            offsets.append(self._offsets.get(delta.index, 0))
            self._offsets[delta.index] = offsets[-1] + len(_readable(each.content))
        return {
            "tokens": [_readable(each.content) for each in delta.looked],
            "token_logprobs": [each.logp for each in delta.looked],
            "top_logprobs": [
                {_readable(content): logp for content, logp in (*each.likeliest, (each.content, each.logp))}
                for each in delta.looked
            ],
            "text_offset": offsets,
        }


def model_card(name: str, created: int) -> Json:
    return {"id": name, "object": "model", "created": created, "owned_by": "lathe"}


def server_sent(content: Json) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _joined(deltas: list[Delta]) -> Delta:
    """A choice as a whole."""
    return Delta(
        deltas[0].index,
        "".join(delta.text for delta in deltas),
        tuple(each for delta in deltas for each in delta.looked),
        tuple(each for delta in deltas for each in delta.calls),
        deltas[-1].reason,
    )


def _choice(index: int, content: Json, logprobs: Json | None = None, reason: str | None = None) -> Json:
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": reason}


def _call(call: Call) -> Json:
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _token(content: bytes, logp: float) -> Json:
    return {"token": _readable(content), "logprob": logp, "bytes": list(content)}


def _readable(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _usage(ended: Ended) -> Json:
    return {
        "prompt_tokens": ended.prompt_tokens,
        "completion_tokens": ended.completion_tokens,
        "total_tokens": ended.prompt_tokens + ended.completion_tokens,
    }

"""What is learned of a conversation and what is not: the only place that decides it, on the text, before any token.

The page shows these segments, and training encodes them (``engine.work.encode``): one code, so they cannot differ.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.catalog.conversations import Example, Judged, Preference, Text
from engine.catalog.rendering import Message, Renderer, with_system
from engine.catalog.tool_formats import wrapped_tools
from engine.errors import UserError
from engine.options.jobs import DataJob, TrainJob

AnyExample = Example | Preference | Judged | Text
Job = TrainJob | DataJob


class Segment(NamedTuple):
    """A piece of the rendered conversation; all of it is learned, or none."""

    text: str
    learned: bool


class Turn(NamedTuple):
    """Two pieces of the rendered conversation: what the model is given, and what it has to write then."""

    prompt: str
    answer: str


class Plan(NamedTuple):
    """A conversation that is learned from.

    Args:
        turns: joined, their texts are the rendered conversation.
        learns_prompts: whether prompts count in the loss too.
        learns_history: False: only the last answer does.
        is_whole: one text of no turns, to be cut at its end only.
        marks_end: False: the template puts nothing behind an answer, so that the tokenizer's end has to be added.
    """

    turns: list[Turn]
    learns_prompts: bool = False
    learns_history: bool = True
    is_whole: bool = False
    marks_end: bool = True

    def segments(self) -> list[Segment]:
        """What is learned apart from what is not; an end that is added to the tokens is no part of the text."""
        found: list[Segment] = []
        for index, turn in enumerate(self.turns):
            is_learned = self.learns_history or index == len(self.turns) - 1
            for text, learned in ((turn.prompt, self.learns_prompts), (turn.answer, is_learned)):
                if text and found and found[-1].learned == learned:
                    found[-1] = Segment(found[-1].text + text, learned)
                elif text:
                    found.append(Segment(text, learned))
        return found


def example_segments(job: Job, renderer: Renderer, example: AnyExample) -> list[list[Segment]]:
    """The segments of one row: one list, or two for a preference (chosen, rejected).

    Raises:
        UserError: see :func:`plans`.
    """
    return [plan.segments() for plan in plans(job, renderer, example)]


def plans(job: Job, renderer: Renderer, example: AnyExample) -> list[Plan]:
    """What is learned of one row: one plan, or two for a preference (chosen, rejected).

    Of answers that are compared or judged, only the last one counts.

    Raises:
        UserError: the chat template is missing, refuses the conversation or rewrites it beyond recognition.
    """
    if isinstance(example, Text):
        return [Plan([Turn("", example.text + renderer.special_tokens.get("eos_token", ""))], is_whole=True)]
    learns_prompts, learns_history = job.train_on_prompt, not job.mask_history
    conversations = [list(example.messages)]
    if not isinstance(example, Example):
        learns_prompts = learns_history = False
    if isinstance(example, Preference):
        conversations = [[*example.messages, answer] for answer in (example.chosen, example.rejected)]
    extra = _extra(job, renderer, example.tools, learns_history)
    return [
        Plan(
            turns_of(renderer, with_system(messages, job), **extra), learns_prompts, learns_history,
            marks_end=renderer.marks_end,
        )
        for messages in conversations
    ]  # fmt: skip


def dropped_thoughts(plan: Plan, messages: Sequence[Message]) -> int:
    """How many thoughts of a row are not in what the model sees, because the template or an option leaves them out."""
    text = "".join(turn.prompt + turn.answer for turn in plan.turns)
    thoughts = Counter(_thought(message) for message in messages if message["role"] == "assistant")
    return sum(max(0, count - text.count(thought)) for thought, count in thoughts.items() if thought)


def turns_of(renderer: Renderer, messages: Sequence[Message], **extra: Any) -> list[Turn]:
    """Split a conversation into prompts and answers; joined, they are the rendered text.

    An answer reaches from where the prompt of its turn ends (as the model is given it when it has to answer) to the
    end of the turn, the mark that ends it included.

    Args:
        extra: what the template may ask for beside the messages. Without a word on ``enable_thinking``, an empty
            thought that the template puts before an answer is taken as given, not as something to learn.

    Raises:
        UserError: the template is missing or refuses; it rewrites earlier turns so that they cannot be found; or it
            leaves out what an answer says or calls.
    """
    whole = renderer.render(messages, **extra)
    found: list[Turn] = []
    at = 0
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            start, end = _span(renderer, whole, messages, index, extra)
            if not at <= start <= end:
                raise UserError("template_rewrites_history")
            _check_complete(message, whole[start:end])
            found.append(Turn(whole[at:start], whole[start:end]))
            at = end
    if at < len(whole):
        found.append(Turn(whole[at:], ""))
    return found


def _check_complete(message: Message, answer: str) -> None:
    """Raises: UserError, if the template leaves out what the answer says, or the functions that it calls."""
    content = message.get("content") or ""
    said = content.partition("</think>")[2] if "</think>" in content else content
    said = said.strip()
    if said not in answer:
        raise UserError("template_drops_text", text=said[:60])
    for call in message.get("tool_calls", ()):
        if call["function"]["name"] not in answer:
            raise UserError("template_drops_calls", name=call["function"]["name"])


def _span(
    renderer: Renderer, whole: str, messages: Sequence[Message], index: int, extra: dict[str, Any]
) -> tuple[int, int]:
    """Where an answer begins and ends in the whole."""
    prompts = [renderer.render(messages[:index], True, **extra)]
    if extra.get("enable_thinking") is None and renderer.knows_thinking and not _thought(messages[index]):
        prompts.append(renderer.render(messages[:index], True, **{**extra, "enable_thinking": False}))
    starts = [len(prompt) for prompt in prompts if whole.startswith(prompt)]
    is_last = index == len(messages) - 1
    until = whole if is_last else renderer.render(messages[: index + 1], **extra)
    if starts and whole.startswith(until):
        return max(starts), len(until)
    before, after = _around(renderer, whole, messages, index, extra)
    end = len(whole) - len(after)
    if after.startswith(renderer.end_mark):
        end += len(renderer.end_mark)
    return max(starts, default=before), end


def _around(
    renderer: Renderer, whole: str, messages: Sequence[Message], index: int, extra: dict[str, Any]
) -> tuple[int, str]:
    """For a template that writes earlier answers otherwise than the last: how much stands before what it made of this
    answer, and what stands after it; found by putting another answer in its place."""
    probe = "\u2063answer\u2063"
    others = [*messages[:index], {"role": "assistant", "content": probe}, *messages[index + 1 :]]
    before, found, after = renderer.render(others, **extra).partition(probe)
    if not (found and whole.startswith(before) and whole.endswith(after)):
        raise UserError("template_rewrites_history")
    return len(before), after


def _extra(job: Job, renderer: Renderer, tools: str | None, learns_history: bool) -> dict[str, Any]:
    """What the template is told beside the messages.

    A template of the catalogue keeps earlier thoughts where earlier answers are learned: each is written then as it
    is when it is the last. A tokenizer's own template decides for itself. So it is with thinking, where nothing is
    said: with a template of the catalogue the model learns to write an empty thought where the data has none, as
    commands that name one expect.
    """
    keeps_thoughts = job.preserve_thinking or (renderer.template is not None and learns_history)
    return {
        "enable_thinking": True if job.enable_thinking is None and renderer.template else job.enable_thinking,
        "preserve_thinking": True if keeps_thoughts else None,
        "tools": wrapped_tools(json.loads(tools)) if tools else None,
    }


def _thought(message: Message) -> str:
    """The thought in an answer, without the words around it; "" if it has none."""
    before, found, _ = (message.get("content") or "").partition("</think>")
    return before.rpartition("<think>")[2].strip() or "…" if found else ""

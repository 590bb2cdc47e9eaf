"""Rows as the model of a job sees them: encoded by the code that trains, with what it tells of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from engine.catalog.conversations import Text
from engine.catalog.learned import AnyExample, dropped_thoughts, plans
from engine.catalog.rendering import renderer_of
from engine.errors import UserError
from engine.options.jobs import DataJob
from engine.runs.record import Recorder
from engine.work.download import local_model
from engine.work.encode import Encoded, Encoder
from engine.work.load import load_tokenizer

OF_ALL_ROWS = ("template_missing", "template_not_named")
"""Errors of a template for which no row is to blame."""


class Outcome(NamedTuple):
    """One row: its sequences (two for a preference), and how many of its thoughts the model does not see."""

    encoded: list[Encoded]
    is_text: bool = False
    dropped_thoughts: int = 0

    def findings(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What is wrong with it, as kind and facts."""
        if not all(each.learned for each in self.encoded):
            yield "nothing_to_learn", {}
        elif lost := sum(each.cut_learned for each in self.encoded):
            learned = lost + sum(each.learned for each in self.encoded)
            yield "cut_text" if self.is_text else "cut_answer", {"tokens": lost, "of": learned}
        elif cut := sum(each.cut for each in self.encoded):
            yield "cut_prompt", {"tokens": cut}
        if self.dropped_thoughts:
            yield "thought_dropped", {"thoughts": self.dropped_thoughts}


class RowsSeen:
    """A job's tokenizer and template.

    Args:
        without_tools: rows so far whose tools the template does not show to the model.
    """

    def __init__(self, job: DataJob, tokenizer: Any) -> None:
        self._job, self._encoder, self._renderer = job, Encoder(job, tokenizer), renderer_of(tokenizer, job)
        self.without_tools = 0

    @classmethod
    def of(cls, job: DataJob, recorder: Recorder | None = None) -> RowsSeen:
        """Load the tokenizer as training does.

        Raises:
            UserError: there is no such model, or it holds no tokenizer that can be read.
        """
        path = local_model(job.model_name_or_path, job.hub, job.model_revision, recorder, job.cache_dir)
        if recorder is not None:
            recorder.phase("loading_tokenizer")
        return cls(job, load_tokenizer(path, job))

    def rows(self, examples: Sequence[AnyExample]) -> list[Outcome | UserError]:
        """Each row encoded, or why it cannot be.

        Raises:
            UserError: no row can be, e.g. because there is no chat template.
        """
        try:
            encoded = self._encoder.encode(examples)
            return [self._outcome(each, example) for each, example in zip(encoded, examples, strict=True)]
        except UserError as error:
            if error.key in OF_ALL_ROWS or not error.key.startswith("template_"):
                raise
            if len(examples) == 1:
                return [error]
        return [self.rows([example])[0] for example in examples]

    def _outcome(self, encoded: list[Encoded], example: AnyExample) -> Outcome:
        tools = getattr(example, "tools", None)
        answers = [getattr(example, side) for side in ("chosen", "rejected") if hasattr(example, side)]
        messages = [*getattr(example, "messages", ()), *answers]
        has_thought = any("</think>" in (message.get("content") or "") for message in messages)
        if not tools and not has_thought:
            return Outcome(encoded, isinstance(example, Text))
        found = plans(self._job, self._renderer, example)
        text = "".join(turn.prompt for turn in found[0].turns)
        self.without_tools += bool(tools) and not any(name in text for name in _names(tools))
        conversations = [[*example.messages, answer] for answer in answers] or [example.messages]
        pairs = zip(found, conversations, strict=True)
        return Outcome(encoded, False, sum(dropped_thoughts(plan, said) for plan, said in pairs) if has_thought else 0)


def _names(tools: str) -> list[str]:
    """The names of the tools that a row defines, however deep the definition lies in its wrapping."""
    functions = (tool.get("function", tool) for tool in json.loads(tools) if isinstance(tool, dict))
    return [str(function["name"]) for function in functions if isinstance(function, dict) and "name" in function]

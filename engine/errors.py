"""The errors a user may see, all of them on one screen; their sentences live in ``locales/*.yaml`` under ``errors``.

Anything else that is raised is a slip of ours: an ordinary exception, in English, with its traceback in the log.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from engine.words import words


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong (or, as a warning, worth knowing) about what was asked.

    Args:
        key: name of the sentence, without the leading ``errors.``.
        option: name of the option it belongs to, or None when it belongs to no single one.
        facts: what fills the placeholders of the sentence.
        is_warning: True when the job can run all the same.
    """

    key: str
    option: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    is_warning: bool = False

    def text(self, language: str = "en") -> str:
        return words(f"errors.{self.key}", language, **self.facts)


class UserError(Exception):
    """Something the user can mend: what happened, why, what to do."""

    def __init__(self, key: str, /, **facts: Any) -> None:
        super().__init__(key, facts)
        self.key = key
        self.facts = facts

    def text(self, language: str = "en") -> str:
        return words(f"errors.{self.key}", language, **self.facts)

    def __str__(self) -> str:
        return self.text()

    def __reduce__(self) -> tuple:
        """So that another process can be told of it: facts that may not travel are sent as their text."""
        return partial(type(self), self.key, **{name: _plain(each) for name, each in self.facts.items()}), ()


class Refused(UserError):
    """A job that was not started, with every problem at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("refused", count=len(self.problems))

    def __reduce__(self) -> tuple:
        return Refused, (self.problems,)

    def text(self, language: str = "en") -> str:
        return "\n".join(f"{p.option}: {p.text(language)}" if p.option else p.text(language) for p in self.problems)


def _plain(fact: Any) -> Any:
    return fact if isinstance(fact, int | float) else str(fact)

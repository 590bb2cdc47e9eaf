"""What is wrong with a row, found on the very path on which training reads it; knows neither tokens nor other rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from engine.catalog.conversations import Text, row_faults, to_example
from engine.catalog.entry import Entry
from engine.catalog.recognise import unused_columns
from engine.catalog.rows import Row
from engine.errors import UserError
from engine.words import has_words, words

KINDS = {
    "dataset_not_utf8": "wrong_encoding",
    "dataset_utf16": "wrong_encoding",
    "dataset_row.no_role": "unknown_role",
    "dataset_row.no_answer": "order",
    "dataset_row.pair_role": "order",
    "dataset_row.column_missing": "missing_column",
    "dataset_row.no_text": "not_text",
    "dataset_unrecognised": "unrecognised",
}
"""Errors that are kinds of finding under another name. Of the others, what keeps a file from being read is
"not_json", and what is wrong with a row that could be read has the last part of its key."""

WARNINGS = (
    "bom", "wrong_encoding", "empty_prompt", "duplicate", "near_duplicate", "shared_with_validation", "cut_answer",
    "cut_prompt", "cut_text", "thought_dropped", "unused_column",
)  # fmt: skip
"""Rows can be trained on as they are, but are worth a look. All other kinds keep a row from teaching anything."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a row, or worth a look.

    Args:
        row: its number, from 1 on; None: it is about the file.
        kind: e.g. "empty_answer"; rows are counted by it.
        facts: what fills the sentence; ``dataset`` is always among them.
        key: of the sentence: ``errors.…`` where training would say the same, else ``lint.<kind>``.
    """

    row: int | None
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    key: str = ""

    @property
    def sentence_key(self) -> str:
        return self.key or f"lint.{self.kind}"

    @property
    def severity(self) -> str:
        """ "error": the row cannot, or should not, be trained on; "warning": it can be, but look at it."""
        return "warning" if self.kind in WARNINGS else "error"

    def text(self, language: str = "en") -> str:
        return words(self.sentence_key, language, row=self.row, **{k: v for k, v in self.facts.items() if k != "row"})

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; ``finding_from`` reads them again."""
        facts = {name: value if isinstance(value, int | float) else str(value) for name, value in self.facts.items()}
        return {
            "row": self.row, "kind": self.kind, "severity": self.severity, "key": self.sentence_key, "facts": facts
        }  # fmt: skip


def finding_from(content: dict[str, Any]) -> Finding:
    return Finding(content["row"], content["kind"], content["facts"], content["key"])


class Checked(NamedTuple):
    """A row after its check; ``example`` is None where it could not be read as one."""

    example: Any
    findings: list[Finding]


def file_findings(entry: Entry, files: list[Path]) -> Iterator[Finding]:
    """What is to be said of the files themselves."""
    for path in files:
        with path.open("rb") as file:
            if file.read(3) == b"\xef\xbb\xbf":
                yield Finding(None, "bom", {"dataset": entry.name, "path": path})


def unused_findings(entry: Entry) -> Iterator[Finding]:
    """Columns of text that a file has and that its entry, which was recognised, leaves out."""
    for column in unused_columns(entry.path, entry):
        yield Finding(None, "unused_column", {"dataset": entry.name, "column": column})


def check_row(content: Row | UserError, entry: Entry, number: int) -> Checked:
    """Everything that can be seen of one row alone.

    Args:
        content: the row, or what kept it from being read.
    """
    faults = [content] if isinstance(content, UserError) else row_faults(content, entry, number)
    if faults:
        return Checked(None, [from_error(fault, entry, number) for fault in faults])
    example = to_example(content, entry, number)
    found = [_finding(number, entry, kind, turn) for kind, turn in _empty(example)]
    sample = next(filter(None, map(garbled, _texts(example))), None)
    if sample:
        found.append(Finding(number, "wrong_encoding", {"dataset": entry.name, "sample": sample}))
    return Checked(example, found)


def from_error(error: UserError, entry: Entry, number: int | None) -> Finding:
    """What an error of reading, converting or encoding says of a row, with the error's own sentence."""
    of_row, _, last = error.key.rpartition(".")
    kind = KINDS.get(error.key) or (last if of_row or last.startswith("template_") else "not_json")
    if error.key == "dataset_row.not_json":
        column = error.facts.get("column")
        if column == entry.columns.tools:
            kind = "tools_not_json"
        elif column in (entry.tags.function_tag, "arguments"):
            kind = "function_call"
    key = f"errors.dataset_row.{error.key}"
    return Finding(
        number, kind, {"dataset": entry.name, **error.facts}, key if has_words(key) else f"errors.{error.key}"
    )


def garbled(text: str) -> str | None:
    """A few letters of a text that was read in the wrong encoding at some time; None: it looks right."""
    if text.isascii():
        return None
    found = _REPLACED.search(text) or _MISREAD.search(text)
    if found is None:
        found = next((each for each in _RUNS.finditer(text) if _is_misread(each[0])), None)
    return text[max(0, found.start() - 8) : found.end() + 8] if found else None


# UTF-8 that was read as Windows-1252: a first byte of two to four (Â Ã â ð) and the bytes that go on (¡ to ¿, € ™).
_GO_ON = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_AFTER_A = "\u00a1-\u00aa\u00ac-\u00ba\u00bc-\u00bf"  # no « », which may stand behind a letter that is quoted
_REPLACED = re.compile("\ufffd")
_MISREAD = re.compile(
    f"Ã[{_AFTER_A}€‚ƒ„†‡ˆ‰Š‹ŒŽ˜™š›œžŸ]|Â[{_AFTER_A}]|â€[™œ¦“”¢˜š]|ðŸ|[\u00c2-\u00f4][\u0080-\u0084\u0086-\u009f]"
)
_RUNS = re.compile(f"(?:[\u00c2-\u00f4][{_GO_ON}]{{1,3}}){{2,}}")


def _is_misread(run: str) -> bool:
    """Whether a run of odd letters is whole UTF-8 once its bytes are put back; one such pair may be chance."""
    try:
        content = b"".join(letter.encode("latin-1" if letter <= "\xff" else "cp1252") for letter in run)
        return len(content.decode("utf-8")) >= 2
    except UnicodeError:
        return False


def _texts(example: Any) -> Iterator[str]:
    if isinstance(example, Text):
        yield example.text
        return
    for message in _messages(example):
        yield message["content"]
        for call in message.get("tool_calls", ()):
            yield str(call["function"])
    yield example.tools or ""


def _messages(example: Any) -> list[dict[str, Any]]:
    answers = [getattr(example, side) for side in ("chosen", "rejected") if hasattr(example, side)]
    return [*example.messages, *answers]


def _empty(example: Any) -> Iterator[tuple[str, int | None]]:
    """Turns that hold nothing but white space, as (kind, number of the turn among all turns)."""
    if isinstance(example, Text):
        if not example.text.strip():
            yield "empty_text", None
        return
    for number, message in enumerate(_messages(example), start=1):
        if message["content"].strip() or message.get("tool_calls"):
            continue
        if message["role"] == "assistant":
            yield "empty_answer", number
        elif message["role"] == "user":
            yield "empty_prompt", number


def _finding(number: int, entry: Entry, kind: str, turn: int | None = None) -> Finding:
    return Finding(number, kind, {"dataset": entry.name, **({} if turn is None else {"turn": turn})})

"""The words of ``data …``: one name, flags of the command itself, and options of a DataJob."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from typing import Any

from engine.errors import UserError
from engine.options.base import plain_type
from engine.options.command import job_from, read_arguments
from engine.options.jobs import DataJob

BOOLEANS = ("true", "false", "none", "null", "yes", "no", "on", "off", "1", "0")


@dataclass(frozen=True)
class Words:
    """What was typed.

    Args:
        name: the word that belongs to no flag: a dataset's name or a file.
        flags: the command's own flags, with their defaults.
        switches: those of the command's own flags without a value that were typed.
        rest: everything else, for a job's options.
    """

    name: str | None
    flags: dict[str, Any]
    switches: frozenset[str]
    rest: list[str]

    def has(self, switch: str) -> bool:
        return switch in self.switches

    def number(self, flag: str, least: int = 1) -> int | None:
        """The whole number after a flag.

        Raises:
            UserError: it is none, or too small.
        """
        value = self.flags[flag]
        if value is None:
            return None
        try:
            number = int(value)
        except ValueError as error:
            raise UserError("not_an_integer", option=flag, value=value) from error
        if number < least:
            raise UserError("out_of_range", option=flag, value=value, limits=f"≥ {least}")
        return number


def read_words(
    arguments: list[str], flags: dict[str, Any], switches: tuple[str, ...] = (), has_options: bool = False
) -> Words:
    """Sort what was typed.

    Args:
        flags: the command's own flags and their defaults.
        switches: own flags that take no value.
        has_options: whether unknown flags are options of a job, which are read later.

    Raises:
        UserError: a second name, a flag without its value, or one that is not known (with the nearest).
    """
    name, found, on, rest = None, dict(flags), set(), []
    words = list(arguments)
    while words:
        word = words.pop(0)
        flag, equals, value = word[2:].partition("=")
        flag = flag.replace("-", "_")
        if not word.startswith("--"):
            is_option = has_options and ("=" in word or word.lower().endswith((".yaml", ".yml")))
            if is_option:
                rest.append(word)
            elif name is None:
                name = word
            else:
                raise UserError("unexpected_word", word=word)
        elif flag in switches:
            if not equals or value.lower() == "true":
                on.add(flag)
        elif flag in flags:
            if not equals and not words:
                raise UserError("flag_without_value", flag=flag)
            found[flag] = value if equals else words.pop(0)
        elif has_options:
            rest.append(word)
            if not equals:
                rest += _values(flag, words, name is not None)
        else:
            near = difflib.get_close_matches(flag, [*flags, *switches], n=1, cutoff=0.5)
            raise UserError("unknown_option_near" if near else "unknown_option", option=flag, near="".join(near))
    return Words(name, found, frozenset(on), rest)


def read_job(given: Words, language: str) -> tuple[DataJob, bool]:
    """The job about the one dataset that was named, and whether a model was named too.

    Raises:
        UserError: no dataset is named, or more than one.
        Refused: some options are not right.
    """
    values = read_arguments(DataJob, given.rest)
    if given.name is not None:
        values["dataset"] = [given.name]
    job, warnings = job_from(DataJob, values)
    for warning in warnings:
        print(warning.text(language), file=sys.stderr)
    if len(job.dataset) != 1:
        raise UserError("unexpected_word", word=job.dataset[1]) if job.dataset else UserError("dataset_missing")
    return job, "model_name_or_path" in values and bool(job.model_name_or_path)


def _values(flag: str, words: list[str], has_name: bool) -> list[str]:
    """The words after an option of a job that belong to it: up to the next flag, but not the dataset's name."""
    field = DataJob.model_fields.get(flag)
    kind = plain_type(field) if field is not None else str
    taken: list[str] = []
    while words and not words[0].startswith("--") and (not taken or (kind is tuple and has_name)):
        if kind is bool and words[0].lower() not in BOOLEANS:
            break  # the option is a switch here
        taken.append(words.pop(0))
    return taken

"""A job ⇄ its command line: flags and YAML in, ``--help`` and the preview out. Knows nothing of how a job is done."""

from __future__ import annotations

import difflib
import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from engine.errors import Problem, Refused, UserError
from engine.options.base import Options, allows_none, choices_of, limits_of, plain_type
from engine.options.jobs import TrainJob
from engine.options.option import about
from engine.options.reference import in_our_words, is_for_training, missing_problem, reference_options
from engine.options.rules import problems_of
from engine.options.training import further_training_arguments
from engine.options.yaml_text import read_options, write_yaml
from engine.words import words

PROGRAM = "python app.py"
LARGEST_FILE = 256 * 1024
"""Bytes of a file of options; reading as much takes seconds, and one that somebody wrote has a few thousand."""


class Parsed(NamedTuple):
    """A job that may run, and what its user should know about it."""

    job: Options
    warnings: list[Problem]


def parse(job_type: type[Options], arguments: list[str]) -> Parsed:
    """Read ``[file.yaml] [key=value …] [--key value …]``; what is written later wins.

    Raises:
        Refused: with every problem found.
        UserError: a file that cannot be read.
    """
    return job_from(job_type, read_arguments(job_type, arguments))


def job_from(job_type: type[Options], values: dict[str, Any]) -> Parsed:
    """A validated job from plain values, however they were typed.

    Raises:
        Refused: with every problem found.
    """
    known, problems = _sort_out(job_type, values)
    try:
        job = job_type.from_values(known)
        problems += problems_of(job)
    except Refused as refused:
        problems += [*refused.problems, *_further_problems(job_type, known, refused)]
    if any(not problem.is_warning for problem in problems):
        raise Refused([problem for problem in problems if not problem.is_warning])
    return Parsed(job, problems)


def described_job(job_type: type[Options], values: dict[str, Any]) -> Parsed:
    """What values describe, even where it could not run as it is; with what stands in its way among the warnings.

    Raises:
        Refused: with every name that is not known and every value that is not valid.
    """
    known, problems = _sort_out(job_type, values)
    wrong = [problem for problem in problems if not problem.is_warning]
    try:
        job = job_type.from_values(known)
    except Refused as refused:
        raise Refused([*wrong, *refused.problems]) from refused
    if wrong:
        raise Refused(wrong)
    return Parsed(job, problems + problems_of(job))


def read_arguments(job_type: type[Options], arguments: list[str]) -> dict[str, Any]:
    """Plain values by option name, not yet validated."""
    values: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            name = name.replace("-", "_")
            if not equals:
                value = _values_of_flag(job_type, name, rest)
            values[name] = value
        elif word.lower().endswith((".yaml", ".yml", ".json")) and "=" not in word:
            values.update(read_options_file(Path(word)))
        elif "=" in word:
            name, _, value = word.partition("=")
            values[name.replace("-", "_")] = value
        else:
            raise UserError("unexpected_word", word=word)
    return values


def read_options_file(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file (JSON is YAML).

    Raises:
        UserError: it is missing or too large, is not valid YAML (with line and column), or is no mapping.
    """
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise UserError("file_too_large", path=path, size=-(-size // 1024), most=LARGEST_FILE // 1024)
        content = _content(path, path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError("file_unreadable", path=path, detail=error.strerror) from error
    except UnicodeDecodeError as error:
        raise UserError("file_not_utf8", path=path, detail=error) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        detail = getattr(error, "problem", None) or str(error)
        raise UserError("file_not_yaml", path=path, line=line, column=column, detail=detail) from error
    if not isinstance(content, dict):
        raise UserError("file_no_mapping", path=path)
    return {str(name): value for name, value in content.items()}


def file_text(job: Options) -> str:
    """The YAML that ``python app.py KIND FILE.yaml`` runs as exactly this job."""
    return f"# {PROGRAM} {job.kind} FILE.yaml\n{write_yaml(shown_values(job))}"


def preview(job: Options) -> str:
    """The shell command that runs exactly this job, one option a line; ``parse`` of it gives the same job."""
    lines = [f"{PROGRAM} {job.kind}"]
    for name, value in shown_values(job).items():
        text = as_text(value)
        lines.append(f"    --{name}{'=' if text.startswith('--') else ' '}{shlex.quote(text)}")
    return " \\\n".join(lines)


def shown_values(job: Options) -> dict[str, Any]:
    """What a command line has to say: the options in plain sight that have an effect, and all that differ."""
    values = job.values()
    shown = {}
    for name, value in values.items():
        field = type(job).model_fields.get(name)
        if field is None:
            shown[name] = value
            continue
        differs = getattr(job, name) != field.default
        in_sight = about(field, "level") == "plain" and job.has_effect(name) and value not in (None, "")
        is_switched = name == "do_train" and values.get("do_eval")  # which alone would mean no training
        if differs or in_sight or is_switched:
            shown[name] = value
    return shown


def as_text(value: Any) -> str:
    """One value as it is typed: lists and mappings as JSON, None as "none"."""
    if value is None:
        return "none"
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def help_text(job_type: type[Options], language: str = "en") -> str:
    """What ``--help`` prints: usage, then each option by group with its help, limits, choices and default."""
    lines = [words("cli.usage", language, command=f"{PROGRAM} {job_type.kind}"), ""]
    lines += [words(f"cli.commands.{job_type.kind}", language)]
    for group in job_type.groups():
        lines += ["", words(f"groups.{group.__name__.lower()}.label", language)]
        for name, field in group.model_fields.items():
            if name == "training_arguments":
                lines.append("  " + words("cli.further_training_arguments", language))
                continue
            lines.append(f"  --{name} {_value_hint(field)}".rstrip())
            lines.append(f"      {words(f'options.{name}.help', language)}")
            if field.default not in (None, "", ()):
                default = as_text(",".join(field.default) if isinstance(field.default, tuple) else field.default)
                lines.append(f"      {words('cli.default', language, value=default)}")
    return "\n".join(lines)


def _content(path: Path, text: str) -> Any:
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)  # it may be indented with tabs, which YAML does not allow
        except (ValueError, RecursionError):
            pass  # read as YAML it says where the fault is
    return read_options(text)


def _values_of_flag(job_type: type[Options], name: str, rest: list[str]) -> Any:
    """The words after a flag: none means true; several are a list where the option takes one."""
    taken = []
    field = job_type.model_fields.get(name)
    takes_many = field is not None and plain_type(field) is tuple
    while rest and not rest[0].startswith("--") and (not taken or takes_many):
        taken.append(rest.pop(0))
    if not taken:
        return True
    return taken if len(taken) > 1 else taken[0]


def _further_problems(job_type: type[Options], values: dict[str, Any], refused: Refused) -> list[Problem]:
    """What the rules say of the values that are valid, so that a wrong number does not hide a missing dataset."""
    wrong = {problem.option for problem in refused.problems}
    try:
        job = job_type.from_values({name: value for name, value in values.items() if name not in wrong})
    except Refused:
        return []  # the wrong values cannot be told from the others by their options
    return [problem for problem in problems_of(job) if problem.option not in wrong and not problem.is_warning]


def _sort_out(job_type: type[Options], values: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Split values into those the job knows and problems: unknown names, and options that Lathe does not have."""
    known: dict[str, Any] = {}
    problems: list[Problem] = []
    names = [name for name in job_type.model_fields if name != "training_arguments"]
    if issubclass(job_type, TrainJob):
        names += further_training_arguments()
    for name, value in in_our_words(job_type, values).items():
        if name in names:
            known[name] = value
        elif name in reference_options():
            problems.append(missing_problem(name, value))
        elif is_for_training(job_type, name):
            problems.append(Problem("reference_option_ignored", name, {"option": name}, is_warning=True))
        else:
            near = _nearest(name, names)
            key = "unknown_option_near" if near else "unknown_option"
            problems.append(Problem(key, name, {"option": name, "near": near}))
    return known, problems


def _nearest(name: str, names: list[str]) -> str:
    """The name that was meant: one that differs by a slip, holds all that was typed, or looks alike; "" if none."""
    slip = difflib.get_close_matches(name, names, n=1, cutoff=0.8)
    whole = [each for each in names if f"_{name}_" in f"_{each}_"]
    alike = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return next(iter(slip + whole + alike), "")


def _value_hint(field: Any) -> str:
    choices = choices_of(field)
    if choices:
        hint = "{" + ",".join(map(str, choices)) + "}"
    else:
        hint = {int: "N", float: "X", bool: "true|false", str: "TEXT", tuple: "A,B,…"}.get(plain_type(field), "VALUE")
    limits = limits_of(field)
    if limits:
        signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
        hint += "  (" + ", ".join(f"{signs[sign]} {value:g}" for sign, value in limits.items()) + ")"
    return hint + ("  | none" if allows_none(field) else "")

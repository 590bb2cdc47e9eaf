"""The text of a Modelfile: read and written as Ollama does it. What belongs into one is decided elsewhere."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import UserError


@dataclass(frozen=True)
class Modelfile:
    """What Ollama is told about a model.

    Args:
        source: the .gguf file, or the model it is made from.
        template: the chat template in Go's syntax; None: Ollama looks for one that it knows.
        system: the system text of a conversation that has none.
        parameters: numbers by name, and under ``stop`` a list of words.
    """

    source: str
    template: str | None = None
    system: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The file. In quotes everything stands as it is: Ollama knows no escapes."""
        blocks = [f"FROM {self.source}"]
        if self.template is not None:
            blocks.append(f'TEMPLATE """{self.template}"""')
        if self.system:
            blocks.append(f'SYSTEM """{self.system}"""')
        lines = []
        for name, value in self.parameters.items():
            lines += [f"PARAMETER {name} {_quoted(each)}" for each in (value if isinstance(value, list) else [value])]
        return "\n\n".join([*blocks, *(["\n".join(lines)] if lines else [])]) + "\n"


def read_modelfile(path: Path) -> Modelfile:
    """Raises: UserError, if the file cannot be read or has instructions that are not sent to a server from here."""
    try:
        return parse_modelfile(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError("ollama.modelfile_unreadable", path=path, detail=error) from error


def parse_modelfile(text: str, path: Path | str = "Modelfile") -> Modelfile:
    """What the text of a Modelfile says.

    Args:
        path: named in an error.

    Raises:
        UserError: a line is none of FROM, TEMPLATE, SYSTEM and PARAMETER, or a quotation has no end.

    Source: ``parser/parser.go`` of Ollama. A value in quotes ends with the first line that ends in such quotes.
    """
    said: dict[str, str] = {}
    parameters: dict[str, Any] = {}
    lines = text.replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        number, line = at + 1, lines[at]
        at += 1
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word, value = _first_word(line)
        name, instruction = "", word.upper()
        if instruction == "PARAMETER":
            name, value = _first_word(value)
        while (unquoted := _unquoted(value.strip())) is None and at < len(lines):
            value += "\n" + lines[at]
            at += 1
        if unquoted is None:
            raise UserError("ollama.modelfile_open", path=path, line=number)
        if name == "stop":
            parameters.setdefault("stop", []).append(unquoted)
        elif name:
            parameters[name] = parameter_value(unquoted)
        elif instruction in ("FROM", "TEMPLATE", "SYSTEM"):
            said[instruction] = unquoted
        else:
            raise UserError("ollama.modelfile_line", path=path, line=number, word=word)
    return Modelfile(said.get("FROM", ""), said.get("TEMPLATE"), said.get("SYSTEM", ""), parameters)


def modelfile_of(gguf: Path) -> Path | None:
    """The Modelfile that lies beside a .gguf file and is made from it; None: there is none."""
    for path in (gguf.with_name(f"{gguf.stem}.Modelfile"), gguf.with_name("Modelfile")):
        if path.is_file():
            source = Path(read_modelfile(path).source).expanduser()
            if (path.parent / source).resolve() == gguf.resolve():
                return path
    return None


def create_commands(name: str, modelfile: str | Path) -> str:
    """What to type where Ollama is installed, to have the model there."""
    return f"ollama create {shlex.quote(name)} -f {shlex.quote(str(modelfile))}\nollama run {shlex.quote(name)}"


def suggested_name(gguf: str | Path) -> str:
    """A name for Ollama after the file's, ``my-model-q8_0``."""
    return re.sub(r"[^a-z0-9_.]+", "-", Path(gguf).stem.lower()).lstrip(".-")[:80] or "model"


def _first_word(text: str) -> tuple[str, str]:
    word, rest, *_ = (*text.split(maxsplit=1), "", "")
    return word, rest


def _quoted(value: Any) -> str:
    text = str(value)
    if not isinstance(value, str):
        return text
    marks = '"""' if "\n" in text or text.startswith('"') else '"'
    return f"{marks}{text}{marks}"


def _unquoted(text: str) -> str | None:
    """None: the quotation is not closed yet."""
    for marks in ('"""', '"'):
        if text.startswith(marks):
            closed = len(text) >= 2 * len(marks) and text.endswith(marks)
            return text[len(marks) : len(text) - len(marks)] if closed else None
    return text


def parameter_value(text: str) -> Any:
    """A parameter's value as JSON has it: a number, true or false, else the text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text.lower(), text)

"""The Modelfile that lets Ollama chat with a .gguf as the model was trained: its chat template in Go's syntax.

A Jinja template cannot be translated in general, but it can be asked: it renders conversations of marked words, and
what stands around the marks are the pieces of the Go template.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from engine.catalog.modelfile import Modelfile
from engine.catalog.rendering import Renderer
from engine.errors import UserError
from engine.runs.record import write_text

Render = Callable[[list[dict[str, str]], bool], str]
"""Messages, and whether the start of an answer is wanted → the prompt."""


@dataclass(frozen=True)
class Pieces:
    """What a chat template puts around the turns of a conversation.

    Args:
        start: before everything.
        system, user, assistant: what stands left and right of a turn's content.
        answer: what a prompt ends with, so that an answer follows.
        without_system: in place of ``start`` and a system turn in a conversation that has none.
        default_system: the system text of a conversation that has none; "" for none.
        system_in_user: True when the system text opens the first user turn, between ``system``'s two.
        again: before every user turn but the first, where llama.cpp has put it itself.
        drops_empty_system: True when a system turn without text is left out.
    """

    start: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    without_system: str = ""
    default_system: str = ""
    system_in_user: bool = False
    again: str = ""
    drops_empty_system: bool = False


def write_modelfile(outfile: Path, tokenizer, folder: Path, system: str | None, recorder) -> Path:
    """Write ``Modelfile`` beside a .gguf, or ``<stem>.Modelfile`` where it shares its folder with others."""
    is_alone = [path.name for path in outfile.parent.glob("*.gguf")] == [outfile.name]
    path = outfile.with_name("Modelfile" if is_alone else f"{outfile.stem}.Modelfile")
    pieces = tokenizer_pieces(tokenizer)
    if pieces is None:
        recorder.warn("gguf.template_not_expressed")
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    stops = stop_words(pieces, special, tokenizer.eos_token) if pieces else [tokenizer.eos_token]
    write_text(path, modelfile(outfile.name, pieces, stops, system, sampling_parameters(folder)).text)
    return path


def modelfile_from_gguf(path: Path, recorder) -> Modelfile:
    """What Ollama is to be told of a .gguf file that has no Modelfile: derived from the chat template in it.

    Raises:
        UserError: it is no whole .gguf file.
    """
    import gguf

    try:
        fields = gguf.GGUFReader(path).fields
    except (ValueError, OSError, IndexError) as error:
        raise UserError("ollama.no_gguf", path=path) from error

    def said(name: str, default: Any = None) -> Any:
        return fields[f"tokenizer.{name}"].contents() if f"tokenizer.{name}" in fields else default

    tokens, kinds = said("ggml.tokens", []), said("ggml.token_type", [])
    marks = {
        f"{name}_token": tokens[at] for name in ("bos", "eos") if (at := said(f"ggml.{name}_token_id")) is not None
    }
    render = _rendering(Renderer(said("chat_template"), marks))
    bos, eos = marks.get("bos_token", ""), marks.get("eos_token", "")
    pieces = find_pieces(render, bos, bool(said("ggml.add_bos_token")), eos) if said("chat_template") else None
    if pieces is None:
        recorder.warn("gguf.template_not_expressed")
    special = [token for token, kind in zip(tokens, kinds, strict=False) if kind == gguf.TokenType.CONTROL]
    stops = stop_words(pieces, special, eos) if pieces else [eos]
    return modelfile(path.name, pieces, stops, None, {})


def modelfile(
    gguf_name: str, pieces: Pieces | None, stops: list[str], system: str | None, parameters: dict[str, Any]
) -> Modelfile:
    """What Ollama is to be told of a .gguf file.

    Args:
        gguf_name: the file, in the Modelfile's own folder.
        pieces: None leaves the template to Ollama, which looks into the .gguf for one that it knows.
        stops: words that end an answer.
        system: the system text; None: the chat template's default.
        parameters: more of them, as Ollama names them.
    """
    words = [stop for stop in stops if stop]
    return Modelfile(
        f"./{gguf_name}", go_template(pieces) if pieces else None,
        system if system is not None else pieces.default_system if pieces else "",
        {**({"stop": words} if words else {}), **parameters},
    )  # fmt: skip


def go_template(pieces: Pieces) -> str:
    """The chat template in Go's ``text/template`` syntax, as Ollama fills it: ``.Messages`` and ``.System``."""
    p = Pieces(**{name: _literal(value) for name, value in vars(pieces).items()})
    user_left = ("{{ if not (le $i 1) }}" + p.again + "{{ end }}" if p.again else "") + p.user[0]
    if p.system_in_user:
        user_left += "{{ if and $.System (le $i 1) }}" + p.system[0] + "{{ $.System }}" + p.system[1] + "{{ end }}"
        system_turn = ""
    else:
        system_turn = p.system[0] + "{{ .Content }}" + p.system[1]
        if p.drops_empty_system:
            system_turn = "{{ if .Content }}" + system_turn + "{{ end }}"
    head = p.start
    if pieces.without_system and not pieces.default_system:
        head = "{{ if .System }}" + p.start + "{{ else }}" + p.without_system + "{{ end }}"
    return (
        head
        + "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
        + '{{ if eq .Role "system" }}' + system_turn
        + '{{ else if eq .Role "assistant" }}' + p.assistant[0] + "{{ .Content }}"
        + "{{ if not $last }}" + p.assistant[1] + "{{ end }}"
        + "{{ else }}" + user_left + "{{ .Content }}" + p.user[1] + "{{ end }}"
        + '{{ if and $last (ne .Role "assistant") }}' + p.answer + "{{ end }}{{ end }}"
    )  # fmt: skip


def tokenizer_pieces(tokenizer) -> Pieces | None:
    """The pieces of a tokenizer's chat template, or None when there is none or it does not come apart.

    A beginning token that the tokenizer adds of itself is left out, for llama.cpp adds it too.
    """
    if not tokenizer.chat_template:
        return None

    render = _rendering(Renderer(tokenizer.chat_template, dict(tokenizer.special_tokens_map)))
    ids, bare = tokenizer.encode("a"), tokenizer.encode("a", add_special_tokens=False)
    adds_bos = ids != bare and ids[0] == tokenizer.bos_token_id
    return find_pieces(render, tokenizer.bos_token or "", adds_bos, tokenizer.eos_token or "")


def _rendering(renderer: Renderer) -> Render:
    def render(messages: list[dict[str, str]], wants_answer: bool) -> str:
        try:
            return renderer.render(messages, add_generation_prompt=wants_answer)
        except UserError as error:
            raise TemplateError(str(error)) from error

    return render


def find_pieces(render: Render, bos: str = "", adds_bos: bool = False, eos: str = "") -> Pieces | None:
    """Take a chat template apart by what it renders; None when it rewrites or drops what it is given."""
    said = [{"role": "user", "content": "USERONE"}, {"role": "assistant", "content": "ANSWERONE"},
            {"role": "user", "content": "USERTWO"}]  # fmt: skip
    try:
        before, between, after, last = _around(render(said, True), "USERONE", "ANSWERONE", "USERTWO")
        user_right = _around(render(said[:1], False), "USERONE")[1]
        assistant_right = _around(render(said[:2], False), "USERONE", "ANSWERONE")[2]
        if not between.startswith(user_right):  # Phi-3 ends a conversation, not a turn, with it
            user_right, assistant_right = user_right.removesuffix(eos), assistant_right.removesuffix(eos)
        user_left = _without(after, start=assistant_right)
        assistant_left, answer = _without(between, start=user_right), _without(last, start=user_right)
    except (ValueError, TemplateError):
        return None
    user, assistant = (user_left, user_right), (assistant_left, assistant_right)
    marks = ("SYSTEMTEXT", "USERONE", "ANSWERONE", "USERTWO")
    try:
        left, right, *rest = _around(render([{"role": "system", "content": marks[0]}, *said], True), *marks)
    except TemplateError:  # some refuse a system turn
        left, right, rest = before, "\n\n", [between, after, last]
    except ValueError:
        return None
    if rest != [between, after, last]:  # the system text changes later turns too
        return None
    strip = bos if adds_bos else ""
    if not right.endswith(user_left) or not user_left:
        return _with_system_in_user(before, left, right, Pieces("", ("", ""), user, assistant, answer), strip)
    if not before.endswith(user_left):
        return None
    alone = _without(before, end=user_left)  # start, and the default system turn if there is one
    system_right = right[: len(right) - len(user_left)]
    start = alone if left.startswith(alone) else bos if bos and _is_start(left, alone, user_left, bos) else ""
    system = (left.removeprefix(start), system_right)
    default, without_system = "", ""
    if alone != start:
        without_system = _drop(alone, strip)
        rest = alone.removeprefix(start)
        if rest.startswith(system[0]) and rest.endswith(system[1]) and len(rest) > len(system[0]) + len(system[1]):
            default = rest[len(system[0]) : len(rest) - len(system[1])]
    try:
        empty = _around(render([{"role": "system", "content": ""}, *said], True), *marks[1:])[0]
    except (ValueError, TemplateError):
        empty = ""
    return Pieces(
        _drop(start, strip), system, user, assistant, answer, without_system, default,
        drops_empty_system=empty == start + user_left,
    )  # fmt: skip


def _with_system_in_user(before: str, left: str, right: str, pieces: Pieces, strip: str) -> Pieces | None:
    """The pieces where the system text, or the default one, stands inside the first user turn.

    Args:
        before: what stands left of the first user turn's content without a system text.
        left, right: what stands around the system text.
        strip: what llama.cpp puts at the beginning itself.
    """
    opening, closing = pieces.user
    at = before.rfind(opening) if before.endswith(opening) else before.find(opening)
    start, first = before[: max(at, 0)], before[: at + len(opening)]
    if at < 0 or not left.startswith(first):
        return None
    system, default = (left[len(first) :], right), ""
    if said := before[len(first) :]:
        if not (said.startswith(system[0]) and said.endswith(system[1]) and len(said) > len("".join(system))):
            return None
        default = said[len(system[0]) : len(said) - len(system[1])]
    again = strip if strip and not start and opening.startswith(strip) else ""
    return replace(
        pieces, start=_drop(start, strip), system=system, user=(_drop(opening, again), closing), default_system=default,
        system_in_user=True, again=again,
    )  # fmt: skip


def stop_words(pieces: Pieces, special: list[str], eos: str | None) -> list[str]:
    """What ends an answer: the end token, special tokens that close it or open a turn, else the next turn's words."""
    found = [eos] if eos else []
    for text in (pieces.assistant[1], pieces.user[0]):
        tokens = sorted((text.find(token), token) for token in special if token and token in text)
        found += [token for _, token in tokens[:1]]
    if len(set(found)) <= 1 and pieces.user[0].strip():
        found.append(pieces.user[0].strip())
    return list(dict.fromkeys(found))


def sampling_parameters(folder: Path) -> dict[str, Any]:
    """PARAMETER lines from the model's ``generation_config.json``; none when it is to be greedy or says nothing."""
    names = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
             "repetition_penalty": "repeat_penalty"}  # fmt: skip
    try:
        said = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {
        ours: said[theirs] for theirs, ours in names.items() if said.get("do_sample") and said.get(theirs) is not None
    }


def _around(text: str, *marks: str) -> list[str]:
    """The text before, between and after marks that occur once each, in this order.

    Raises:
        ValueError: they do not.
    """
    if any(text.count(mark) != 1 for mark in marks):
        raise ValueError(f"not once each: {marks}")
    parts = re.split("|".join(marks), text)
    if [found.group() for found in re.finditer("|".join(marks), text)][: len(marks)] != list(marks):
        raise ValueError(f"in another order: {marks}")
    return parts


def _without(text: str, start: str = "", end: str = "") -> str:
    if not text.startswith(start) or not text.endswith(end):
        raise ValueError(f"{text!r} does not start with {start!r} and end with {end!r}")
    return text[len(start) : len(text) - len(end)]


def _drop(text: str, start: str) -> str:
    return text.removeprefix(start)


def _is_start(left: str, alone: str, user_left: str, bos: str) -> bool:
    """True if the beginning token opens the conversation rather than every turn."""
    return left.startswith(bos) and alone.startswith(bos) and not user_left.startswith(bos)


def _literal(value: Any) -> Any:
    """Text that Go takes as it stands: its own braces escaped."""
    if isinstance(value, tuple):
        return tuple(_literal(part) for part in value)
    return (
        re.sub(r"\{\{|\}\}", lambda found: f'{{{{ "{found.group()}" }}}}', value) if isinstance(value, str) else value
    )

"""One dataset as ``dataset_info.json`` describes it; knows names and defaults, opens no file of rows."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import Problem

Formatting = Literal["alpaca", "sharegpt", "openai"]
Kind = Literal["sft", "preference", "kto", "text"]


@dataclass(frozen=True)
class Columns:
    """Which column of a row plays which role; None: no column does. Defaults as LLaMA-Factory documents them."""

    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    messages: str | None = "conversations"
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None


@dataclass(frozen=True)
class Tags:
    """Keys of a turn, and what its speakers are called. Defaults as LLaMA-Factory documents them."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    observation_tag: str = "observation"
    function_tag: str = "function_call"
    system_tag: str = "system"


# An "openai" dataset is by definition a list "messages" of {"role", "content"}: the defaults of the format itself.
OPENAI_COLUMNS = Columns(messages="messages", tools="tools")
OPENAI_TAGS = Tags("role", "content", "user", "assistant", "tool", "function_call", "system")


@dataclass(frozen=True)
class Entry:
    """A dataset: where its rows are and how they are to be read.

    Args:
        name: as registered, or the path that was given.
        path: the file or folder of rows; None when they are not on this disk: they lie on a hub (or nowhere).
        inside: the dataset folder that ``path`` may not leave; None where it was written in full.
        only_prompt: of all columns only ``prompt`` is named, as for plain text. So it is read as plain text, unless
            its rows turn out to have the ``output`` that is the documented default (see ``recognise.settled``).
        split, subset, folder: which part of a dataset on a hub.
        num_samples: draw so many rows at random; None: all.
        placeholders: ``{{name}}`` and ``{{author}}`` in its texts stand for the assistant's name and maker. True for
            the dataset called "identity", whose purpose that is; never for others unless they say so.
        problem: what is wrong with the registration itself; the other entries can be used all the same.
    """

    name: str
    path: Path | None = None
    inside: Path | None = None
    formatting: Formatting = "alpaca"
    ranking: bool = False
    columns: Columns = Columns()
    tags: Tags = Tags()
    only_prompt: bool = False
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    hf_hub_url: str | None = None
    ms_hub_url: str | None = None
    om_hub_url: str | None = None
    script_url: str | None = None
    cloud_file_name: str | None = None
    placeholders: bool = False
    problem: Problem | None = None

    @property
    def kind(self) -> Kind:
        """What a row holds: an answer to learn, a better and a worse one, one with its verdict, or plain text."""
        if self.columns.kto_tag is not None:
            return "kto"
        if self.ranking:
            return "preference"
        return "text" if self.formatting == "alpaca" and self.columns.response is None else "sft"

    @property
    def is_preference(self) -> bool:
        """Whether a row holds better and worse answers (or an answer and its verdict) in place of one to learn."""
        return self.kind in ("preference", "kto")

    @property
    def is_remote(self) -> bool:
        """Whether the rows lie on a hub or in a cloud, and have to be fetched before they can be read."""
        return self.path is None and self.url is not None

    @property
    def url(self) -> str | None:
        """Where the rows are fetched from, by the name that is used there."""
        return self.hf_hub_url or self.ms_hub_url or (None if self.script_url else self.cloud_file_name)


SOURCES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
MEDIA = ("images", "videos", "audios")
TEXTS = ("subset", "split", "folder", *SOURCES)
KEYS = (
    "file_name", "formatting", "ranking", "columns", "tags", "num_samples", "placeholders", *TEXTS,
)  # fmt: skip


def entry_from(name: str, content: Any, dataset_dir: Path) -> Entry:
    """What one value of ``dataset_info.json`` says; what it leaves out has its documented default.

    A hub is preferred to a file, as in LLaMA-Factory. Whatever is wrong is noted in ``problem``, so that one slip does
    not hide all other datasets.
    """
    if not isinstance(content, dict):
        return Entry(name, problem=_problem("dataset_info_entry", name=name))
    formatting = content.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        return Entry(name, problem=_problem("dataset_formatting", name=name, formatting=formatting))
    is_openai = formatting == "openai"
    columns, wrong_column = _named(OPENAI_COLUMNS if is_openai else Columns(), content.get("columns"))
    tags, wrong_tag = _named(OPENAI_TAGS if is_openai else Tags(), content.get("tags"))
    wrong = _wrong_key(content, KEYS) or _wrong_value(content) or wrong_column or wrong_tag
    if wrong:
        return Entry(name, problem=_problem("dataset_info_key", name=name, **wrong))
    file_name = content.get("file_name")
    is_file = bool(file_name) and not any(content.get(key) for key in SOURCES)
    ranking = bool(content.get("ranking"))
    only_prompt = formatting == "alpaca" and not ranking and list(content.get("columns") or ()) == ["prompt"]
    return Entry(
        name,
        path=dataset_dir / file_name if is_file else None,
        inside=dataset_dir if is_file and not Path(file_name).is_absolute() else None,
        formatting=formatting,
        ranking=ranking,
        columns=dataclasses.replace(columns, query=None, response=None) if only_prompt else columns,
        tags=tags,
        only_prompt=only_prompt,
        num_samples=content.get("num_samples"),
        placeholders=_or(content.get("placeholders"), name == "identity"),
        **{key: content[key] for key in TEXTS if content.get(key)},
    )


def description_of(entry: Entry) -> dict[str, Any]:
    """The shortest description from which ``entry_from`` makes the same entry again.

    A path outside the dataset folder is written in full.
    """
    is_openai = entry.formatting == "openai"
    plain = Entry(entry.name)
    found: dict[str, Any] = {}
    if entry.path:
        inside = entry.inside and entry.path.is_relative_to(entry.inside)
        found["file_name"] = entry.path.relative_to(entry.inside).as_posix() if inside else str(entry.path.absolute())
    found |= {key: getattr(entry, key) for key in SOURCES if getattr(entry, key)}
    for key in ("formatting", "ranking", "subset", "split", "folder", "num_samples"):
        if getattr(entry, key) != getattr(plain, key):
            found[key] = getattr(entry, key)
    if entry.only_prompt:
        found["columns"] = {"prompt": entry.columns.prompt}
    elif columns := _differences(entry.columns, OPENAI_COLUMNS if is_openai else Columns()):
        # alone, `prompt` would say that the rows are plain text
        alone = list(columns) == ["prompt"] and entry.formatting == "alpaca" and not entry.ranking
        found["columns"] = columns | ({"response": entry.columns.response} if alone else {})
    if tags := _differences(entry.tags, OPENAI_TAGS if is_openai else Tags()):
        found["tags"] = tags
    if entry.placeholders != (entry.name == "identity"):
        found["placeholders"] = entry.placeholders
    return found


def _differences(values: Any, defaults: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(values).items() if value != getattr(defaults, key)}


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _wrong_value(content: dict[str, Any]) -> dict[str, Any] | None:
    """The first value that is not of its key's type."""
    for key, value in content.items():
        if value is None or key in ("columns", "tags", "formatting"):
            continue
        if key in ("ranking", "placeholders"):
            is_right, example = isinstance(value, bool), "true"
        elif key == "num_samples":
            is_right, example = isinstance(value, int) and not isinstance(value, bool) and value > 0, "1000"
        else:
            is_right, example = isinstance(value, str), '"…"'
        if not is_right:
            return {"word": f"{key}: {value!r}", "choices": f"{key}: {example}"}
    return None


def _wrong_key(given: dict[str, Any], names: Iterable[str]) -> dict[str, Any] | None:
    """The first key that is not known, with the nearest name."""
    names = list(names)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            return {"word": key, "choices": near[0] if near else ", ".join(names)}
    return None


def _named(defaults: Any, given: Any) -> tuple[Any, dict[str, Any] | None]:
    """The defaults with what is given in place, and the first key or value that is not understood."""
    if given is None:
        return defaults, None
    names = [field.name for field in dataclasses.fields(defaults)]
    if not isinstance(given, dict):
        return defaults, {"word": given, "choices": ", ".join(names)}
    if wrong := _wrong_key(given, names):
        return defaults, wrong
    for key, value in given.items():
        if not (isinstance(value, str) and value) and not (value is None and isinstance(defaults, Columns)):
            return defaults, {"word": f"{key}: {value!r}", "choices": f'{key}: "…"'}
    return dataclasses.replace(defaults, **given), None


def _problem(key: str, **facts: Any) -> Problem:
    return Problem(key, "dataset", facts)

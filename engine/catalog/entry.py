"""One dataset as ``dataset_info.json`` describes it; knows names and defaults, opens no file of rows."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import Problem

Formatting = Literal["alpaca", "sharegpt", "openai"]


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
        path: the file or folder of rows; None when they are not on this disk.
        inside: the dataset folder that ``path`` may not leave; None where it was written in full.
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
    def is_preference(self) -> bool:
        """Whether a row holds better and worse answers (or an answer and its verdict) in place of one to learn."""
        return self.ranking or self.columns.kto_tag is not None


SOURCES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
PLAIN = ("subset", "split", "folder", "num_samples", *SOURCES)


def entry_from(name: str, content: Any, dataset_dir: Path) -> Entry:
    """What one value of ``dataset_info.json`` says; what it leaves out has its documented default.

    Whatever is wrong with it is noted in ``problem``, so that one slip does not hide all other datasets.
    """
    if not isinstance(content, dict):
        return Entry(name, problem=_problem("dataset_info_entry", name=name))
    formatting = content.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        return Entry(name, problem=_problem("dataset_formatting", name=name, formatting=formatting))
    is_openai = formatting == "openai"
    columns, wrong_column = _named(OPENAI_COLUMNS if is_openai else Columns(), content.get("columns"))
    tags, wrong_tag = _named(OPENAI_TAGS if is_openai else Tags(), content.get("tags"))
    wrong = wrong_column or wrong_tag
    file_name = content.get("file_name")
    path = dataset_dir / file_name if isinstance(file_name, str) and file_name else None
    return Entry(
        name,
        path=path,
        inside=dataset_dir if path and not Path(file_name).is_absolute() else None,
        formatting=formatting,
        ranking=bool(content.get("ranking", False)),
        columns=columns,
        tags=tags,
        placeholders=bool(content.get("placeholders", name == "identity")),
        problem=_problem("dataset_info_key", name=name, **wrong) if wrong else None,
        **{key: content[key] for key in PLAIN if content.get(key) is not None},
    )


def _named(defaults: Any, given: Any) -> tuple[Any, dict[str, Any] | None]:
    """The defaults with what is given in place, and the first key or value that is not understood."""
    if given is None:
        return defaults, None
    names = [field.name for field in dataclasses.fields(defaults)]
    if not isinstance(given, dict):
        return defaults, {"word": given, "choices": ", ".join(names)}
    for key, value in given.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.5)
            return defaults, {"word": key, "choices": near[0] if near else ", ".join(names)}
        if not isinstance(value, str) and not (value is None and isinstance(defaults, Columns)):
            return defaults, {"word": f"{key}: {value!r}", "choices": f'{key}: "…"'}
    return dataclasses.replace(defaults, **given), None


def _problem(key: str, **facts: Any) -> Problem:
    return Problem(key, "dataset", facts)

"""Multiple-choice questions as MMLU, CMMLU and C-Eval publish them: one CSV for each subject and split, and prompts.

A task ``<set>_<split>`` lies in ``<task_dir>/<set>``: folders ``test``, ``val`` and ``dev`` of CSV files, or a zip file
that holds them, and perhaps ``mapping.json``, which names each subject and its category.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine.errors import UserError

LETTERS = ("A", "B", "C", "D")
FOLDERS = {"test": "test", "validation": "val", "train": "dev"}
COLUMNS = ("question", *(letter.lower() for letter in LETTERS), "answer")
NO_CATEGORY = "Other"
WORDS = {
    "en": {
        "head": "The following are multiple choice questions (with answers) about {subject}.\n\n",
        "answer": "\nAnswer:",
    },
    "zh": {"head": "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n", "answer": "\n答案："},
}  # fmt: skip
"""What stands around a question: the words of LLaMA-Factory's evaluation, so that numbers can be compared."""


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        row: its number in the subject's file, counted from 1.
        answer: one of ``LETTERS``.
    """

    row: int
    question: str
    options: tuple[str, ...]
    answer: str

    def text(self, language: str) -> str:
        choices = "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, self.options, strict=True))
        return f"{self.question}{choices}{WORDS[language]['answer']}"


@dataclass(frozen=True)
class Subject:
    """One subject of a task: its questions, and the solved ones that are shown before each."""

    key: str
    name: str
    category: str
    questions: tuple[Question, ...]
    solved: tuple[Question, ...]

    def messages(self, question: Question, language: str, n_shot: int) -> list[dict[str, str]]:
        """The conversation in which the answer comes next. The first solved questions of the file are shown."""
        turns = []
        for each in self.solved[:n_shot]:
            turns += [
                {"role": "user", "content": each.text(language)}, {"role": "assistant", "content": each.answer}
            ]  # fmt: skip
        turns.append({"role": "user", "content": question.text(language)})
        turns[0]["content"] = WORDS[language]["head"].format(subject=self.name) + turns[0]["content"]
        return turns


def read_task(task_dir: Path, task: str, most: int | None = None) -> list[Subject]:
    """The subjects of a task, by their keys.

    Args:
        most: so many questions of each subject, from its start; None: all.

    Raises:
        UserError: the folder, its files or the split are not there, or a row is no question with four answers.
    """
    name, _, split = task.rpartition("_")
    folder = task_dir / name
    if not folder.is_dir():
        raise UserError("eval.task_missing", task=task, path=folder)
    asked, solved = FOLDERS[split], FOLDERS["train"]
    files: dict[str, dict[str, tuple[Path, str | None]]] = {}
    for place in _csv_files(folder):
        found = _subject_and_split(PurePosixPath(place[1] or place[0].as_posix()))
        if found:
            files.setdefault(found[1], {})[found[0]] = place
    mapping = _mapping(folder / "mapping.json")
    subjects = [
        Subject(
            key, mapping.get(key, {}).get("name", key.replace("_", " ")),
            mapping.get(key, {}).get("category", NO_CATEGORY),
            tuple(_questions(place))[:most],
            tuple(_questions(files[solved][key])) if key in files.get(solved, {}) else (),
        )
        for key, place in sorted(files.get(asked, {}).items())
    ]  # fmt: skip
    if not any(subject.questions for subject in subjects):
        raise UserError("eval.task_split_missing", task=task, path=folder, split=asked)
    return [subject for subject in subjects if subject.questions]


def _csv_files(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Each as its file, or as an archive and a name in it."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".csv":
            yield path, None
        elif path.suffix == ".zip":
            try:
                with zipfile.ZipFile(path) as archive:
                    names = sorted(archive.namelist())
            except (OSError, zipfile.BadZipFile) as error:
                raise UserError("file_unreadable", path=path, detail=error) from error
            yield from ((path, name) for name in names if name.endswith(".csv"))


def _subject_and_split(path: PurePosixPath) -> tuple[str, str] | None:
    """``…/val/law_val.csv`` and ``…/val/law.csv`` → law, val."""
    split = path.parent.name
    if split not in FOLDERS.values() or path.name.startswith("."):
        return None
    return re.sub(rf"_{split}$", "", path.stem), split


def _questions(place: tuple[Path, str | None]) -> Iterator[Question]:
    path, inside = place
    label = f"{path}:{inside}" if inside else str(path)
    try:
        if inside:
            with zipfile.ZipFile(path) as archive:
                text = archive.read(inside).decode("utf-8-sig")
        else:
            text = path.read_text(encoding="utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except (OSError, UnicodeDecodeError, csv.Error, zipfile.BadZipFile) as error:
        raise UserError("file_unreadable", path=label, detail=error) from error
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if {"question", "a", "b"} <= set(head):  # MMLU's own files have no head, C-Eval's and CMMLU's have one
        at, rows = [head.index(name) if name in head else None for name in COLUMNS], rows[1:]
        has_four = None not in at and "e" not in head
    else:
        at, has_four = list(range(len(COLUMNS))), True
    for number, row in enumerate(rows, start=1):
        cells = [row[index] if index is not None and index < len(row) else "" for index in at]
        answer = cells[-1].strip().upper()
        if not has_four or answer not in LETTERS or not cells[0].strip():
            raise UserError("eval.task_row", path=label, row=number)
        yield Question(number, cells[0], tuple(cells[1:-1]), answer)


def _mapping(path: Path) -> dict[str, dict[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {key: dict(said) for key, said in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError("file_unreadable", path=path, detail=error) from error

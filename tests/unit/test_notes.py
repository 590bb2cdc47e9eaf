"""Title and note of a run: kept beside it, found by it, never lost to somebody who says another thing meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.runs.card import card
from engine.runs.folder import SAVES, Folder, find_folder
from engine.runs.listing import filtered, listed
from engine.runs.notes import Notes, read_notes, rename, write_note
from engine.runs.read import list_runs
from engine.runs.record import update_state
from terminal.run_list import list_them
from terminal.runs import runs

PROJECT = Path(__file__).resolve().parent.parent.parent
MANY_TITLES = """
import sys
from pathlib import Path
from engine.runs.folder import Folder
from engine.runs.notes import read_notes, rename, write_note
folder, say = Folder(Path(sys.argv[1])), {"rename": rename, "note": write_note}[sys.argv[2]]
print("ready", flush=True)
sys.stdin.readline()
for number in range(200):
    say(folder, f"{number}")
    kept = read_notes(folder)
    assert f"{number}" == (kept.title if say is rename else kept.note), "another one has undone it"
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_run(name: str = "model/lora/train_1") -> Folder:
    folder = Folder(SAVES / name)
    folder.path.mkdir(parents=True)
    update_state(folder, kind="train", status="done", started_at=1e9)
    return folder


def test_a_title_and_a_note_are_kept_and_go_again():
    folder = a_run()
    assert read_notes(folder) == Notes()
    assert rename(folder, "  Größe 文 👩‍🔬 \t") == "Größe 文 👩‍🔬"
    write_note(folder, "first\r\n\nsecond\n")
    assert read_notes(folder) == Notes("Größe 文 👩‍🔬", "first\n\nsecond")
    assert folder.path.is_dir() and find_folder("train_1") == folder, "a title moves nothing"
    rename(folder, "")
    assert read_notes(folder) == Notes("", "first\n\nsecond")
    write_note(folder, " ")
    assert not folder.notes.exists()


@pytest.mark.parametrize("title", ["x" * 121, "two\nlines", "\x1b[2J", "a\u2028b", "\ud800"])
def test_what_is_no_title_is_refused(title):
    folder = a_run()
    rename(folder, "before")
    with pytest.raises(UserError) as refused:
        rename(folder, title)
    assert refused.value.text() and read_notes(folder).title == "before"
    assert rename(folder, "x" * 120)


def test_two_who_speak_at_once_do_not_undo_each_other():
    folder = a_run()
    speakers = [
        subprocess.Popen(
            [sys.executable, "-c", MANY_TITLES, folder.path, what], env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for what in ("rename", "note")
    ]  # fmt: skip
    for each in speakers:
        assert each.stdout.readline() == "ready\n"
    for each in speakers:
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in speakers:
        each.communicate()
        assert each.returncode == 0
    assert read_notes(folder) == Notes("199", "199")


def test_a_run_that_is_gone_gets_no_note():
    with pytest.raises(UserError) as refused:
        rename(Folder(SAVES / "gone"), "title")
    assert refused.value.key == "run_unknown" and not SAVES.exists()


def test_notes_that_somebody_broke_are_none():
    folder = a_run()
    for broken in ("", "[]", '{"title": null}', "{"):
        folder.notes.write_text(broken)
        assert read_notes(folder) == Notes()


def test_a_run_is_found_by_its_title_when_no_name_is_meant():
    first, second = a_run("m/lora/first"), a_run("m/lora/second")
    long = "文" * 120  # as a path it would be too long for any file system
    rename(first, long)
    assert find_folder(long).path == first.path
    rename(second, "first")
    assert find_folder("first").path == first.path, "a name comes before a title"
    rename(first, "same")
    rename(second, "same")
    with pytest.raises(LookupError) as ambiguous:
        find_folder("same")
    assert sorted(ambiguous.value.args) == ["m/lora/first", "m/lora/second"]
    with pytest.raises(LookupError) as unknown:
        find_folder("sam")
    assert unknown.value.args == ()


def test_the_list_and_the_card_tell_them(capsys):
    folder = a_run()
    a_run("model/lora/other")
    rename(folder, "Small poems")
    write_note(folder, "with the\nlower rate")
    assert [row.title for row in filtered(listed(), "POEMS lower")] == ["Small poems"]
    list_them(["poems"], "en")
    assert '"Small poems"' in capsys.readouterr().out
    list_them(["--json", "poems"], "en")
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["title"], told["note"]) == ("Small poems", "with the\nlower rate")
    assert card(folder).startswith("# Small poems\n\n`model/lora/train_1`\n\n> with the\n> lower rate\n\n")


def test_no_notes_are_opened_where_there_are_none(monkeypatch):
    folder = a_run()
    rename(a_run("model/lora/other"), "title")
    opened = []
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *rest, **more: opened.append(path) or real(path, *rest, **more))
    assert sorted(row.title for row in listed()) == ["", "title"]
    assert folder.state in opened and folder.notes not in opened
    rename(folder, "now it has one")
    assert {each.name: read_notes(each).title for each, _ in list_runs()}[folder.name] == "now it has one"


def test_in_the_terminal(capsys):
    folder = a_run()
    assert runs(["rename", "train_1", "Small", "poems"], "en") == 0
    assert runs(["note", "Small poems", "--", "twice"], "en") == 0
    capsys.readouterr()
    assert runs(["rename", "train_1"], "en") == 0 and runs(["note", "train_1"], "en") == 0
    assert capsys.readouterr().out == "Small poems\n-- twice\n"
    assert runs(["rename", "train_1", ""], "en") == 0
    assert read_notes(folder) == Notes("", "-- twice")

"""Registering: the one entry is written, all else stays as it was to the byte, and nothing that was there is lost."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.datasets import find_entry, read_rows, registered
from engine.catalog.register import add_file, is_name, register, undo
from tests.unit.house import PROJECT
from tests.unit.test_datasets import ROW, refused

SIMPLE = {"file_name": "rows.json"}
ODD = (
    '\ufeff{\r\n\t"a" : {"file_name":"rows.json","num_samples":  1},\r\n'
    '\t"b":{ "new_key": 1.50, "x": "\\u00e9" }\r\n}\r\n\r\n'
)
"""An info file as an editor on Windows may leave it."""


@pytest.fixture
def folder(tmp_path) -> Path:
    folder = tmp_path / "my data 🙂"
    folder.mkdir()
    (folder / "rows.json").write_text(json.dumps([ROW]))
    return folder


def info(folder: Path) -> Path:
    return folder / "dataset_info.json"


def left_in(folder: Path) -> list[str]:
    """What lies in the folder, but for the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".dataset_info.json.lock")


def test_the_first_entry_makes_the_file_and_undoing_it_removes_it(folder):
    done = register(folder, "Моё 数据 1.0", SIMPLE)
    assert list(read_rows(find_entry(folder, "Моё 数据 1.0"))) == [(1, ROW)]
    assert json.loads(info(folder).read_text(encoding="utf-8")) == {"Моё 数据 1.0": SIMPLE}
    assert "Моё 数据" in info(folder).read_text(encoding="utf-8")
    undo(done)
    assert left_in(folder) == ["rows.json"]


@pytest.mark.parametrize("text", ["{}", " { } ", "{\n}\n", '{"a": {"file_name": "x"}}', ODD, '{\n    "a": {}\n}'])
def test_all_else_stays_as_it_was_to_the_byte(folder, text):
    info(folder).write_bytes(text.encode())
    before = json.loads(text.removeprefix("\ufeff"))
    done = register(folder, "new", SIMPLE)
    after = info(folder).read_bytes().decode()
    found = json.loads(after.removeprefix("\ufeff"))
    assert list(found.items()) == [*before.items(), ("new", SIMPLE)]
    for line in text.strip().strip("{}").strip().splitlines():
        assert line.strip() in after
    assert after.count("\r\n") == (after.count("\n") if "\r\n" in text else 0)
    undo(done)
    assert json.loads(info(folder).read_bytes().decode().removeprefix("\ufeff")) == before
    if before:
        assert info(folder).read_bytes() == text.encode()


def test_an_entry_is_replaced_only_on_purpose_and_comes_back_as_it_was_written(folder):
    info(folder).write_bytes(ODD.encode())
    refused("dataset_name_taken", register, folder, "b", SIMPLE)
    assert info(folder).read_bytes() == ODD.encode()
    done = register(folder, "b", SIMPLE, True)
    assert registered(folder)["b"].path == folder / "rows.json"
    undo(done)
    assert info(folder).read_bytes() == ODD.encode()


def test_undoing_takes_out_its_own_entry_only(folder):
    first, second, third = (register(folder, name, SIMPLE) for name in "abc")
    undo(second)
    assert list(registered(folder)) == ["a", "c"]
    undo(first)
    assert list(registered(folder)) == ["c"]
    refused("dataset_changed", undo, first)
    register(folder, "c", {**SIMPLE, "num_samples": 3}, replace=True)
    refused("dataset_changed", undo, third)
    assert registered(folder)["c"].num_samples == 3


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (b'{"a": {"file_name": "rows.json"}', "dataset_line"),
        (b'{"a": {"file_name": "rows.json"},}', "dataset_line"),
        (b"", "dataset_line"),
        (b"[]", "file_no_mapping"),
        (b'{"\xe9": {}}', "file_not_utf8"),
        ("{}".encode("utf-16"), "file_not_utf8"),
    ],
)
def test_what_cannot_be_read_is_not_written_to(folder, text, key):
    info(folder).write_bytes(text)
    refused(key, register, folder, "new", SIMPLE)
    assert info(folder).read_bytes() == text
    assert left_in(folder) == ["dataset_info.json", "rows.json"]


@pytest.mark.parametrize(
    ("description", "key"),
    [
        ({"file_name": "missing.json"}, "dataset_file_missing"),
        ({"file_name": "../rows.json"}, "dataset_outside"),
        ({"file_name": "rows.json", "columns": {"promt": "x"}}, "dataset_info_key"),
        ({"file_name": "rows.json", "columns": {"images": "x"}}, "dataset_media"),
        ({}, "dataset_without_file"),
    ],
)
def test_what_could_not_be_used_is_not_registered(folder, description, key):
    (folder.parent / "rows.json").write_text("[]")
    refused(key, register, folder, "new", description)
    assert not info(folder).exists()


def test_hub_datasets_can_be_registered(folder):
    register(folder, "far", {"hf_hub_url": "me/data", "subset": "en"})
    assert registered(folder)["far"].hf_hub_url == "me/data"


@pytest.mark.parametrize("name", ["", " ", " a", "a ", ".a", "-a", "a/b", "a\\b", 'a"b', "a,b", "a\n", "🙂", "a" * 101])
def test_names_that_are_none(folder, name):
    assert not is_name(name)
    refused("dataset_name", register, folder, name, SIMPLE)


@given(st.text(max_size=12).filter(is_name))
def test_every_name_that_is_one_can_be_registered(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("data")
    (folder / "rows.json").write_text(json.dumps([ROW]))
    register(folder, "other", SIMPLE)
    register(folder, name, SIMPLE, replace=True)
    assert find_entry(folder, name).path == folder / "rows.json"
    assert set(registered(folder)) == {"other", name}


def test_a_folder_that_is_not_there(tmp_path):
    refused("dataset_dir_missing", register, tmp_path / "nowhere", "a", SIMPLE)
    refused("dataset_dir_missing", add_file, tmp_path / "nowhere", tmp_path / "a.json", "a.json")


def test_of_many_visitors_none_loses_an_entry(folder):
    """Processes of their own, as several servers on one folder are."""
    code = (
        "import sys; from pathlib import Path; from engine.catalog.register import register\n"
        "for n in range(8): register(Path(sys.argv[1]), f'{sys.argv[2]} {n}', {'file_name': 'rows.json'})"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), visitor], cwd=PROJECT) for visitor in ("a", "b", "c")
    ]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert sorted(registered(folder)) == sorted(f"{visitor} {n}" for visitor in "abc" for n in range(8))
    assert left_in(folder) == ["dataset_info.json", "rows.json"]


def test_a_write_that_fails_leaves_all_as_it_was(folder, monkeypatch):
    register(folder, "a", SIMPLE)
    before = info(folder).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert "No space" in refused("file_not_written", register, folder, "b", SIMPLE).text()
    refused("file_not_copied", add_file, folder, folder / "rows.json", "copy.json")
    assert info(folder).read_bytes() == before
    assert left_in(folder) == ["dataset_info.json", "rows.json"]


def test_a_link_and_its_rights_stay(folder):
    target = folder.parent / "info.json"
    target.write_text("{}")
    target.chmod(0o640)
    info(folder).symlink_to(target)
    register(folder, "a", SIMPLE)
    assert info(folder).is_symlink()
    assert list(json.loads(target.read_text())) == ["a"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rows.jsonl", "rows.jsonl"),
        ("my rows 🙂 данные.csv", "my rows 🙂 данные.csv"),
        ("/tmp/gradio/abc/rows.jsonl", "rows.jsonl"),
        ("..\\..\\rows.jsonl", "rows.jsonl"),
        ("../../etc/passwd.txt", "passwd.txt"),
        (".hidden.json", "hidden.json"),
        ('a"b<c>|?*.json', "a_b_c____.json"),
        ("a\nb.json", "a_b.json"),
        ("dataset_info.json", "dataset_info-2.json"),
        ("rows.json", "rows-2.json"),
        ("é" * 300 + ".JSON", "é" * 100 + ".JSON"),
    ],
)
def test_a_file_is_copied_under_a_safe_name_that_is_free(folder, name, expected):
    source = folder.parent / "upload"
    source.write_bytes(b"[1]")
    path = add_file(folder, source, name)
    assert (path.name, path.parent, path.read_bytes()) == (expected, folder, b"[1]")
    assert json.loads((folder / "rows.json").read_text()) == [ROW]
    assert source.exists()


def test_copies_of_one_name_do_not_replace_each_other(folder):
    for content in ("1", "2", "3"):
        (folder.parent / "upload").write_text(content)
        add_file(folder, folder.parent / "upload", "up.txt")
    assert [(folder / name).read_text() for name in ("up.txt", "up-2.txt", "up-3.txt")] == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["rows.exe", "rows", "", ".json", "a.json/"])
def test_a_file_of_another_kind_is_not_copied(folder, name):
    refused("dataset_suffix", add_file, folder, folder / "rows.json", name)
    assert left_in(folder) == ["rows.json"]


def test_a_file_that_cannot_be_read_leaves_nothing_behind(folder):
    refused("file_not_copied", add_file, folder, folder.parent / "missing", "a.json")
    refused("file_not_copied", add_file, folder, folder.parent, "a.json")
    assert left_in(folder) == ["rows.json"]

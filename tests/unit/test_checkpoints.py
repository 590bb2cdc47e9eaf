"""However a process is cut short while it saves, a complete checkpoint is left, and a damaged one is known as such."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest

from engine.runs.checkpoints import MANIFEST, damage, is_complete, numbered, put_in_place, remove_older, seal, settle


class Killed(BaseException):
    """In place of SIGKILL: nothing after it is done."""


def write(folder: Path, step: int) -> Path:
    made = folder / ".saving" / f"checkpoint-{step}"
    made.mkdir(parents=True)
    for name in ("weights.bin", "optimizer.bin", "trainer_state.json"):
        (made / name).write_text(json.dumps({"step": step, "content": "x" * 1000}))
    return made


def save(folder: Path, step: int, keep: int | None) -> None:
    made = write(folder, step)
    seal(made)
    put_in_place(made, folder / made.name)
    remove_older(folder, step, keep, None)


def steps(folder: Path) -> list[int]:
    intact = [path for path in numbered(folder) if damage(path) is None]
    assert all((path / name).is_file() for path in intact for name in ("weights.bin", "optimizer.bin"))
    return [int(path.name[11:]) for path in intact]


OPERATIONS = ((os, "unlink"), (os, "rmdir"), (os, "rename"), (os, "replace"), (os, "fsync"), (Path, "write_text"),
              (Path, "rename"), (Path, "unlink"))  # fmt: skip


@pytest.mark.parametrize("again", [False, True], ids=["a later step", "the same step once more"])
@pytest.mark.parametrize("keep", [1, 2, None])
def test_killed_before_any_change_to_the_disk(tmp_path, monkeypatch, keep, again):
    """With each operation in turn as the one before which the process dies."""
    step, at = (10 if again else 20), 0
    while True:
        folder = tmp_path / str(at)
        for earlier in (5, 10):
            save(folder, earlier, keep)
        left = at

        def dying(usual):
            def operation(*given, **named):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return usual(*given, **named)

            return operation

        with monkeypatch.context() as patch:
            for owner, name in OPERATIONS:
                patch.setattr(owner, name, dying(getattr(owner, name)))
            try:
                save(folder, step, keep)
                was_killed = False
            except Killed:
                was_killed = True
        settle(folder, folder / ".saving")
        assert steps(folder)[-1] in (10, step), f"after {at} operations there is {steps(folder)}"
        assert not (folder / ".saving").exists()
        save(folder, 30, 1)
        assert [path.name for path in numbered(folder)] == ["checkpoint-30"], "no litter stays"
        if not was_killed:
            break
        at += 1
    assert at > 8, "the operations were not caught"


@pytest.mark.parametrize("name", ["weights.bin", "optimizer.bin", "trainer_state.json", "manifest.json"])
def test_damage_is_known(tmp_path, name):
    save(tmp_path, 7, None)
    checkpoint = tmp_path / "checkpoint-7"
    assert damage(checkpoint) is None and is_complete(checkpoint)
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[:-40])
    assert damage(checkpoint) == name and not is_complete(checkpoint)
    (checkpoint / name).unlink()
    assert is_complete(checkpoint) == (name == "manifest.json"), "another program's checkpoint has no list"
    if name != "manifest.json":
        (checkpoint / name).write_bytes(content[:-1] + b"?")
        assert damage(checkpoint) == name and is_complete(checkpoint), "its size is right, its content is not"


def test_a_damaged_one_does_not_count_among_those_that_are_kept(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step, None)
    (tmp_path / "checkpoint-15" / "weights.bin").unlink()
    shutil.rmtree(tmp_path / ".saving", ignore_errors=True)
    save(tmp_path, 12, 2)
    assert [path.name for path in numbered(tmp_path)] == ["checkpoint-10", "checkpoint-12"]


@pytest.mark.parametrize(
    "content",
    [
        [], {}, "text", 3, None, {"trainer_state.json": 7}, {"trainer_state.json": [5]},
        {"trainer_state.json": ["5", 1]}, {"trainer_state.json": [None, None]},
        {"trainer_state.json": [1, 2, 3]}, {"trainer_state.json": {}},
        {"weights.bin": [1, 2]}, {"../state.json": [1, None]}, {"/etc/hostname": [1, None]},
    ],
)  # fmt: skip
def test_a_list_of_another_shape_counts_as_damaged(tmp_path, content):
    save(tmp_path, 5, None)
    listed = json.loads((tmp_path / "checkpoint-5" / MANIFEST).read_text())
    wrong = {**listed, **content} if isinstance(content, dict) and content else content
    if content == {"weights.bin": [1, 2]}:
        wrong = content  # it does not list the state
    (tmp_path / "checkpoint-5" / MANIFEST).write_text(json.dumps(wrong))
    assert damage(tmp_path / "checkpoint-5") == MANIFEST
    (tmp_path / "checkpoint-5" / MANIFEST).write_text("[" * 100_000)
    assert damage(tmp_path / "checkpoint-5") == MANIFEST


def test_a_large_file_is_summed_too_and_one_that_an_earlier_version_did_not_sum_is_known_by_its_size(tmp_path):
    made = write(tmp_path, 5)
    large = os.urandom(1 << 20) * 70
    (made / "weights.bin").write_bytes(large)
    seal(made)
    put_in_place(made, tmp_path / made.name)
    path = tmp_path / "checkpoint-5" / "weights.bin"
    listed = json.loads((path.parent / MANIFEST).read_text())
    assert listed["weights.bin"] == [len(large), zlib.crc32(large)]
    path.write_bytes(large[:-1] + bytes([large[-1] ^ 1]))
    assert damage(path.parent) == "weights.bin"
    listed["weights.bin"][1] = None
    (path.parent / MANIFEST).write_text(json.dumps(listed))
    assert damage(path.parent) is None
    path.write_bytes(b"")
    assert damage(path.parent) == "weights.bin"

"""Which run a name that comes from a browser means: one of those below ``saves``, and nothing else on the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.runs.folder import Folder
from engine.runs.record import update_state
from webui import live
from webui.compare import _folders


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two runs below ``saves``, one elsewhere with a link there, and one elsewhere without."""
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    live.forget_list()
    for path in ("saves/m/lora/first", "saves/m/lora/second", "../linked", "../foreign"):
        folder = Folder(Path(path))
        folder.path.mkdir(parents=True)
        update_state(folder, kind="train", status="done", started_at=1e9, finished_at=1e9 + 1)
    Path("saves/link").symlink_to(tmp_path / "linked", target_is_directory=True)
    return tmp_path


def test_runs_below_saves_are_found_by_name_and_by_the_last_part(runs):
    assert live.named_run("m/lora/first").path == Path("saves/m/lora/first")
    assert live.named_run("second").path == Path("saves/m/lora/second")
    assert live.named_run("link").path.resolve() == runs / "linked"
    assert live.named_run("third") is live.named_run("") is live.named_run(None) is None
    folder = Folder(Path("saves/m/lora/third"))
    folder.path.mkdir()
    update_state(folder, kind="train", status="running", started_at=2e9)
    assert live.named_run("m/lora/third") is not None, "begun since the last look"
    assert live.chosen_run("m/lora/first", "train").name == "m/lora/first"


@pytest.mark.parametrize("name", [
    "../foreign", "saves/../../foreign", "m/lora/../../../../foreign", "{outside}/foreign", "foreign", "..", ".", "/",
    "..\\foreign", "m/lora/first/../../../../foreign", "\0", "m/lora/first\0", "~/foreign", "$HOME", "-rf",
])  # fmt: skip
def test_a_folder_elsewhere_is_no_run(runs, name):
    assert live.named_run(name.replace("{outside}", str(runs))) is None
    shown = live.chosen_run(name.replace("{outside}", str(runs)), "train")
    assert shown is not None and shown.path.is_relative_to("saves")


def test_runs_are_compared_by_their_whole_names(runs):
    names = ["m/lora/first", "../foreign", "second", "m/lora/second", f"{runs}/foreign"]
    found = [folder.state.is_file() for folder in _folders(names)]
    assert found == [True, False, False, True, False]

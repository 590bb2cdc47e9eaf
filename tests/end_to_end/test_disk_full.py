"""A disk that fills up while results are saved: told in plain words, and nothing half-written under a final name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def small_disk(workplace):
    """A disk of 2 MB at ``saves``: enough for a log, too small for a tokenizer of 3.5 MB."""
    saves = workplace / "saves"
    saves.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", saves], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield saves
    subprocess.run(["umount", "-l", saves], check=True)


def test_nothing_half_written_has_its_final_name(small_disk, workplace, tiny_model):
    rows = workplace / "rows.json"
    rows.write_text(json.dumps([{"instruction": f"Say {n}", "output": f"number {n}"} for n in range(8)]))
    command = [
        sys.executable, str(PROJECT / "app.py"), "train", "--model_name_or_path", str(tiny_model),
        "--dataset", str(rows),
        "--output_dir", "saves/run", "--max_steps", "2", "--save_strategy", "no",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr
    assert json.loads((small_disk / "run" / "state.json").read_text())["status"] == "failed"
    left = {path.name for path in (small_disk / "run").iterdir()}
    assert not left & {"adapter_model.safetensors", "tokenizer.json", ".saving"}
    assert "No space left" in (small_disk / "run" / "running_log.txt").read_text()

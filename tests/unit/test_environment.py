"""``make`` keeps a torch that the user already has, if it is new enough, and installs the tested one otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from environment import lower_bound, release
from tests.unit.house import PROJECT


def a_python_with_torch(folder: Path, version: str) -> Path:
    """A user's own virtual environment, with a package that says it is torch."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    about = next(folder.glob("lib/python3*/site-packages")) / f"torch-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return folder / "bin" / "python"


def make_environment(folder: Path, python: Path) -> subprocess.CompletedProcess:
    for name in ("requirements.txt", "constraints.txt", "environment.py"):
        shutil.copy(PROJECT / name, folder)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "environment.py", ".venv"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)


def torch_seen(folder: Path) -> str:
    code = "import importlib.metadata as m; print([d.version for d in m.distributions(name='torch')])"
    command = [str(folder / ".venv" / "bin" / "python"), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(("version", "is_kept"), [("2.9.1+cu130", True), ("2.5.9", False)])
def test_a_torch_that_is_there(version, is_kept, tmp_path):
    said = make_environment(tmp_path, a_python_with_torch(tmp_path / "user", version)).stdout
    lines = (tmp_path / ".venv" / "constraints.txt").read_text().splitlines()
    tested = (PROJECT / "constraints.txt").read_text().splitlines()
    assert (version in said) is is_kept
    assert torch_seen(tmp_path) == (f"['{version}']" if is_kept else "[]")
    assert [line for line in tested if line not in lines] == ([_torch_line(tested)] if is_kept else [])
    subprocess.run([str(tmp_path / ".venv" / "bin" / "python"), "-m", "pip", "--version"], check=True)


def test_versions_are_compared_as_numbers():
    assert release("2.13.0+cpu") == (2, 13, 0) > release("2.6") == (2, 6)
    assert release("2.14.0.dev20260101") > (2, 6)
    assert lower_bound("torch", "# torch>=1\ntorch>=2.6   # reason\n") == (2, 6)


def test_every_requirement_has_a_tested_version_above_its_bound():
    tested = dict(
        line.split(" ;")[0].lower().split("==")
        for line in (PROJECT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    text = (PROJECT / "requirements.txt").read_text() + (PROJECT / "requirements-test.txt").read_text()
    names = [line.split(">=")[0] for line in text.splitlines() if ">=" in line]
    assert len(names) > 20
    assert [name for name in names if release(tested.get(name, "0")) < lower_bound(name, text)] == []


def _torch_line(lines: list[str]) -> str:
    return next(line for line in lines if line.startswith("torch=="))

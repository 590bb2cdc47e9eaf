"""The commands that only look: env, data, runs; and the overview."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from engine.words import LANGUAGES

PROJECT = Path(__file__).resolve().parent.parent.parent


def lathe(*words):
    command = [sys.executable, str(PROJECT / "app.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("language", LANGUAGES)
def test_env_names_versions_and_devices(workplace, language):
    shown = lathe("env", "--lang", language)
    assert shown.returncode == 0, shown.stderr
    assert "torch" in shown.stdout and "cpu: " in shown.stdout.replace("：", ": ")


def test_data_lists_and_shows(workplace):
    assert "spo_demo_zh_test" in lathe("data", "list").stdout
    shown = lathe("data", "show", "identity", "--limit", "1")
    assert json.loads(shown.stdout) == json.loads((PROJECT / "data" / "identity.json").read_text("utf-8"))[0]
    assert lathe("data", "show", "identty").returncode == 2


def test_no_runs_yet(workplace):
    assert lathe("runs", "list").returncode == 0
    missing = lathe("runs", "watch", "nothing")
    assert missing.returncode == 2 and "nothing" in missing.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["train", "--help"], ["runs", "--help"], ["data", "--help"]], ids=" ".join
)
def test_help(words):
    shown = lathe(*words)
    assert shown.returncode == 0 and "python app.py" in shown.stdout


def test_an_unknown_command_names_the_known(workplace):
    refused = lathe("tarin")
    assert refused.returncode == 2 and "train" in refused.stderr and "Traceback" not in refused.stderr

"""What a browser kept of a form: taken back option by option, whatever wrote it; and never a secret."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from engine.options.base import Names, Options
from engine.options.option import option
from tests.conftest import PROJECT
from webui.form import FURTHER, Form
from webui.kept import _keep, kept_inputs, taken_back
from webui.language import Texts


class _Job(Options):
    """Options under names that have words."""

    dataset_dir: str = option("data")
    dataset: Names = option(())
    adapter_name_or_path: Names = option(())
    model_name_or_path: str = option("models/SmolLM2-135M-Instruct")
    lora_rank: int = option(8, ge=1)
    learning_rate: float = option(1e-4)
    packing: bool | None = option(None)
    system: str = option("", control="password")


@pytest.fixture
def form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Form:
    (tmp_path / "data").symlink_to(PROJECT / "data")
    (tmp_path / "saves" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    form = Form(_Job, Texts("en"))
    with gr.Blocks(analytics_enabled=False):
        for name in _Job.model_fields:
            form.add(name)
        form.add_further()
        form.controls["learning_rate"].value = "0.0001"
    return form


def test_each_valid_option_is_taken_back_and_each_other_one_told(form):
    kept = {
        "dataset": ["identity", "gone"], "adapter_name_or_path": ["saves/mine", "saves/deleted", "someone/adapter"],
        "lora_rank": 0, "learning_rate": " 2e-5 ", "packing": "true", "of_another_version": 1,
        FURTHER: "adam_beta2: 0.9",
    }  # fmt: skip
    taken, dropped = taken_back(form, kept)
    assert taken == {
        "dataset": ["identity"], "adapter_name_or_path": ["saves/mine", "someone/adapter"], "learning_rate": "2e-05",
        "packing": "true", FURTHER: "adam_beta2: 0.9",
    }  # fmt: skip
    assert dropped == [
        ("lora_rank", 0), ("of_another_version", 1), ("dataset", "gone"), ("adapter_name_or_path", "saves/deleted"),
    ]  # fmt: skip


@pytest.mark.parametrize("value", [None, {}, {"a": 1}, [[1]], "\0", "x" * 99_999, 1e400, True, -1])
@pytest.mark.parametrize("name", [*_Job.model_fields, FURTHER])
def test_whatever_stands_there_is_taken_or_dropped(form, name, value):
    taken, dropped = taken_back(form, {name: value})
    assert set(taken) | {each for each, _ in dropped} <= {name}
    assert taken or dropped or value is None


def test_a_password_is_neither_kept_nor_taken_back(form):
    assert "system" not in kept_inputs(form)
    assert '"system"' not in _keep("train", form)
    assert taken_back(form, {"system": "hunter2"}) == ({}, [("system", "hunter2")])

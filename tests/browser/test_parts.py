"""What the page is made of, without a browser: the form against its options, curves, texts, and what is not loaded."""

from __future__ import annotations

import math
import random
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import Refused, UserError
from engine.options.devices import Devices
from engine.options.jobs import JOBS, TrainJob
from engine.options.option import about
from engine.options.serve import Serve
from engine.words import all_words
from webui.controls import from_control, to_control
from webui.curve import chart, curves, thinned
from webui.language import Texts, escaped
from webui.page import build_page, serve

PROJECT = Path(__file__).resolve().parent.parent.parent
FORBIDDEN = ("torch", "transformers", "peft", "trl", "datasets", "llama_cpp", "engine.work", "matplotlib")


@pytest.fixture(scope="module")
def blocks_by_id(module_workplace):
    return {block.elem_id: block for block in build_page("en").blocks.values() if getattr(block, "elem_id", None)}


@pytest.fixture(scope="module")
def module_workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    (folder / "data").symlink_to(PROJECT / "data", target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


def test_page_loads_nothing_heavy():
    code = (
        "import sys; from webui.page import build_page; build_page('en'); "
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("level", ["plain", "advanced"])
def test_every_training_option_has_its_control(blocks_by_id, level):
    several = Devices.model_fields  # in sight only where there are several devices to choose from
    names = [name for name, field in TrainJob.model_fields.items() if about(field, "level") == level]
    names = [name for name in names if name not in several]
    missing = [name for name in names if name not in blocks_by_id]
    assert missing == [name for name in ("infer_dtype",) if name in names]  # see tab_train.ELSEWHERE


@pytest.mark.parametrize("kind", ["train", "chat", "export", "gguf"])
def test_controls_hold_defaults_without_loss(kind):
    job_type = JOBS[kind]
    job = job_type()
    for name, field in job_type.model_fields.items():
        value = getattr(job, name)
        if isinstance(value, dict):
            continue
        held = from_control(field, to_control(field, value))
        assert getattr(job_type.from_values({name: held}), name) == value, name


def test_number_that_is_none_is_refused_by_name():
    field = TrainJob.model_fields["lora_rank"]
    with pytest.raises(Refused) as refused:
        TrainJob.from_values({"lora_rank": from_control(field, 8.5)})
    assert refused.value.problems[0].option == "lora_rank"
    assert from_control(field, 8.0) == 8


def test_texts_switch_words_and_never_values():
    import gradio as gr

    texts = Texts("en")
    box = texts.make(gr.Textbox, {"label": "options.learning_rate.label"}, value="typed")
    (update,) = texts.updates("en")
    assert texts.components == [box]
    assert update["label"] == all_words("en")["options.learning_rate.label"]
    assert "value" not in update


def test_thinned_keeps_every_spike():
    random.seed(0)
    values = [random.random() for _ in range(100_000)]
    values[54_321], values[7] = 99.0, -99.0
    kept = thinned(range(len(values)), values, 600)
    assert len(kept) <= 600
    assert (54_321, 99.0) in kept
    assert (7, -99.0) in kept
    assert kept == sorted(kept)


def test_curves_bear_what_training_can_bring():
    points = [
        {"step": 1, "loss": 2.0, "learning_rate": 1e-4},
        {"step": 2, "loss": math.nan},
        {"step": 3, "eval_loss": 0.0},
    ]
    drawn = curves(points, "en")
    assert "nan" not in "".join(re.findall(r'points="([^"]*)"', drawn))
    assert 'class="evaluated"' in drawn
    assert curves([], "en").count("empty")
    assert "<svg" in curves([{"step": 5, "loss": 1.5}], "en")
    assert chart("title", [], "en", "small") == ""


def test_escaped_text_is_inert():
    shown = escaped("<script>${alert(1)}</script> {{name}}\nnext")
    assert not {"<script", "${", "{{"} & {part for part in ("<script", "${", "{{") if part in shown}
    assert shown.endswith("<br>next")


def test_taken_port_is_told(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError) as told:
            serve(Serve(port=port))
    assert told.value.key == "port_taken"
    assert str(port) in told.value.text()

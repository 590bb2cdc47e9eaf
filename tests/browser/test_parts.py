"""What the page is made of, without a browser: the form against its options, curves, texts, and what is not loaded."""

from __future__ import annotations

import math
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
from engine.runs.curves import Curve
from engine.words import all_words
from webui.controls import from_control, to_control
from webui.curve import Window, chart, curves
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


def test_curves_bear_what_training_can_bring():
    found = {
        "loss": Curve([(1, 2.0), (2, math.nan), (3, math.inf), (4, 0.5)]), "learning_rate": Curve([(1, 1e-4)]),
        "eval_loss": Curve([(3, 0.0)]), "rewards/chosen": Curve([(1, 1.0)]), "rewards/rejected": Curve([(1, -1.0)]),
        "eval_rewards/chosen": Curve([(3, 1.0)]), "<kl>": Curve([(1, math.nan)]),
    }  # fmt: skip
    for window in (Window(), Window(is_log=True), Window(first=3), Window(first=1, last=1)):
        drawn = curves(found, "en", window)
        assert not re.search("nan|inf", "".join(re.findall(r' d="([^"]*)"', drawn)))
        assert "<kl>" not in drawn
    drawn = curves(found, "en")
    assert 'class="evaluated"' in drawn and drawn.count("<figure") == 4, "chosen and rejected share a chart"
    assert drawn.count('class="odd"') == 2, "where the loss is no number there is a mark"
    assert curves({}, "en").count("empty") and "Show all" in curves(found, "en", Window(first=99))
    assert "<svg" in curves({"loss": Curve([(5, 1.5)])}, "en")
    assert chart("title", [], "en", "small") == ""


def test_a_spike_is_drawn_at_every_zoom_and_no_line_has_over_a_thousand_points():
    found = Curve((step, 90.0 if step == 54_321 else 1 + step % 3) for step in range(100_000))
    for width in (100_000, 20_000, 5_000, 500):
        drawn = curves({"loss": found}, "en", Window(54_321 - width / 3, 54_321 + width / 2))
        (raw,) = re.findall(r'class="raw" d="([^"]*)"', drawn)
        heights = [float(point.partition(",")[2]) for point in re.split("[ML]", raw)[1:]]
        assert len(heights) <= 1000
        low = max(heights)
        assert sorted(heights)[0] < 0.1 * low < sorted(heights)[1], "one point stands out"


def test_powers_of_ten_are_equally_far_apart():
    drawn = curves({"loss": Curve([(1, 1000.0), (2, 100.0), (3, 10.0), (4, 0.0)])}, "en", Window(is_log=True))
    (raw,) = re.findall(r'class="raw" d="([^"]*)"', drawn)
    top, middle, bottom = (float(point.partition(",")[2]) for point in re.split("[ML]", raw)[1:])
    assert middle - top == pytest.approx(bottom - middle, abs=0.2) and top < middle


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

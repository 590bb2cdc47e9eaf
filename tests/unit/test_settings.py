"""A file of options from anybody: taken whole into a form, or refused with the form as it was."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import pytest

from engine.errors import UserError
from engine.options.command import LARGEST_FILE, described_job, file_text, parse, read_options_file
from engine.options.jobs import ExportJob, TrainJob
from webui.frame import Frame
from webui.language import Texts
from webui.settings import Settings
from webui.tab_train import TrainTab
from webui.topbar import TopBar

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.fixture(scope="module")
def settings() -> Settings:
    """The row of the Train tab."""
    texts = Texts("en")
    with gr.Blocks(analytics_enabled=False):
        top, shown, tab = TopBar(texts), gr.State(None), gr.State("train")
        with gr.Tabs() as tabs, gr.Tab("train"):
            train = TrainTab(Frame(texts, top, tabs, tab), shown, gr.BrowserState({}))
    return train._settings


def raw_of(settings: Settings) -> list:
    return [each.value for each in settings._form.inputs]


def loaded(settings: Settings, path: Path) -> tuple[str, dict | None]:
    """What is said, and what the controls then hold; None if they stay."""
    raw = raw_of(settings)
    told, before, _, *updates = settings._on_load("en", str(path), *raw)
    if before == gr.skip():
        assert all(update == gr.skip() for update in updates)
        return told, None
    assert before == raw
    after = [
        value if update == gr.skip() else update["value"] if isinstance(update, dict) else update
        for value, update in zip(raw, updates, strict=True)
    ]
    return told, settings._form.values(after)


@pytest.mark.parametrize(("content", "said"), [
    (BOMB, "aliases"), ("a: &a [*a]", "aliases"), ("[" * 50_000, "too deeply"), ("seed: 2024-13-45", "month"),
    ("seed: !!int abc", "invalid literal"), ("x: !!python/object/apply:os.system [ls]", "python"),
    ("lora_rank: [", "line"), ("- a", "holds no options"), ("", "holds no options"), (b"\xff\xfe\x00", "UTF-8"),
    ("x" * (LARGEST_FILE + 1), "257"), ("lora_rnak: 4\nlora_alpha: many", "lora_rank"),
    ("lora_rnak: 4\nlora_alpha: many", "number"), ("mixture_of_depths: load", "mixture_of_depths"),
    ("template: nosuch", "qwen"),
])  # fmt: skip
def test_a_bad_file_says_why_and_changes_nothing(settings, tmp_path, content, said):
    path = tmp_path / "theirs.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    told, values = loaded(settings, path)
    assert values is None
    assert said in told
    assert str(tmp_path) not in told


@pytest.mark.parametrize("name", ["theirs.yaml", "theirs.json"])
def test_a_file_of_the_reference_fills_the_form_with_what_the_command_line_reads(settings, tmp_path, name):
    yaml = """
        model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct
        do_train: true
        dataset: identity, alpaca_en_demo
        template: qwen
        warmup_ratio: 0.1
        learning_rate: 1e-5
        adam_beta2: 0.98
        cutoff_len: 777
    """
    json = """{\n\t"model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct", "do_train": true, "template": "qwen",
        \t"dataset": "identity, alpaca_en_demo", "warmup_ratio": 0.1, "learning_rate": 1e-5, "adam_beta2": 0.98,
        "cutoff_len": 777}"""
    path = tmp_path / name
    path.write_text(json if name.endswith("json") else yaml, encoding="utf-8")
    _, values = loaded(settings, path)
    assert TrainJob.from_values(values) == parse(TrainJob, [str(path)]).job


def test_what_may_not_run_yet_is_taken_and_told_and_an_owners_option_is_left_out(settings, tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text("lora_rank: 32\non_finish: 'true'\n", encoding="utf-8")
    told, values = loaded(settings, path)
    assert values["lora_rank"] == 32
    assert "on_finish" not in values and "on_finish" in told
    assert "dataset" in told.lower()


def test_saved_and_loaded_again_the_form_says_the_same(settings, tmp_path):
    asked = {"dataset": "identity", "lora_alpha": 3.5, "eval_dataset": "identity", "adam_beta2": 0.9, "bf16": False}
    job = TrainJob.from_values(asked)
    path = tmp_path / "ours.yaml"
    path.write_text(file_text(job), encoding="utf-8")
    assert TrainJob.from_values(loaded(settings, path)[1]) == job


def test_reset_sets_back_what_differs_and_undo_brings_it_again(settings):
    form = settings._form
    names, raw = [*form.controls], raw_of(settings)
    raw[names.index("lora_rank")], raw[names.index("dataset")], raw[-1] = 99, ["identity"], "adam_beta2: 0.5"
    told, before, _, *updates = settings._on_reset("en", *raw)
    changed = {name for name, update in zip([*names, "further"], updates, strict=True) if update != gr.skip()}
    assert changed == {"lora_rank", "dataset", "further"}
    assert updates[names.index("lora_rank")]["value"] == TrainJob.model_fields["lora_rank"].default
    assert "LoRA rank" in told
    assert [update["value"] for update in settings._on_undo("en", before)[3:]] == raw


def test_a_description_tells_hindrances_and_a_job_of_another_kind_is_refused(tmp_path):
    job, problems = described_job(ExportJob, {"model_name_or_path": "a/b"})
    assert job.model_name_or_path == "a/b"
    assert [problem.key for problem in problems if not problem.is_warning] == ["export_dir_missing"]
    path = tmp_path / "export.yaml"
    path.write_text("export_dir: merged\n", encoding="utf-8")
    with pytest.raises(UserError, match="export_dir"):
        described_job(TrainJob, read_options_file(path))

"""A form that nobody saved is there again; its settings travel as a file, and go back to the defaults and again."""

from __future__ import annotations

import json

from playwright.sync_api import Page, expect

from engine.options.command import parse
from engine.options.jobs import TrainJob
from tests.browser.steps import add_name, choose, fill, open_tab, preview_words

STORED = "JSON.parse(localStorage.getItem('lathe-form-train') ?? '{}')"


def _value(page: Page, elem_id: str):
    return page.locator(f"#{elem_id} input, #{elem_id} textarea").first


def _reloaded(page: Page) -> None:
    page.reload()
    page.wait_for_function("window.latheKeeps")


def _load(page: Page, kind: str, path) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(f"#{kind}-settings-load").click()
    chooser.value.set_files(path)


def _enter(page: Page) -> None:
    page.wait_for_function("window.latheKeeps")
    fill(page, "model_name_or_path", "some/where else")
    choose(page, "finetuning_type", "Full")
    add_name(page, "dataset", "identity")
    fill(page, "learning_rate", "3e-5")
    page.locator("#train-advanced > button").click()
    fill(page, "further_options", "adam_beta2: 0.9\nhub_token: abc")
    open_tab(page, "chat")
    fill(page, "chat-system", "Be brief.")
    page.wait_for_function("localStorage.getItem('lathe-form-chat')?.includes('brief')")


def _assert_there(page: Page) -> None:
    expect(_value(page, "model_name_or_path")).to_have_value("some/where else")
    expect(_value(page, "finetuning_type")).to_have_value("Full")
    expect(page.locator("#dataset")).to_contain_text("identity")
    expect(_value(page, "learning_rate")).to_have_value("3e-05")
    expect(page.locator("#train-notice .notice")).to_have_count(0)
    open_tab(page, "chat")
    expect(_value(page, "chat-system")).to_have_value("Be brief.")


def test_what_was_entered_is_there_again_in_any_language_and_in_another_window(visit, chromium, address):
    page = visit()
    _enter(page)
    assert page.evaluate(STORED) == {
        "model_name_or_path": "some/where else", "finetuning_type": "full", "dataset": ["identity"],
        "learning_rate": "3e-5",
    }, "no defaults, and no secret"  # fmt: skip
    _reloaded(page)
    _assert_there(page)
    choose(page, "language", "中文")
    expect(page.locator("#tab-chat-button")).to_have_text("对话")
    expect(_value(page, "model_name_or_path")).to_have_value("some/where else")
    choose(page, "language", "English")
    expect(page.locator("#tab-chat-button")).to_have_text("Chat")
    other = visit(storage_state=page.context.storage_state())
    _assert_there(other)
    fresh = visit()
    fresh.wait_for_function("window.latheKeeps")
    expect(_value(fresh, "model_name_or_path")).not_to_have_value("some/where else")


def test_what_is_gone_or_wrong_is_told_once_and_the_rest_is_taken(visit):
    page = visit()
    kept = {"dataset": ["identity", "gone"], "learning_rate": "fast", "template": "gone", "newer": 1, "lora_rank": 12}
    page.evaluate("kept => localStorage.setItem('lathe-form-train', JSON.stringify(kept))", kept)
    _reloaded(page)
    told = page.locator("#train-notice .notice")
    for said in ("Datasets: gone", "Learning rate: fast", "Chat template: gone", "newer: 1"):
        expect(told).to_contain_text(said)
    expect(_value(page, "lora_rank")).to_have_value("12")
    expect(page.locator("#dataset")).to_contain_text("identity")
    assert page.evaluate(STORED) == {"dataset": ["identity"], "lora_rank": 12}
    _reloaded(page)
    expect(_value(page, "lora_rank")).to_have_value("12")
    expect(told).to_have_count(0)


def test_reset_forgets_what_was_kept_and_undo_brings_it_back(visit):
    page = visit()
    page.wait_for_function("window.latheKeeps")
    fill(page, "lora_rank", "12")
    page.wait_for_function("localStorage.getItem('lathe-form-train')")
    page.locator("#train-settings-reset").click()
    expect(page.locator("#train-notice")).to_contain_text("LoRA rank")
    expect(_value(page, "lora_rank")).to_have_value("8")
    page.wait_for_function("!localStorage.getItem('lathe-form-train')")
    page.locator("#train-settings-undo").click()
    expect(_value(page, "lora_rank")).to_have_value("12")
    page.wait_for_function("localStorage.getItem('lathe-form-train')?.includes('12')")
    expect(page.locator("#train-settings-undo")).to_be_hidden()


def test_settings_are_saved_as_the_command_line_reads_them_and_loaded_into_a_fresh_form(visit, tmp_path):
    page = visit()
    page.locator("#train-settings-save").click()
    expect(page.locator("#train-notice")).to_contain_text("Datasets")  # nothing that could run
    add_name(page, "dataset", "identity")
    fill(page, "lora_rank", "12")
    fill(page, "learning_rate", "3e-5")
    page.locator("#train-advanced > button").click()
    fill(page, "further_options", "adam_beta2: 0.9")
    with page.expect_download() as download:
        page.locator("#train-settings-save").click()
    saved = tmp_path / "saved.yaml"
    download.value.save_as(saved)
    job = parse(TrainJob, [str(saved)]).job
    assert (job.dataset, job.lora_rank, job.learning_rate) == (("identity",), 12, 3e-5)
    assert job.training_arguments == {"adam_beta2": 0.9}

    other = visit()
    other.wait_for_function("window.latheKeeps")
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps({"lora_rank": "many"}), encoding="utf-8")
    _load(other, "train", bad)
    expect(other.locator("#train-notice")).to_contain_text("many")
    expect(_value(other, "lora_rank")).to_have_value("8")
    _load(other, "train", saved)
    expect(other.locator("#train-notice")).to_contain_text("saved.yaml")
    other.locator("#preview-command").click()
    assert parse(TrainJob, preview_words(other)[3:]).job == job
    _reloaded(other)
    expect(_value(other, "lora_rank")).to_have_value("12")

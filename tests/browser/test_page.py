"""The page itself: its languages, its form, its preview, its refusals; no training yet."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from engine.options.command import parse
from engine.options.jobs import TrainJob
from engine.words import LANGUAGES, words
from tests.browser.steps import WRITTEN, add_name, choose, fill, open_tab, preview_words


@pytest.mark.parametrize("code", WRITTEN)
def test_page_speaks_the_language_of_the_browser(visit, code):
    page = visit(locale=code)
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", code))
    expect(page.locator("#tab-runs-button")).to_have_text(words("page.tabs.runs", code))
    expect(page.locator("#learning_rate")).to_contain_text(words("options.learning_rate.label", code))
    expect(page.locator("html")).to_have_attribute("lang", code)


def test_switching_language_keeps_what_was_typed_and_lasts_over_a_reload(visit):
    page = visit()
    fill(page, "learning_rate", "2e-4")
    fill(page, "lora_rank", "16")
    add_name(page, "dataset", "identity")
    choose(page, "finetuning_type", words("choices.finetuning_type.freeze"))
    other = WRITTEN[-1]
    choose(page, "language", LANGUAGES[other])
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", other))
    expect(page.locator("#learning_rate input, #learning_rate textarea")).to_have_value("2e-4")
    expect(page.locator("#dataset")).to_contain_text("identity")
    expect(page.locator("#freeze_trainable_layers")).to_be_visible()
    expect(page.locator("#finetuning_type input")).to_have_value(words("choices.finetuning_type.freeze", other))
    choose(page, "finetuning_type", words("choices.finetuning_type.lora", other))
    expect(page.locator("#lora_rank input")).to_have_value("16")
    page.reload()
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", other))


def test_only_what_the_method_uses_is_shown(visit):
    page = visit()
    heading = page.get_by_role("heading", name=words("groups.lora.label"), exact=True)
    expect(page.locator("#lora_rank")).to_be_visible()
    expect(heading).to_have_count(1)
    expect(page.locator("#freeze_trainable_layers")).to_have_count(0)
    choose(page, "finetuning_type", words("choices.finetuning_type.full"))
    expect(page.locator("#lora_rank")).to_have_count(0)
    expect(heading).to_have_count(0)
    choose(page, "finetuning_type", words("choices.finetuning_type.freeze"))
    expect(page.locator("#freeze_trainable_layers")).to_be_visible()


def test_preview_is_the_job_of_the_form(visit):
    page = visit()
    fill(page, "learning_rate", "3e-4")
    fill(page, "max_samples", "20")
    add_name(page, "dataset", "identity")
    add_name(page, "dataset", "spo_demo")
    fill(page, "output_dir", "saves/it's mine; rm -rf x")
    page.locator("#preview-command").click()
    command = preview_words(page)
    assert command[:3] == ["python", "app.py", "train"]
    expected = TrainJob(
        learning_rate=3e-4, max_samples=20, dataset="identity,spo_demo", output_dir="saves/it's mine; rm -rf x"
    )
    assert parse(TrainJob, command[3:]).job == expected
    fill(page, "per_device_train_batch_size", "1")
    expect(page.locator("#train-command")).to_contain_text("--per_device_train_batch_size 1")


def test_problems_stand_beside_their_fields_in_the_visitors_language(visit):
    code = WRITTEN[-1]
    page = visit(locale=code)
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", code))
    fill(page, "learning_rate", "much")
    page.locator("#start").click()
    expect(page.locator("#train-notice .notice.error")).to_contain_text(words("page.refused", code))
    expect(page.locator("#learning_rate .info-text strong")).to_contain_text("much")
    fill(page, "learning_rate", "1e-4")
    page.locator("#start").click()
    expect(page.locator("#dataset .info-text strong")).to_contain_text(
        words("errors.dataset_missing", code).split("`")[0].strip()
    )
    expect(page.locator("#learning_rate .info-text strong")).to_have_count(0)
    add_name(page, "dataset", "identity")
    fill(page, "model_name_or_path", "./nowhere")
    page.locator("#start").click()
    expect(page.locator("#model_name_or_path .info-text strong")).to_contain_text("./nowhere")
    expect(page.locator("#dataset .info-text strong")).to_have_count(0)


def test_rows_of_a_dataset_are_shown_as_conversations(visit):
    page = visit()
    page.locator("#preview-rows").click()
    expect(page.locator("#rows")).to_contain_text(words("page.rows.choose"))
    add_name(page, "dataset", "identity")
    page.locator("#preview-rows").click()
    expect(page.locator("#rows .row-card")).to_have_count(3)
    first = page.locator("#rows .row-card").first.inner_text()
    page.get_by_role("button", name=words("page.buttons.next"), exact=True).click()
    expect(page.locator("#rows .row-card").first).not_to_have_text(re.compile(re.escape(first[:40])))


def test_name_of_a_model_fills_its_path_for_the_hub(visit):
    page = visit()
    path = page.locator("#model_name_or_path input, #model_name_or_path textarea")
    expect(path).to_have_value("models/SmolLM2-135M-Instruct")
    choose(page, "model_name", "Gemma-1.1-2B-Instruct")
    expect(path).to_have_value("google/gemma-1.1-2b-it")
    choose(page, "model_name", "Llama-3.2-1B-Instruct")
    expect(path).to_have_value("meta-llama/Llama-3.2-1B-Instruct")
    choose(page, "hub", words("choices.hub.modelscope"))
    expect(path).to_have_value("LLM-Research/Llama-3.2-1B-Instruct")


@pytest.mark.parametrize("width", [1440, 390])
def test_start_is_in_reach_and_nothing_is_wider_than_the_window(visit, width):
    page = visit(width=width)
    page.mouse.wheel(0, 5000)
    expect(page.locator("#start")).to_be_in_viewport()
    for tab in ("data", "train", "runs", "eval", "chat", "export", "gguf"):
        open_tab(page, tab)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab


def test_every_control_has_a_label(visit):
    page = visit()
    for tab in ("data", "train", "runs", "eval", "chat", "export", "gguf"):
        open_tab(page, tab)
        page.wait_for_timeout(300)
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('input, textarea, button, select')]
                .filter(each => each.offsetParent && !each.labels?.length && !each.getAttribute('aria-label')
                        && !each.getAttribute('title') && !each.innerText?.trim())
                .map(each => each.outerHTML.slice(0, 200))"""
        )
        assert not unnamed, f"{tab}: {unnamed}"

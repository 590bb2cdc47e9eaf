"""The whole journey on the real page with the real bundled model: train, reload, merge, chat, GGUF, chat."""

from __future__ import annotations

import importlib.util

import pytest
from playwright.sync_api import Page, expect

from engine.words import words
from tests.browser.steps import WRITTEN, add_name, fill, open_tab

pytestmark = pytest.mark.slow

SECOND = "zh" if "zh" in WRITTEN else "en"
JOB_MS = 240_000


def wait_until_done(page: Page, card: str) -> None:
    ended = page.locator(f"{card} .chip.done, {card} .chip.failed, {card} .chip.lost")
    ended.wait_for(timeout=JOB_MS)
    assert page.locator(f"{card} .chip.done").count(), page.locator(card).inner_text()


def ask(page: Page, question: str) -> str:
    """Wait for the model to be ready, ask, and return the whole answer."""
    page.locator("#chat-status .chip.done").wait_for(timeout=JOB_MS)
    fill(page, "chat-max_new_tokens", "60")
    answers = page.locator("#chat-talk .message.bot, #chat-talk [data-testid=bot]")
    before = answers.count()
    page.locator("#chat-question textarea").fill(question)
    page.locator("#chat-question textarea").press("Enter")
    page.locator("#chat-notice .fine").first.wait_for(timeout=JOB_MS)
    expect(answers).not_to_have_count(before)
    return answers.last.inner_text()


def test_the_whole_journey_in_two_languages(visit, workshop):
    page = visit()
    add_name(page, "dataset", "identity")
    fill(page, "max_samples", "8")
    fill(page, "cutoff_len", "64")
    fill(page, "per_device_train_batch_size", "1")
    fill(page, "gradient_accumulation_steps", "1")
    fill(page, "logging_steps", "1")
    page.locator("#train-advanced > button").click()
    fill(page, "max_steps", "4")
    page.locator("#start").dblclick()
    name = page.locator("#train-status .run-name", has_text="SmolLM2")  # other tests have trained other models here
    name.wait_for()
    run = name.inner_text()

    # Reload in the middle, and a second visitor in another language: the same run, with no click.
    page.reload()
    expect(page.locator("#train-status .run-name")).to_have_text(run)
    second = visit(locale=SECOND)
    expect(second.locator("#train-status .run-name")).to_have_text(run)
    expect(second.locator("#start")).to_have_text(words("page.buttons.start", SECOND))
    wait_until_done(page, "#train-status")
    expect(page.locator("#train-curve .chart.large")).to_be_visible()
    wait_until_done(second, "#train-status")
    expect(second.locator("#train-status .chip.done")).to_have_text(words("page.status.done", SECOND))
    assert len(list(workshop.glob("saves/SmolLM2*/*/train_*"))) == 1, "the double click started more than one run"

    # Runs: the command is there; from here to the merge.
    open_tab(page, "runs")
    page.locator(f'#runs-table [data-run="{run}"]').click()
    expect(page.locator("#run-command")).to_contain_text("--max_steps 4")
    page.locator("#run-export").click()
    page.locator("#export-start").click()
    wait_until_done(page, "#export-status")

    # Chat with the merged model, which one button loads.
    page.locator("#export-open-chat").click()
    assert ask(page, "What is the capital of France?").strip()
    open_tab(page, "export")
    page.locator("#export-open-gguf").click()
    expect(page.locator("#gguf-outtype")).to_contain_text(words("choices.outtype.q8_0"))
    page.locator("#gguf-start").click()
    wait_until_done(page, "#gguf-status")
    expect(page.locator("#gguf-result")).to_contain_text(".gguf")

    phone = visit(width=390)
    open_tab(phone, "runs")
    phone.locator("#runs-table [data-run]").first.wait_for()
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390

    # The second visitor saw all of it, and chats with the GGUF file in the other language.
    open_tab(second, "gguf")
    wait_until_done(second, "#gguf-status")
    if importlib.util.find_spec("llama_cpp") is None:
        return
    second.locator("#gguf-open-chat").click()
    expect(second.locator("#chat-status")).to_contain_text(".gguf", timeout=JOB_MS)
    assert ask(second, "What is the capital of France?").strip()
    second.locator("#chat-unload").click()
    expect(second.locator("#chat-status")).to_contain_text(words("page.chat.none", SECOND), timeout=JOB_MS)


def test_stopping_an_answer_keeps_what_has_arrived(visit):
    page = visit()
    open_tab(page, "chat")
    fill(page, "chat-max_new_tokens", "2000")
    page.locator("#chat-load").click()
    page.locator("#chat-status .chip.done").wait_for(timeout=JOB_MS)
    page.locator("#chat-question textarea").fill("Write a very long story about a lathe.")
    page.locator("#chat-send").click()
    answer = page.locator("#chat-talk .message.bot, #chat-talk [data-testid=bot]").last
    expect(answer).to_contain_text(" ", timeout=JOB_MS)
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-notice")).to_contain_text(words("page.chat.stopped"), timeout=JOB_MS)
    assert answer.inner_text().strip()
    page.locator("#chat-unload").click()
    expect(page.locator("#chat-unload")).to_be_disabled(timeout=JOB_MS)

"""Presets on the real page: shown, applied, undone. The guide: from a fresh page to a chat with a tuned model."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from engine.catalog.devices import devices
from engine.options.command import parse
from engine.options.jobs import TrainJob
from engine.runs.presets import expanded
from engine.words import words
from tests.browser.steps import WRITTEN, add_name, fill, open_tab, preview_words
from tests.served import new_workshop, served

SECOND = "ja" if "ja" in WRITTEN else "en"
JOB_MS = 240_000


@pytest.fixture(scope="module")
def workshop(bundled_model, tmp_path_factory):
    """Of its own: what has been trained elsewhere ticks steps of the guide."""
    return new_workshop(tmp_path_factory)


@pytest.fixture(scope="module")
def address(workshop, ollama_port, tmp_path_factory):
    with served(workshop, ollama_port, tmp_path_factory.getbasetemp()) as address:
        yield address


def job_in(page: Page) -> TrainJob:
    """What the form says, by its preview."""
    page.locator("#preview-command").click()
    job = parse(TrainJob, preview_words(page)[3:]).job
    page.locator("#preview-command").click()
    expect(page.locator("#train-command")).to_be_hidden()
    return job


def call_guide(page: Page) -> None:
    """Have the guide in sight, whatever has been trained here before."""
    page.locator("#guide:visible, #guide-open:visible").first.wait_for()
    if page.locator("#guide-open").is_visible():
        page.locator("#guide-open").click()
    page.locator("#guide").wait_for()


def test_a_preset_is_shown_then_applied_then_undone(visit, workshop, monkeypatch):
    monkeypatch.chdir(workshop)
    page = visit(locale=SECOND)
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", SECOND))
    add_name(page, "dataset", "identity")
    fill(page, "output_dir", "saves/mine")
    fill(page, "lora_rank", "5")
    fill(page, "learning_rate", "no number")
    page.locator("#preset-best").click()
    page.locator("#preset-apply").wait_for()
    plan = page.locator("#preset-plan")
    expect(plan).to_contain_text(f"{words('options.lora_rank.label', SECOND)}: 5 → 64")
    expect(plan).to_contain_text(words("presets.why.rank_best", SECOND))
    expect(page.locator("#lora_rank input")).to_have_value("5")

    # what was shown is of another form: nothing is filled in before the present one was shown
    fill(page, "learning_rate", "0.5")
    fill(page, "seed", "7")
    page.locator("#preset-apply").click()
    expect(plan).to_contain_text(words("presets.has_changed", SECOND))
    expect(page.locator("#lora_rank input")).to_have_value("5")
    before = job_in(page)
    page.locator("#preset-apply").click()
    expect(page.locator("#lora_rank input")).to_have_value("64")
    typed = {"dataset": "identity", "output_dir": "saves/mine", "seed": 7, "preset": "best"}
    assert job_in(page).values() == TrainJob.from_values(expanded(typed, devices())[0]).values()

    page.locator("#preset-best").click()
    expect(plan).to_contain_text(words("presets.nothing", SECOND, preset=words("presets.best", SECOND)))
    expect(page.locator("#preset-apply")).to_be_hidden()
    fill(page, "lora_rank", "7")
    page.locator("#preset-undo").click()
    expect(page.locator("#learning_rate textarea, #learning_rate input").first).to_have_value("0.5")
    expect(page.locator("#preset-undo")).to_be_hidden()
    assert job_in(page).values() == {**before.values(), "lora_rank": 7}, "a field that was changed since keeps that"


@pytest.mark.slow
def test_from_a_fresh_page_to_a_chat_with_the_tuned_model(visit, workshop):
    page = visit()
    call_guide(page)
    done, following = page.locator("#guide .step.done"), page.locator("#guide .step.next b")
    expect(following).to_have_text(words("guide.data.title"))
    expect(page.locator("#guide-start")).to_be_disabled()
    fill(page, "model_name_or_path", "/nowhere/at/all")
    expect(following).to_have_text(words("guide.model.title"))
    page.locator("#guide-model").click()
    expect(page.locator("#model_name_or_path input, #model_name_or_path textarea").first).to_have_value(
        "models/SmolLM2-135M-Instruct"
    )
    page.locator("#guide-data").click()
    expect(following).to_have_text(words("guide.start.title"))
    expect(page.locator("#dataset")).to_contain_text("identity")
    page.locator("#train-advanced > button").click()
    expect(page.locator("#max_steps input").first).to_have_value("60")
    fill(page, "max_steps", "2")  # else it takes minutes
    fill(page, "cutoff_len", "64")
    page.locator("#guide-start").click()
    name = page.locator("#train-status .run-name", has_text="SmolLM2")
    name.wait_for()
    run = name.inner_text()
    expect(page.locator("#guide-start-told")).to_contain_text(run, timeout=JOB_MS)
    expect(following).to_have_text(words("guide.chat.title"))
    assert (workshop / "saves" / run / "adapter_model.safetensors").is_file()

    page.locator("#guide-chat").click()
    page.locator("#chat-status .chip.done").wait_for(timeout=JOB_MS)
    expect(page.locator("#adapter_name_or_path")).to_contain_text(run)
    fill(page, "chat-max_new_tokens", "12")
    page.locator("#chat-question textarea").fill("Who are you?")
    page.locator("#chat-send").click()
    page.locator("#chat-notice .fine").first.wait_for(timeout=JOB_MS)
    assert page.locator("#chat-talk .message.bot, #chat-talk [data-testid=bot]").last.inner_text().strip()
    open_tab(page, "train")
    expect(done).to_have_count(4)
    open_tab(page, "chat")
    page.locator("#chat-unload").click()
    expect(page.locator("#chat-unload")).to_be_disabled(timeout=JOB_MS)
    open_tab(page, "train")
    expect(done).to_have_count(3)  # what is no longer so is no longer ticked


def test_the_guide_stays_away_until_it_is_called(visit):
    page = visit()
    call_guide(page)
    page.locator("#guide-close").click()
    expect(page.locator("#guide")).to_be_hidden()
    page.reload()
    page.locator("#guide-open").wait_for()
    expect(page.locator("#guide")).to_be_hidden()
    page.locator("#guide-open").click()
    page.locator("#guide").wait_for()
    page.set_viewport_size({"width": 390, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

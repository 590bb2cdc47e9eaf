"""The Chat tab with a tiny random model: ask anew, change, take back, keep, open; two answers side by side; votes."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from engine.catalog.conversations import to_example
from engine.catalog.recognise import recognise
from engine.runs.card import card
from engine.runs.folder import Folder
from engine.runs.record import update_state
from engine.runs.votes import tallies
from engine.words import words
from tests.browser.steps import choose, fill, open_tab

pytestmark = pytest.mark.slow

LOAD_MS = 240_000


def load(page: Page, model: str) -> None:
    fill(page, "model_name_or_path", model)
    open_tab(page, "chat")
    fill(page, "chat-max_new_tokens", "12")
    fill(page, "chat-sampling_seed", "5")
    page.locator("#chat-load").click()
    page.locator("#chat-status .chip.done").wait_for(timeout=LOAD_MS)


def unload(page: Page) -> None:
    page.locator("#chat-unload").click()
    expect(page.locator("#chat-unload")).to_be_disabled(timeout=LOAD_MS)


def answers(page: Page, where: str = "#chat-talk"):
    return page.locator(f"{where} [data-testid=bot]")


def answered(page: Page, count: int) -> str:
    """Wait until so many answers stand there and nothing is being answered; the last of them."""
    expect(answers(page)).to_have_count(count)  # the last has begun: until it ends, nothing can be sent
    expect(answers(page).last).not_to_have_text("…")
    expect(page.locator("#chat-send")).to_be_enabled()
    return answers(page).last.inner_text()


def ask(page: Page, question: str, count: int) -> str:
    page.locator("#chat-question textarea").fill(question)
    page.locator("#chat-send").click()
    expect(page.locator("#chat-notice meter")).to_be_visible()
    return answered(page, count)


def act(page: Page, name: str, at: int = -1) -> None:
    buttons = page.locator("#chat-talk").get_by_role("button", name=name, exact=True)
    (buttons.last if at == -1 else buttons.nth(at)).click(force=True)


def test_a_conversation_is_asked_anew_changed_taken_back_kept_and_opened(visit, tiny_model, tmp_path):
    page = visit()
    load(page, str(tiny_model))
    questions = page.locator("#chat-talk [data-testid=user]")
    first = ask(page, "One", 1)
    expect(page.locator("#chat-notice")).to_contain_text("2048")

    fill(page, "chat-sampling_seed", "6")
    act(page, "Retry")
    expect(answers(page).last).not_to_have_text(first)
    other = answered(page, 1)
    fill(page, "chat-sampling_seed", "5")
    act(page, "Retry")
    expect(answers(page).last).not_to_have_text(other)
    assert answered(page, 1) == first, "the same seed and the same question, but another answer"

    ask(page, "Two", 2)
    act(page, "Edit", 0)
    page.locator("#chat-talk textarea").fill("Three")
    act(page, "Submit")
    expect(questions).to_have_text(["Three"])
    answered(page, 1)
    ask(page, "Four", 2)
    act(page, "Undo")
    expect(page.locator("#chat-question textarea")).to_have_value("Four")
    expect(questions).to_have_text(["Three"])

    with page.expect_download() as download:
        page.locator("#chat-save").click()
    kept = tmp_path / "kept.json"
    download.value.save_as(kept)
    row = json.loads(kept.read_text())[0]
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
    assert list(to_example(row, recognise(kept)).messages) == row["messages"], "training reads another conversation"

    row["messages"] = [
        {"role": "system", "content": "Be brief."},
        *row["messages"],
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because.", "reasoning_content": "A hidden thought."},
    ]
    kept.write_text(json.dumps([row]))
    page.locator("#chat-clear").click()
    expect(questions).to_have_count(0)
    with page.expect_file_chooser() as chooser:
        page.locator("#chat-open").click()
    chooser.value.set_files(kept)
    expect(questions).to_have_text(["Three", "Why?"])
    expect(page.locator("#chat-system textarea")).to_have_value("Be brief.")
    expect(page.get_by_text(words("talk.thought"))).to_be_visible()
    expect(page.get_by_text("A hidden thought.")).to_be_hidden()

    page.reload()
    open_tab(page, "chat")
    expect(questions).to_have_text(["Three", "Why?"])
    unload(page)


def test_an_answer_goes_on_while_the_browser_is_closed(visit, bundled_model):
    """With the bundled model: the tiny one is done before a busy machine has reloaded the page."""
    page = visit()
    load(page, str(bundled_model))
    fill(page, "chat-max_new_tokens", "2000")
    fill(page, "chat-temperature", "5")
    page.locator("#chat-question textarea").fill("Speak")
    page.locator("#chat-send").click()
    expect(answers(page).last).to_contain_text(" ")
    expect(answers(page).last).not_to_have_text("…")
    page.reload()
    open_tab(page, "chat")
    answer = answers(page).last
    expect(answer).to_be_visible()
    before = answer.inner_text()
    expect(answer).not_to_have_text(before)
    page.locator("#chat-stop").click()
    expect(page.locator("#chat-notice")).to_contain_text(words("page.chat.stopped"))
    assert len(answer.inner_text()) > len(before)
    unload(page)


def test_on_a_phone_the_model_is_loaded_above_the_talk(visit):
    page = visit(width=390)
    open_tab(page, "chat")
    page.locator("#chat-compares input").check()
    page.locator("#side-question").wait_for()
    places = ("chat-load", "side-left", "side-question", "chat-gguf")
    tops = [page.locator(f"#{name}").bounding_box()["y"] for name in places]
    assert tops == sorted(tops)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_question_that_nobody_can_answer_comes_back(visit):
    page = visit()
    open_tab(page, "chat")
    page.locator("#chat-compares input").check()
    page.locator("#side-question textarea").fill("Which?")
    page.locator("#side-send").click()
    expect(page.locator("#chat-notice")).to_contain_text(words("errors.chat.ended")[:20])
    expect(page.locator("#side-question textarea")).to_have_value("Which?")
    expect(page.locator("#side-send")).to_be_enabled()


def test_two_sides_are_told_apart_only_after_the_vote(visit, tiny_model, workshop, monkeypatch):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    monkeypatch.chdir(workshop)
    run = Folder(workshop / "saves" / "tiny" / "lora" / "train_voted")
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).save_pretrained(
        run.path
    )
    update_state(run, kind="train", status="done", started_at=1e9, finished_at=1e9 + 5, result={})

    page = visit()
    load(page, str(tiny_model))
    page.locator("#chat-compares input").check()
    choose(page, "side-right", run.name)
    page.locator("#side-blind input").check()
    page.locator("#side-question textarea").fill("Which?")
    page.locator("#side-send").click()
    expect(page.locator("#vote-left")).to_be_enabled()
    sides = [answers(page, f"#side-{place}-talk").last.inner_text() for place in ("left", "right")]
    assert sides[0] != sides[1]
    expect(page.locator(".side-name", has_text=re.compile("train_voted|Base"))).to_have_count(0)
    page.locator("#vote-left").click()
    expect(page.locator(".side-name", has_text="train_voted")).to_have_count(1)
    expect(page.locator("#vote-left")).to_be_disabled()
    is_left = "train_voted" in page.locator("#side-left-name").inner_text()
    (tally,) = tallies(run)
    assert (tally.own, tally.other) == (run.name, "base")
    assert (tally.wins, tally.losses) == ((1, 0) if is_left else (0, 1))
    vote = json.loads(run.votes.read_text())
    assert vote["left"]["answer"].strip() == sides[0].strip() and vote["sampling"]["sampling_seed"] == 5
    assert f"## {words('votes.title')}" in card(run)

    page.locator("#prompts button").first.click()
    page.locator("#prompts-text textarea").fill("Which?\n\nAnd <b>why</b>?\n")
    page.locator("#prompts-sides input").click()
    page.get_by_role("option", name=run.name, exact=True).click()
    page.locator("#prompts-ask").click()
    said = words("chat.answers_written", path="").rstrip(".").strip()
    expect(page.locator("#chat-notice")).to_contain_text(said, timeout=LOAD_MS)
    rows = page.locator("#prompts-table tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.nth(1).locator("th")).to_have_text("And <b>why</b>?")
    (file,) = workshop.glob("saves/*/*/*/prompts-*.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["prompt"] for line in lines] == ["Which?", "Which?", "And <b>why</b>?", "And <b>why</b>?"]
    assert [line["side"] == "base" for line in lines] == [True, False] * 2
    for line in lines[:2]:
        voted = (vote["left"], vote["right"])
        (same,) = [each for each in voted if (each["side"] == "base") == (line["side"] == "base")]
        assert line["answer"] == same["answer"], "the same question with the same seed"
    assert rows.nth(0).locator("td").nth(0).inner_text().strip() == lines[0]["answer"].strip()
    unload(page)

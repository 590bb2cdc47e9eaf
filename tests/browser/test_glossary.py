"""Words of the field tell what they mean: to a pointer, to the keyboard, to a finger; and options tell their names."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from engine.words import words
from tests.browser.steps import open_tab

EVERY_MARK = """() => [...document.querySelectorAll('a[href^="#gloss-"]')]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }))
  .map((each) => {
    each.focus();
    const { left, right, top, bottom } = document.getElementById('term-note').getBoundingClientRect();
    return { hash: each.hash, left, right, top, bottom };
  })"""


def meaning(page: Page):
    return page.get_by_role("tooltip")


@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_word_is_explained_to_pointer_and_keyboard(visit, language):
    page = visit(locale=language)
    adapter = words("glossary.adapter.says", language)
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", language))
    mark = page.locator('#lora_rank a[href="#gloss-adapter"]')
    mark.hover()
    expect(meaning(page)).to_have_text(adapter)
    meaning(page).hover()
    page.wait_for_timeout(400)
    expect(meaning(page)).to_be_visible()
    page.locator("#lora_rank input").hover()
    expect(meaning(page)).to_be_hidden()

    page.locator("#per_device_train_batch_size input").focus()
    page.keyboard.press("Tab")
    expect(meaning(page)).to_have_text(words("glossary.optimizer_step.says", language))
    described = page.evaluate(
        "document.getElementById(document.activeElement.getAttribute('aria-describedby')).innerText"
    )
    assert described.strip() == words("glossary.optimizer_step.says", language)
    page.keyboard.press("Escape")
    expect(meaning(page)).to_be_hidden()
    page.keyboard.press("Enter")
    expect(meaning(page)).to_be_visible()
    assert len(page.context.pages) == 1, "no window was opened"
    expect(page.locator("#lora_rank .info-text")).to_contain_text("--lora_rank")
    expect(page.locator("#template .info-text code")).to_be_visible()
    assert page.locator(".info-text em").count() == 0


def test_on_a_phone_a_tap_explains_and_no_explanation_is_cut_off(visit):
    page = visit(locale="ko", width=390, has_touch=True)
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", "ko"))
    mark = page.locator('#lora_rank a[href="#gloss-adapter"]')
    mark.tap()
    expect(meaning(page)).to_have_text(words("glossary.adapter.says", "ko"))
    page.locator("#tab-train-button").tap()
    expect(meaning(page)).to_be_hidden()
    page.evaluate("document.querySelector('#train-advanced button').click()")
    expect(page.locator("#weight_decay")).to_be_visible()
    told = page.evaluate(EVERY_MARK)
    assert len(told) > 60
    assert [
        each for each in told if each["left"] < 0 or each["right"] > 390 or each["top"] < 0 or each["bottom"] > 900
    ] == []
    assert [each for each in told if each["right"] - each["left"] < 60] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_word_in_many_help_lines_is_one_stop_of_the_keyboard(visit):
    page = visit()
    open_tab(page, "train")
    page.keyboard.press("Tab")
    stops = page.evaluate("""() => [...document.querySelectorAll('a[href^="#gloss-"]')]
        .filter((each) => each.offsetParent && each.tabIndex === 0).map((each) => each.hash)""")
    assert len(stops) == len(set(stops)) > 10

"""The main journey without a mouse, and where the keyboard is at each step."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from engine.words import words
from tests.browser.steps import preview_words

HERE = """
() => {
  const at = document.activeElement, box = at.getBoundingClientRect();
  const isRinged = (each) => each && getComputedStyle(each).outlineStyle !== 'none'
    && parseFloat(getComputedStyle(each).outlineWidth) >= 2;
  const isSeen = at.checkVisibility() && box.width > 1 && (isRinged(at) || isRinged(at.closest('.wrap')));
  return [isSeen, at === document.body ? '' : at.outerHTML.slice(0, 160)];
}
"""
MOST_STOPS = 90


def walk(page: Page, to: Locator, key: str = "Tab") -> int:
    """Press a key until the keyboard is there; every stop on the way can be seen. Returns how many there were."""
    page.locator("body").first.wait_for()
    for count in range(1, MOST_STOPS):
        page.keyboard.press(key)
        is_seen, what = page.evaluate(HERE)
        assert is_seen or not what, f"no ring around {what}"
        if to.evaluate("each => each === document.activeElement"):
            return count
    raise AssertionError(f"not reached: {to}")


def test_from_a_dataset_to_the_start_by_keyboard_alone(visit):
    page = visit()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    walk(page, page.locator("#tab-data-button"))
    page.keyboard.press("Enter")
    dataset = page.locator("#data-dataset input")
    expect(page.locator("#data-rows .data-row").first).to_be_visible()
    walk(page, dataset)
    before = dataset.input_value()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(dataset).not_to_have_value(before)
    chosen = dataset.input_value()
    expect(page.locator("#data-rows h4")).to_contain_text(chosen)

    row = page.locator("#data-rows .data-row").nth(1)
    walk(page, row.locator("header button"))
    page.keyboard.press("Enter")
    expect(page.locator("#data-rows .data-row").nth(1).locator(".rendered")).to_be_visible()
    walk(page, page.locator("#data-train"))
    page.keyboard.press("Enter")
    expect(page.locator("#start")).to_be_visible()
    expect(page.locator("#dataset")).to_contain_text(chosen)

    walk(page, page.locator(".skip"), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#start")).to_be_focused()
    walk(page, page.locator("#preview-command"))
    page.keyboard.press("Enter")
    command = preview_words(page)
    assert command[command.index("--dataset") + 1] == chosen
    walk(page, page.locator("#start"), "Shift+Tab")


def test_enter_sends_and_shift_enter_begins_a_line(visit):
    page = visit()
    page.locator("#tab-chat-button").focus()
    page.keyboard.press("Enter")
    box = page.locator("#chat-question textarea")
    walk(page, box)
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(box).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(page.locator("#chat-notice")).to_contain_text(words("page.chat.nothing_loaded"))


def test_who_passes_through_a_drop_down_has_chosen_nothing(visit):
    """Leaving the model's drop-down as it was changes neither the path nor the template that somebody has set."""
    page = visit()
    template, name = page.locator("#template input"), page.locator("#model_name input")
    template.fill("chatml")
    page.get_by_role("option", name="chatml", exact=True).click()
    model = name.input_value()
    name.focus()
    with page.expect_response(lambda answer: f'"data":["{model}"' in (answer.request.post_data or "")):
        page.keyboard.press("Tab")
    page.wait_for_timeout(300)
    expect(template).to_have_value("chatml")
    name.fill("Qwen2.5-0.5B")
    page.get_by_role("option", name="Qwen2.5-0.5B-Instruct", exact=True).click()
    expect(template).not_to_have_value("chatml")
    expect(page.locator("#model_name_or_path input, #model_name_or_path textarea")).to_have_value(
        "Qwen/Qwen2.5-0.5B-Instruct"
    )

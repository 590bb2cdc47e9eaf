"""The queue on the page: while somebody trains, a Start waits its turn, and all visitors see and move the same line."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from engine.runs.folder import SAVES, Folder
from engine.runs.queue import read_settings, waiting
from engine.runs.read import read_state
from engine.words import words
from tests.browser.steps import WRITTEN, add_name, fill

pytestmark = pytest.mark.slow
SECOND = "zh" if "zh" in WRITTEN else "en"


def in_line() -> list[str]:
    return [each.folder.name for each in waiting()]


def test_a_start_waits_while_the_device_is_taken_and_all_see_it(visit, busy):
    page, second = visit(), visit(locale=SECOND)
    expect(page.locator("#queue li")).to_have_count(0)
    add_name(page, "dataset", "identity")
    page.locator("#start").dblclick()
    expect(page.locator("#queue li")).to_have_count(1)
    (first,) = in_line()
    expect(page.locator("#train-notice")).to_contain_text(words("page.queue.queued", name=first, place=1))
    expect(second.locator("#queue li .run-name")).to_have_text(first)
    expect(second.locator("#queue h4")).to_contain_text(words("page.queue.title", SECOND))
    expect(page.locator("#train-status .run-name")).to_have_text(busy.name)

    fill(page, "lora_rank", "4")
    page.locator("#start").click()
    expect(page.locator("#queue li")).to_have_count(2)
    assert len(in_line()) == 2, "the double click counted twice"
    other = in_line()[1]
    expect(page.locator("#queue li small")).to_have_text(["lora_rank: 8 ", "lora_rank: 4 "])

    # Another visitor moves it; both see the new order, and so does a page that is opened anew.
    up = words("page.queue.up", SECOND, name=other)
    second.locator("#queue").get_by_role("button", name=up, exact=True).click()
    expect(second.locator("#queue li .run-name")).to_have_text([other, first])
    expect(page.locator("#queue li .run-name")).to_have_text([other, first])
    assert in_line() == [other, first]
    page.reload()
    expect(page.locator("#queue li .run-name")).to_have_text([other, first])

    page.locator('#queue [data-queue="pause"]').click()
    expect(second.locator("#queue .notice")).to_have_text(words("page.queue.paused", SECOND))
    assert read_settings().is_paused
    second.locator('#queue [data-queue="resume"]').click()
    expect(page.locator("#queue .notice")).to_have_count(0)
    page.locator('#queue [data-queue="failure"]').click()
    expect(page.locator('#queue [data-queue="failure"]')).to_have_text(words("page.queue.waits_after_failure"))
    assert not read_settings().keeps_going

    page.locator("#queue").get_by_role("button", name=words("page.queue.cancel", name=other), exact=True).click()
    expect(page.locator("#train-notice")).to_contain_text(words("page.queue.cancelled", name=other))
    expect(second.locator("#queue li .run-name")).to_have_text([first])
    assert in_line() == [first] and read_state(Folder(SAVES / other)).status == "stopped"


def test_the_queue_fits_a_phone_and_speaks_every_language(visit, busy):
    page = visit()
    add_name(page, "dataset", "identity")
    page.locator("#start").click()
    expect(page.locator("#queue li")).to_have_count(1)
    for code in WRITTEN:
        phone = visit(locale=code, width=390)
        expect(phone.locator("#queue h4")).to_contain_text(words("page.queue.title", code))
        labels = phone.locator("#queue button").evaluate_all("all => all.map(e => e.ariaLabel || e.innerText)")
        assert len(labels) == 5 and all(label.strip() for label in labels)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390

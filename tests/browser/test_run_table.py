"""The table of runs on the page: narrowed down, sorted by its heads, more on demand, and it keeps its place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.steps import hold, open_tab


@pytest.fixture
def sixty(workshop: Path):
    """Sixty runs that have ended, each with less loss than the one before; the seventh failed."""
    place = workshop / "saves" / "t" / "lora"
    for number in range(60):
        folder = place / f"run-{number:02}"
        folder.mkdir(parents=True)
        state = {
            "kind": "train", "status": "failed" if number == 7 else "done", "started_at": 1e9 + number,
            "finished_at": 1e9 + number + 90, "about": {"model": "Smol", "method": "lora", "datasets": ["poems"]},
            "summary": {
                "finished_at": 1e9 + number + 90, "step": 40, "total_steps": 40, "loss": 3 - number / 100,
                "best_eval_loss": 2.5, "size_bytes": 5_000_000,
            },
        }  # fmt: skip
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    yield place
    shutil.rmtree(workshop / "saves" / "t")


def names(page) -> list[str]:
    return [each.split("/")[-1] for each in page.locator("#runs-table tbody tr td.name").all_inner_texts()]


def test_filter_order_and_more(visit, sixty):
    page = visit()
    open_tab(page, "runs")
    page.locator("#runs-filter input, #runs-filter textarea").first.fill("poems lora t/")
    rows = page.locator("#runs-table tbody tr")
    expect(page.locator("#runs-table tbody tr").first).to_contain_text("run-59")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("2.41")
    expect(rows.first).to_contain_text("0:01:30")
    expect(rows.first).to_contain_text("5 MB")
    head = page.locator('#runs-table [data-sort="loss"]')
    head.click()
    expect(page.locator("#runs-table th.loss")).to_have_attribute("aria-sort", "ascending")
    expect(rows.first).to_contain_text("run-59")
    head.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#runs-table th.loss")).to_have_attribute("aria-sort", "descending")
    expect(rows.first).to_contain_text("run-00")
    expect(head).to_be_focused()  # though the table was drawn anew
    page.locator("#runs-table [data-more]").click()
    expect(rows).to_have_count(60)
    assert names(page) == [f"run-{number:02}" for number in range(60)]
    page.locator("#runs-statuses input").click()
    page.get_by_role("option", name="Failed").click()
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("run-07")
    rows.first.click()
    expect(page.locator("#run-status")).to_contain_text("t/lora/run-07")
    page.locator("#runs-filter input, #runs-filter textarea").first.fill("nothing like it")
    expect(page.locator("#runs-table")).to_contain_text("None of the")


def test_the_table_keeps_its_place_while_runs_change(visit, sixty):
    page = visit()
    open_tab(page, "runs")
    page.locator("#runs-table [data-run$='run-30']").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    assert page.evaluate("document.querySelector('#runs-table .scroller').scrollTop") > 100
    before = page.locator("#runs-table [data-run$='run-30']").bounding_box()["y"]
    state = json.loads((sixty / "run-59" / "state.json").read_text())
    (sixty / "run-59" / "state.json").write_text(json.dumps({**state, "status": "stopped"}))
    expect(page.locator("#runs-table [data-run$='run-59']")).to_contain_text("Stopped")
    assert page.locator("#runs-table [data-run$='run-30']").bounding_box()["y"] == pytest.approx(before, abs=1)


def test_on_a_phone_nothing_is_wider_than_the_page(visit, sixty):
    page = visit(width=390)
    open_tab(page, "runs")
    expect(page.locator("#runs-table tbody tr").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


TELLS_LATE = """
() => {
    const table = document.querySelector('#runs-table');
    new MutationObserver(() => {
        const shown = [...table.querySelectorAll('tbody tr')].map((row) => row.dataset.run);
        window.isLate ||= shown.length === 1 && shown[0].endsWith('run-17');
    }).observe(table, {childList: true, subtree: true, characterData: true});
}
"""


def test_an_answer_that_is_overtaken_does_not_stay(visit, sixty):
    """Of two answers under way at once, the older may come last: what the filter says is what is shown in the end."""
    page = visit()
    open_tab(page, "runs")
    rows = page.locator("#runs-table tbody tr")
    expect(rows).to_have_count(50)
    hold(page, "run-17")
    page.evaluate(TELLS_LATE)
    box = page.locator("#runs-filter input, #runs-filter textarea").first
    box.fill("run-17")
    page.wait_for_function("window.isHeld")
    box.fill("run-23")
    expect(rows).to_have_count(1)
    page.evaluate("window.release()")
    page.wait_for_function("window.isLate")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("run-23")

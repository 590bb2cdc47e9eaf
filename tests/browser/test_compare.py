"""Runs over one another on the page: chosen, drawn, told apart, zoomed, taken away; one grows and one is deleted."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import append_line, update_state, write_job
from tests.browser.steps import open_tab

EVIL = "<script>window.hacked=1</script>"
NAMES = ("other/lora/slow", "other/lora/fast", f"other/lora/{EVIL.replace('/', '')}")


def line(step: int, loss: float) -> dict[str, float]:
    return {"current_steps": step, "total_steps": 400, "elapsed_time": "0:00:09", "loss": loss, "lr": 1e-4 / step}


@pytest.fixture
def three_runs(workshop: Path):
    asked = ({"learning_rate": 1e-5}, {"learning_rate": 3e-4}, {"default_system": EVIL + "{{x}} ${y}"})
    folders = [Folder(workshop / "saves" / name) for name in NAMES]
    for number, (folder, options) in enumerate(zip(folders, asked, strict=True)):
        folder.path.mkdir(parents=True)
        write_job(folder, TrainJob.from_values({"dataset": "identity", **options}), "en")
        update_state(folder, kind="train", status="done", started_at=1e9 + number, finished_at=1e9 + 60)
        for step in range(1, 101):
            append_line(folder.events, line(step, 3 / step + number))
    yield folders
    for folder in folders:
        shutil.rmtree(folder.path, ignore_errors=True)


def opened(page: Page, names: tuple[str, ...] = NAMES) -> Page:
    """The Runs tab with the panel open and the runs chosen."""
    open_tab(page, "runs")
    page.locator("#runs-compare-box button.label-wrap").click()
    expect(page.locator("#compare-tables")).to_contain_text(("Choose", "Выберите")[page.viewport_size["width"] < 400])
    box = page.locator("#runs-compare input").first
    for name in names:
        box.click()
        box.fill(name)
        page.get_by_role("option", name=name).click()
    box.press("Escape")
    box.blur()
    expect(page.locator("#compare-curve .run-legend .key")).to_have_count(len(names))
    return page


def test_runs_are_overlaid_and_only_what_differs_is_listed(visit, three_runs, tmp_path):
    page = opened(visit())
    chart = page.locator("#compare-curve .chart.large")
    expect(page.locator("#compare-curve .run-legend")).to_contain_text("slow")
    lines = chart.locator("path[class*='line-']")
    expect(lines).to_have_count(3)
    looks = lines.evaluate_all(
        "lines => lines.map(line => getComputedStyle(line)).map(look => look.stroke + look.strokeDasharray)"
    )
    assert len(set(looks)) == 3
    options = page.locator("#compare-tables .differences").first
    assert options.locator("tbody code").all_inner_texts() == ["default_system", "learning_rate"]
    assert options.locator("tbody tr").nth(1).locator("td").all_inner_texts() == ["1e-05", "0.0003", "0.0001"]
    assert options.locator("tbody tr").nth(0).locator("td").last.inner_text() == EVIL + "{{x}} ${y}"
    assert page.evaluate("window.hacked") is None and page.locator("#compare-tables script").count() == 0
    best = page.locator("#compare-tables .outcomes tbody tr").nth(0).locator("td.best")
    expect(best.first).to_contain_text("0.03 best")

    before = chart.locator("path.line-1").get_attribute("d")
    page.locator("#compare-smoothed input").uncheck()
    expect(chart.locator("path.line-1")).not_to_have_attribute("d", before)
    page.locator("#compare-axis label").last.click()
    expect(chart).to_have_attribute("data-last", "25")
    chart.locator(".plot").focus()
    page.keyboard.press("+")
    expect(chart).not_to_have_attribute("data-last", "25")
    page.locator("#compare-back").click()
    expect(chart).to_have_attribute("data-last", "25")
    with page.expect_download() as taken:
        page.locator("#compare-csv").click()
    taken.value.save_as(tmp_path / "points.csv")
    with (tmp_path / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row[f"loss {NAMES[1]}"]) for row in rows] == [3 / step + 1 for step in range(1, 101)]

    append_line(three_runs[0].events, line(200, 1.0))
    expect(chart).to_have_attribute("data-last", "50")
    shutil.rmtree(three_runs[1].path)
    expect(lines).to_have_count(2)
    expect(chart.locator("path.line-3")).to_have_count(1)
    expect(page.locator("#compare-tables")).to_contain_text("Not there any more: " + NAMES[1])
    page.locator("#runs-compare-box button.label-wrap").click()
    expect(page.locator("#compare-curve figure")).to_have_count(0)


def test_on_a_phone_the_table_scrolls_and_not_the_page(visit, three_runs):
    page = opened(visit(locale="ru-RU", width=390), NAMES[1:])
    expect(page.locator("#compare-tables .outcomes")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    table = page.locator("#compare-tables .outcomes")
    assert table.evaluate("box => box.scrollWidth > box.clientWidth")
    table.evaluate("box => box.scrollLeft = 200")
    row = table.locator("tbody th").first.bounding_box()
    assert 0 <= row["x"] < 60, "the names of the runs stay in sight"

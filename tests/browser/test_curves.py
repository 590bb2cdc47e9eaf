"""The charts of a run on the page: zoom, window, powers of ten, and what is taken away, on a log written by hand."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.options.jobs import TrainJob
from engine.runs.folder import Folder
from engine.runs.record import update_state, write_job
from tests.browser.steps import open_tab

STEPS = range(1, 5001)


def told(step: int) -> dict[str, float]:
    values = {"loss": 90.0 if step == 2500 else 3 / step**0.5, "lr": 1e-4 * (1 - step / 5000), "throughput": 900.0}
    values |= {"grad_norm": 1 / step, "memory_bytes": 2e9 + step, "rewards/chosen": 1.0, "rewards/rejected": -1.0}
    return values | ({"eval_loss": 2 / step**0.5} if step % 500 == 0 else {})


@pytest.fixture
def long_run(workshop: Path):
    folder = Folder(workshop / "saves" / "m" / "lora" / "long")
    folder.path.mkdir(parents=True)
    write_job(folder, TrainJob(dataset=("gone.json",)), "en")
    update_state(folder, kind="train", status="done", started_at=1e9, finished_at=1e9 + 60)
    place = {"total_steps": 5000, "elapsed_time": "0:00:09"}
    lines = [json.dumps({"current_steps": step, **place, **told(step)}) for step in STEPS]
    folder.events.write_text("\n".join(lines) + "\n")
    yield folder
    shutil.rmtree(folder.path)


def opened(page: Page) -> Page:
    open_tab(page, "runs")
    page.locator('[data-run="m/lora/long"]').click()
    expect(page.locator("#run-curve .chart.large")).to_be_visible()
    return page


def ends(page: Page) -> tuple[float, float]:
    figure = page.locator("#run-curve .chart.large")
    return float(figure.get_attribute("data-first")), float(figure.get_attribute("data-last"))


def test_zoom_window_and_scale(visit, long_run):
    page = opened(visit())
    expect(page.locator("#run-curve .small-charts figure")).to_have_count(5)
    expect(page.locator("#run-curve .chart.large")).to_have_attribute("data-last", "5000")  # a log is read in parts
    assert ends(page) == (1, 5000)
    page.locator("#run-curve-window").get_by_text("100", exact=False).last.click()
    expect(page.locator("#run-curve .chart.large")).to_have_attribute("data-first", "4901")
    page.locator("#run-curve-window label").first.click()
    expect(page.locator("#run-curve .chart.large")).to_have_attribute("data-first", "1")

    area = page.locator("#run-curve .chart.large .area")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 60, steps=5)
    page.mouse.up()
    expect(page.locator("#run-curve .chart.large")).not_to_have_attribute("data-first", "1")
    first, last = ends(page)
    assert first == pytest.approx(2001, abs=15) and last == pytest.approx(3000, abs=15)
    expect(page.locator("#run-curve .small-charts figure").first).to_have_attribute("data-first", f"{first:.0f}")
    page.locator("#run-curve-back").click()
    expect(page.locator("#run-curve .chart.large")).to_have_attribute("data-first", "1")
    expect(page.locator("#run-curve-back")).to_be_disabled()

    page.locator("#run-curve .chart.large .plot").focus()
    page.keyboard.press("+")
    expect(page.locator("#run-curve .chart.large")).not_to_have_attribute("data-first", "1")
    expect(page.locator("#run-curve .chart.large .plot")).to_be_focused()
    page.keyboard.press("0")
    expect(page.locator("#run-curve .chart.large")).to_have_attribute("data-first", "1")

    before = page.locator("#run-curve .chart.large path.raw").get_attribute("d")
    page.locator("#run-curve-log input").check()
    expect(page.locator("#run-curve .chart.large path.raw")).not_to_have_attribute("d", before)
    other = visit()
    opened(other)
    assert not other.locator("#run-curve-log input").is_checked(), "another visitor's view is their own"


def test_all_points_and_a_picture_are_taken_away(visit, long_run, tmp_path):
    page = opened(visit())
    with page.expect_download() as taken:
        page.locator("#run-curve-csv").click()
    assert taken.value.suggested_filename == "m_lora_long.csv"
    taken.value.save_as(tmp_path / "points.csv")
    names = {"learning_rate": "lr"}
    with (tmp_path / "points.csv").open(newline="") as file:
        found = {
            int(row.pop("step")): {names.get(name, name): float(value) for name, value in row.items() if value}
            for row in csv.DictReader(file)
        }
    assert found == {step: told(step) for step in STEPS}
    with page.expect_download() as taken:
        page.locator("#run-curve-png").click()
    taken.value.save_as(tmp_path / "charts.png")
    assert (tmp_path / "charts.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_wider_than_a_phone(visit, long_run):
    page = opened(visit(locale="ru-RU", width=390))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for name in ("window", "log", "back", "csv", "png"):
        box = page.locator(f"#run-curve-{name}").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390

"""The Evaluate tab: a run from the form to its numbers, and answers that are sorted, sought, and laid side by side."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engine.options.jobs import EvalJob
from engine.runs.folder import Folder
from engine.runs.record import append_line, update_state, write_job
from engine.words import words
from tests.browser.steps import add_name, choose, fill, open_tab

EVIL = "<script>window.hacked=1</script> {{x}} ${y}"
NAMES = ("m/eval/eval_2030-01-01-00-00-02", "m/eval/eval_2030-01-01-00-00-01")


def line(index: int, predict: str, f1: float) -> dict:
    right = 100.0 * (predict == "yes")
    return {"index": index, "dataset": "facts", "row": index + 1, "prompt": f"<|user|>\nquestion {index}",
            "predict": predict, "label": "yes", "scores": {"exact_match": right, "token_f1": f1}}  # fmt: skip


@pytest.fixture
def two_evaluations(workshop: Path):
    folders = [Folder(workshop / "saves" / name) for name in NAMES]
    for number, folder in enumerate(folders):
        folder.path.mkdir(parents=True)
        write_job(folder, EvalJob.from_values({"dataset": "identity"}), "en")
        result = {"metrics": {"eval_loss": 1.25, "predict_token_f1": 50.5}, "output_dir": str(folder.path)}
        update_state(folder, kind="eval", status="done", started_at=2e9 - number, finished_at=2e9, result=result)
    for index in range(45):
        append_line(folders[0].predictions, line(index, "yes" if index % 3 else EVIL, (index * 7) % 45))
        append_line(folders[1].predictions, line(index, f"theirs {index}", 0.0))
    yield folders
    for folder in folders:
        shutil.rmtree(folder.path, ignore_errors=True)


@pytest.mark.parametrize(("locale", "width"), [("en-US", 1440), ("ru-RU", 390)])
def test_answers_are_sorted_sought_and_laid_side_by_side(visit, two_evaluations, locale, width):
    code = locale[:2]
    page = visit(locale=locale, width=width)
    open_tab(page, "eval")
    expect(page.locator("#eval-result .tiles")).to_contain_text("1.25")
    table = page.locator("#answers-table")
    rows = table.locator("tbody tr")
    expect(rows).to_have_count(20)
    expect(table).to_contain_text(EVIL)
    assert page.evaluate("window.hacked") is None
    table.get_by_role("button", name=words("page.buttons.next", code), exact=True).click()
    expect(rows.first).to_contain_text("question 20")
    table.get_by_role("button", name=words("page.eval.scores.token_f1", code)).click()
    expect(rows.first.locator("td.number").last).to_have_text("0")
    expect(rows.nth(1).locator("td.number").last).to_have_text("1")
    table.get_by_role("button", name=words("page.eval.scores.token_f1", code)).click()
    expect(rows.first.locator("td.number").last).to_have_text("44")
    page.locator("#answers-wrong input").check()
    expect(table).to_contain_text(words("predictions.shown", code, first=1, last=15, count=15))
    fill(page, "answers-filter", "QUESTION 42")
    expect(rows).to_have_count(1)
    choose(page, "answers-other", NAMES[1])
    expect(rows.first).to_contain_text("theirs 42")
    fill(page, "answers-filter", "nowhere")
    expect(table).to_contain_text(words("predictions.none_match", code, count=45))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_evaluation_from_the_form_to_its_numbers(visit, workshop):
    page = visit()
    open_tab(page, "eval")
    page.locator("#eval-start").click()
    said = words("errors.eval.nothing_to_ask").split("`")[0].strip()
    expect(page.locator("#eval-dataset .info-text strong")).to_contain_text(said)
    add_name(page, "eval-dataset", "identity")
    fill(page, "eval-max_samples", "2")
    fill(page, "eval-max_new_tokens", "4")
    page.locator("#eval-start").click()
    expect(page.locator("#eval-result .tiles")).to_be_visible(timeout=120_000)
    (folder,) = (Folder(path.parent) for path in workshop.glob("saves/*/eval/*/generated_predictions.jsonl"))
    metrics = json.loads(folder.results.read_text(encoding="utf-8"))
    expect(page.locator("#eval-result .tiles")).to_contain_text(f"{metrics['eval_loss']:.4g}")
    expect(page.locator("#answers-table tbody tr")).to_have_count(2)
    open_tab(page, "runs")
    expect(page.locator("#runs-table")).to_contain_text(words("page.kinds.eval"))
    shutil.rmtree(folder.path)

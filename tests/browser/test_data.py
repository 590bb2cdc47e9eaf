"""The Data tab: a file is brought, mapped, registered, looked at, checked, cut, trained on; nothing is lost by it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from engine.catalog.datasets import find_entry, registered
from engine.catalog.entry import description_of
from engine.catalog.lengths import Lengths
from engine.catalog.recognise import recognise
from engine.catalog.register import is_name
from engine.words import words
from tests.browser.steps import choose, fill, open_tab
from webui.data_columns import FORMATS, ROLES, TAGS, mapped_entry
from webui.data_lengths import picture, share
from webui.data_register import left_out, proposed_name, register_copy

JOB_MS = 240_000
PAIRS = [(f"What is {n} plus {n}?", f"{n} plus {n} is {2 * n}. " * (1 + n // 4)) for n in range(24)]


@pytest.fixture
def own_data(tmp_path: Path) -> Path:
    """A dataset folder of its own, with one dataset in it."""
    folder = tmp_path / "my data"
    folder.mkdir()
    rows = [{"instruction": f"Question {n}", "output": f"Answer {n}, a <b>bold</b> one"} for n in range(1, 36)]
    (folder / "numbers.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "dataset_info.json").write_text('{\n  "numbers": {"file_name": "numbers.json"}\n}\n', encoding="utf-8")
    return folder


@pytest.fixture
def odd_file(tmp_path: Path) -> Path:
    """A table whose columns nobody can guess, with an empty answer and a row that is there twice."""
    path = tmp_path / "Frågor & svar 🦆.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("fraga", "svar", "slag"), *((*pair, "x") for pair in PAIRS)])
        csv.writer(file).writerows([("What is nothing?", "", "x"), (*PAIRS[3], "x")])
    return path


@pytest.fixture
def data_tab(visit, own_data: Path):
    """Open the page at the Data tab with ``own_data``: ``data_tab(width, …)``."""

    def open_page(**options) -> Page:
        page = visit(**options)
        open_tab(page, "data")
        fill(page, "data-dataset_dir", str(own_data))
        expect(page.locator("#data-rows h4")).to_contain_text("numbers")
        return page

    return open_page


def bring(page: Page, path: Path) -> None:
    page.locator("#data-upload input[type=file]").set_input_files(path)


def rows_shown(page: Page):
    return page.locator("#data-rows .data-row")


@pytest.mark.slow
def test_from_a_table_nobody_knows_to_a_training_run(data_tab, own_data, odd_file, tiny_model, workshop):
    page = data_tab()
    fill(page, "model_name_or_path", str(tiny_model))
    bring(page, odd_file)
    expect(page.locator("#data-upload-notice")).to_contain_text(words("page.data.not_recognised"))
    choose(page, "map-prompt", "fraga")
    choose(page, "map-response", "svar")
    expect(page.locator("#data-preview .row-card").first).to_contain_text(PAIRS[0][1].strip())
    assert is_name(page.locator("#data-name input, #data-name textarea").first.input_value())
    fill(page, "data-name", "sums")
    page.locator("#data-register").click()
    expect(page.locator("#data-upload-notice")).to_contain_text("sums")
    expect(page.locator("#data-rows h4")).to_contain_text("sums: rows 1 to 10 of 26")
    assert find_entry(own_data, "sums").columns.response == "svar"
    assert "numbers" in registered(own_data)

    # What is marked as learned is the answer with its end mark, and nothing else.
    expect(page.locator("#data-rows .rendered mark")).to_have_count(1)
    learned = page.locator("#data-rows .seen .rendered mark").evaluate(
        "mark => [...mark.childNodes].filter(each => !each.matches?.('.spoken, .newline'))"
        ".map(each => each.textContent).join('')"
    )
    assert learned == f"{PAIRS[0][1]}<|im_end|>"

    # The check finds the two rows that something is wrong with; a click leads there.
    page.locator("#data-start").click()
    page.locator("#data-report .report, #data-status :is(.failed, .lost)").first.wait_for(timeout=JOB_MS)
    assert page.locator("#data-report .report").count(), page.locator("#data-status").inner_text()
    expect(page.locator("#data-report [data-kind=empty_answer]")).to_contain_text("1")
    expect(page.locator("#data-report [data-kind=duplicate]")).to_contain_text("1")
    page.locator("#data-report [data-kind=duplicate]").click()
    expect(page.locator("#data-report .findings li")).to_have_count(1)
    page.reload()
    open_tab(page, "data")
    expect(page.locator("#data-rows h4")).to_contain_text("sums")
    page.locator("#data-check-button").click()
    page.locator("#data-report .findings [data-row='25']").click()
    expect(page.locator("#data-rows .data-row.open")).to_have_attribute("aria-label", "25")

    # A cleaned copy is a dataset like any other.
    page.locator("#data-check-button").click()
    with page.expect_download() as download:
        page.locator("#data-rejects").click()
    rejected = [json.loads(line) for line in Path(download.value.path()).read_text(encoding="utf-8").splitlines()]
    assert [row["row"] for row in rejected] == [25, 26]
    page.locator("#data-clean").click()
    expect(page.locator("#data-dataset input")).to_have_value("sums_clean")
    expect(page.locator("#data-notice")).to_contain_text("24")
    page.locator("#data-browse-button").click()
    expect(page.locator("#data-rows h4")).to_contain_text("sums_clean: rows 1 to 10 of 24")

    # The cutoff that is chosen here is the one that is trained with.
    choose(page, "data-dataset", "sums")
    page.locator("#data-lengths-button").click()
    page.locator("#data-p95").click()
    lengths = Lengths.read(next(iter(workshop.glob("saves/sums/data/*/lengths.json"))))
    cutoff = lengths.percentile(95)
    expect(page.locator("#data-cutoff input")).to_have_value(str(cutoff))
    fill(page, "data-cutoff", "40")
    lost = lengths.at(40)
    expect(page.locator("#data-lengths .rows_cut dd")).to_contain_text(f"{lost.rows}")
    expect(page.locator("#data-lengths .answer_tokens_lost dd")).to_contain_text(f"{lost.answer_tokens}")
    page.locator("#data-use-cutoff").click()
    expect(page.locator("#data-lengths-notice")).to_contain_text("40")

    page.locator("#data-train").click()
    expect(page.locator("#dataset")).to_contain_text("sums")
    expect(page.locator("#cutoff_len input")).to_have_value("40")
    fill(page, "model_name_or_path", str(tiny_model))
    fill(page, "max_samples", "4")
    page.locator("#train-advanced > button").click()
    fill(page, "max_steps", "1")
    page.locator("#start").click()
    page.locator("#train-status .chip.done").wait_for(timeout=JOB_MS)


def test_pages_search_and_jump(data_tab):
    page = data_tab()
    expect(rows_shown(page)).to_have_count(10)
    expect(page.locator("#data-back")).to_be_disabled()
    for first in (11, 21, 31):
        page.locator("#data-next").click()
        expect(rows_shown(page).first).to_contain_text(f"Question {first}")
    expect(rows_shown(page)).to_have_count(5)
    expect(page.locator("#data-next")).to_be_disabled()
    page.locator("#data-back").click()
    expect(rows_shown(page).first).to_contain_text("Question 21")
    fill(page, "data-jump", "33")
    page.locator("#data-jump input, #data-jump textarea").first.press("Enter")
    expect(page.locator("#data-rows .data-row.open")).to_have_attribute("aria-label", "33")
    fill(page, "data-search", "answer 1")  # 1 and 10 to 19, in whatever case
    page.locator("#data-search input, #data-search textarea").first.press("Enter")
    expect(rows_shown(page).first).to_contain_text("Question 1")
    expect(rows_shown(page)).to_have_count(10)
    page.locator("#data-next").click()
    expect(rows_shown(page)).to_have_count(1)
    expect(rows_shown(page).first).to_contain_text("Question 19")
    expect(rows_shown(page).first).to_contain_text("a <b>bold</b> one")


def test_what_the_model_sees_follows_the_template_and_the_training_form(data_tab):
    page = data_tab()
    seen = page.locator("#data-rows .seen .rendered")
    expect(seen.locator("kbd").first).to_have_text("<|im_start|>")
    choose(page, "template", "llama3")
    expect(seen).to_contain_text("<|start_header_id|>")
    expect(seen.locator("mark")).to_have_count(1)
    row = page.locator("#data-rows [data-row='2']")
    row.focus()
    row.press("Enter")
    expect(page.locator("#data-rows .data-row.open")).to_have_attribute("aria-label", "2")
    expect(page.locator("#data-rows [data-row='2']")).to_be_focused()
    open_tab(page, "train")
    page.locator("#train-advanced > button").click()
    page.locator("#train_on_prompt input").check()
    open_tab(page, "data")
    expect(seen).to_contain_text("Question 2")
    expect(seen.locator("> span")).to_have_count(0)  # all of it is learned now


def test_undo_takes_the_dataset_and_its_copy_away_and_nothing_else(data_tab, own_data, tmp_path):
    before = (own_data / "dataset_info.json").read_bytes()
    path = tmp_path / "talks.jsonl"
    turns = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A lathe."}]
    path.write_text(json.dumps({"messages": turns}) + "\n", encoding="utf-8")
    page = data_tab()
    bring(page, path)
    expect(page.locator("#data-preview")).to_contain_text(words("page.data.is.openai"))
    expect(page.locator("#data-preview .turn.assistant")).to_contain_text("A lathe.")
    page.locator("#data-register").click()
    expect(page.locator("#data-dataset input")).to_have_value("talks")
    assert (own_data / "talks.jsonl").read_bytes() == path.read_bytes()
    page.locator("#data-undo").click()
    expect(page.locator("#data-upload-notice")).to_contain_text(words("page.data.undone"))
    expect(page.locator("#data-dataset input")).to_have_value("numbers")
    assert (own_data / "dataset_info.json").read_bytes() == before
    assert not (own_data / "talks.jsonl").exists()
    assert path.is_file()


def test_a_broken_file_says_why_and_a_taken_name_loses_nothing(data_tab, own_data, tmp_path):
    before = (own_data / "dataset_info.json").read_bytes()
    broken = tmp_path / "broken.json"
    broken.write_text('[{"instruction": "a", "output": ', encoding="utf-8")
    page = data_tab()
    bring(page, broken)
    told = page.locator("#data-upload-notice .notice.error")
    expect(told).to_contain_text("broken.json")
    expect(told).to_contain_text("column")
    expect(told).not_to_contain_text("gradio")  # where an upload lies for the moment is nobody's business
    expect(page.locator("#data-register")).to_be_hidden()
    page.locator(
        "#data-upload button[aria-label='Clear'], #data-upload button[aria-label='Remove this file']"
    ).first.click()
    good = tmp_path / "good.json"
    good.write_text('[{"instruction": "a", "output": "b"}]', encoding="utf-8")
    bring(page, good)
    for name in ("numbers", "../out", "x" * 101):
        fill(page, "data-name", name)
        page.locator("#data-register").click()
        expect(page.locator("#data-upload-notice .notice.error")).to_contain_text(name)
    assert (own_data / "dataset_info.json").read_bytes() == before
    assert {path.name for path in own_data.iterdir() if not path.name.startswith(".")} == {
        "dataset_info.json", "numbers.json",
    }  # fmt: skip


def test_two_visitors_do_not_disturb_each_other(data_tab, own_data, odd_file):
    first, second = data_tab(), data_tab()
    bring(first, odd_file)
    expect(first.locator("#data-register")).to_be_visible()
    second.locator("#data-next").click()
    expect(rows_shown(second).first).to_contain_text("Question 11")
    expect(rows_shown(first).first).to_contain_text("Question 1")
    expect(second.locator("#data-register")).to_be_hidden()


@pytest.mark.parametrize("width", [1280, 390])
def test_everything_has_a_label_and_fits_the_window(data_tab, odd_file, width):
    page = data_tab(width=width)
    bring(page, odd_file)
    expect(page.locator("#data-register")).to_be_visible()
    for view in ("browse", "check", "lengths"):
        page.locator(f"#data-{view}-button").click()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('input, textarea, button, select')]
                .filter(each => each.offsetParent && !each.labels?.length && !each.getAttribute('aria-label')
                        && !each.getAttribute('title') && !each.innerText?.trim())
                .map(each => each.outerHTML.slice(0, 200))"""
        )
        assert not unnamed, f"{view}: {unnamed}"
    expect(page.locator("#data-train")).to_be_in_viewport()


@pytest.mark.parametrize(
    "path",
    [
        "🦆🦆.csv",
        "x" * 250 + ".json",
        "../../etc/passwd.json",
        "-rf.jsonl",
        ".hidden.json",
        'a "b",c\n.csv',
        "數據.txt",
    ],
)
def test_a_name_is_proposed_that_can_be_registered(path):
    assert is_name(proposed_name(path, []))


def test_columns_that_are_left_out_are_named_as_text(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"instruction": "Q", "output": "A", "<b>thought": "because", "id": "x"}]))
    assert "&lt;b&gt;thought" in left_out(recognise(path), "en") and "<b>" not in left_out(recognise(path), "en")
    path.write_text(json.dumps([{"instruction": "Q", "output": "A", "id": "x"}]))
    assert left_out(recognise(path), "en") == ""


def test_a_proposed_name_is_free():
    assert proposed_name("up/talks.jsonl", ["talks", "talks_2"]) == "talks_3"


@pytest.mark.parametrize("kind", FORMATS)
def test_what_the_drop_downs_say_is_what_is_registered(kind, tmp_path):
    """Each role gets a column of its own name; read back from dataset_info.json, the entry means the same."""
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps(dict.fromkeys(ROLES, "x")) + "\n", encoding="utf-8")
    place = tmp_path / "data"
    place.mkdir()
    roles = [f"my_{role}" if role in FORMATS[kind] else "" for role in ROLES]
    entry = mapped_entry(source, kind, *roles, *(f"my_{tag}" for tag in TAGS))
    register_copy(place, entry, source, "mine")
    again = registered(place)["mine"]
    assert again.problem is None
    assert (again.kind, again.formatting, again.columns, again.tags) == (
        entry.kind, entry.formatting, entry.columns, entry.tags,
    )  # fmt: skip
    assert "hf_hub_url" not in description_of(again)
    assert {"alpaca": "sft", "sharegpt": "sft", "openai": "sft"}.get(kind, kind) == entry.kind


def test_the_figures_of_a_cutoff_are_counted():
    lengths = Lengths([((10, 10),), ((10, 30),), ((5, 5),)])
    drawn = picture(lengths, 20, 2, "en")
    lost = lengths.at(20)
    assert lost.rows == 1
    assert f"<dd>{lost.rows}<small>33.3 %</small>" in drawn
    assert f"<dd>{lost.answer_tokens}<small>{share(lost.answer_tokens, 45)}</small>" in drawn


def test_a_share_is_never_rounded_to_none_or_all():
    assert share(0, 10) == share(0, 0) == "0 %"
    assert share(1, 100_000) == "< 0.1 %"
    assert share(99_999, 100_000) == "> 99.9 %"
    assert share(10, 10) == "100 %"

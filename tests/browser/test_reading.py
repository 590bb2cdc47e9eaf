"""The page for everybody: no barrier that axe-core knows of, nothing cut off in any language, colours one can tell."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from starlette.testclient import TestClient

from engine.words import LANGUAGES, words
from tests.browser.reading import CUT_OFF, TABS, TALL, faults, open_all
from tests.browser.showroom import furnish
from tests.browser.steps import WRITTEN, choose, open_tab
from webui.access.door import Door
from webui.access.sessions import Sessions

WIDTHS = (1440, 390)


@pytest.fixture
def bare(workshop: Path, tmp_path: Path) -> Iterator[Path]:
    """The page's ``saves`` with nothing in it; what other tests left there comes back afterwards."""
    saves, aside = workshop / "saves", tmp_path / "aside"
    if saves.exists():
        saves.rename(aside)
    yield saves
    shutil.rmtree(saves, ignore_errors=True)
    if aside.exists():
        aside.rename(saves)


@pytest.fixture
def furnished(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with runs of every kind."""
    monkeypatch.chdir(bare.parent)
    furnish(Path("saves"))
    return bare


def each_tab(page: Page) -> Iterator[str]:
    for tab in TABS:
        open_tab(page, tab)
        expect(page.locator(f"#tab-{tab}-button")).to_have_attribute("aria-selected", "true")
        page.wait_for_timeout(600)  # what follows from the click
        open_all(page)
        yield tab


def barriers(page: Page, width: int, place: str) -> list[str]:
    """In light colours, then in dark ones; none on its way from the one to the other."""
    found = []
    page.add_style_tag(content="* { transition: none !important; }")
    for scheme, rule in (("light", None), ("dark", "color-contrast")):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)
        found += [f"{place} {width} {scheme}: {each}" for each in faults(page, rule)]
    return found


CONTRAST = """
([selector, property, pseudo]) => [...document.querySelectorAll(selector)].map((each) => {
  const pen = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
  const light = (...colours) => {
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const grounds = [];
  for (let at = pseudo ? each : each.parentElement; at; at = at.parentElement)
    grounds.unshift(getComputedStyle(at).backgroundColor);
  const [dark, bright] = [light(...grounds), light(...grounds, getComputedStyle(each, pseudo)[property])]
    .sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
})
"""
"""By the formula of WCAG 2.2, of a colour against what lies behind the element."""
SEEN = {
    "train": [
        ("#learning_rate :is(input, textarea)", "borderTopColor", None, 3),
        ("#lora_alpha :is(input, textarea)", "color", "::placeholder", 4.5),
    ],
    "chat": [("#chat-question textarea", "color", "::placeholder", 4.5)],
    "runs": [
        ("#runs-filter :is(input, textarea)", "borderTopColor", None, 3),
        ("#runs-filter :is(input, textarea)", "color", "::placeholder", 4.5),
        ("#runs-kinds .wrap:has(> .wrap-inner)", "borderTopColor", None, 3),
        ("#run-edit input", "borderTopColor", None, 3),
        ("#appearance [role=radiogroup]", "borderTopColor", None, 3),
        ("#run-curve-log input", "borderTopColor", None, 3),
        *((f"#run-curve path.{line}", "stroke", None, 3) for line in ("raw", "smooth", "evaluated")),
    ],
}
"""By tab: of what, which colour, and how much at least."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_borders_lines_and_hints_can_be_told_from_what_is_behind_them(visit, furnished, scheme):
    page = visit(color_scheme=scheme)
    for tab, seen in SEEN.items():
        open_tab(page, tab)
        if tab == "runs":
            page.locator("#runs-table tr:has(.chip.done):has(.tick input) td.name").first.click()
            expect(page.locator("#run-curve .chart.large")).to_be_visible()
        for selector, *what, least in seen:
            found = page.evaluate(CONTRAST, [selector, *what])
            assert found and min(found) >= least, f"{selector} {what}: {found}"


def test_light_or_dark_is_chosen_at_once_and_kept(visit):
    page = visit(color_scheme="dark")
    body = page.locator("body")
    is_dark = "document.body.classList.contains('dark')"
    assert page.evaluate(is_dark), "as the browser prefers"
    page.get_by_role("radio", name=words("look.light"), exact=True).check()
    assert not page.evaluate(is_dark), "in the browser alone, so at once"
    page.reload()
    page.locator("#start").wait_for()
    expect(page.get_by_role("radio", name=words("look.light"), exact=True)).to_be_checked()
    expect(body).not_to_have_class("dark")
    page.emulate_media(color_scheme="light")
    page.get_by_role("radio", name=words("look.dark"), exact=True).check()
    assert page.evaluate(is_dark)
    page.get_by_role("radio", name=words("look.auto"), exact=True).check()
    assert not page.evaluate(is_dark)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(is_dark)


def test_what_the_page_says_to_who_does_not_see_it(visit, furnished):
    page = visit(locale="ko-KR")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    for tab in ("train", "runs", "chat"):
        open_tab(page, tab)
        heading = page.get_by_role("heading", level=2, name=words(f"page.tabs.{tab}", "ko"), exact=True)
        expect(heading).to_have_count(1)
    page.locator("#chat-question textarea").fill("?")
    page.keyboard.press("Enter")
    expect(page.locator("#said[role=status]")).to_contain_text(words("page.chat.nothing_loaded", "ko"))
    open_tab(page, "runs")
    bare_heads = page.locator("#runs-table thead th:not([scope=col])")
    expect(page.locator("#runs-table thead th")).not_to_have_count(0)
    expect(bare_heads).to_have_count(0)

    # A question is left by Escape, and the keyboard is where it was.
    asks = page.locator("#run-edit [data-act=delete]")
    asks.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alertdialog").locator("[data-act=keep]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("alertdialog")).to_have_count(0)
    expect(asks).to_be_focused()


@pytest.mark.slow
def test_no_barrier_on_a_page_without_runs(visit, bare):
    page = visit()
    page.set_viewport_size({"width": 1440, "height": TALL})
    found = [each for tab in each_tab(page) for each in barriers(page, 1440, tab)]
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_no_barrier_where_much_has_happened(visit, furnished, width):
    page = visit(width=width)
    page.set_viewport_size({"width": width, "height": TALL})
    found = []
    for tab in each_tab(page):
        if tab == "runs":
            page.locator("#runs-table tr:has(.tick input) .tick input").first.check()
            page.locator("#runs-table tr:not(.chosen) .tick input").last.check()
            expect(page.locator("#compare-tables .outcomes")).to_be_visible()
            page.locator("#runs-table tr:has(.chip.failed) td.name").click()
            expect(page.locator("#run-status .cause")).to_be_visible()
            page.locator("#run-edit [data-act=delete]").click()
            expect(page.get_by_role("alertdialog")).to_be_visible()
            open_all(page)
        found += barriers(page, width, tab)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_barrier_at_the_door(chromium, tmp_path, scheme):
    client = TestClient(Door(None, {}, Sessions(tmp_path / "sessions", {}), ()))
    page = chromium.new_page(color_scheme=scheme)
    for answer in (
        client.get("/", headers={"accept": "text/html"}), client.post("/login", data={"name": "a", "password": "b"}),
    ):  # fmt: skip
        page.set_content(answer.text)
        assert page.locator("input").count() == 2
        assert not (found := faults(page)), found
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_in_any_language(visit, furnished, width):
    page = visit(width=width)
    found = []
    for code in WRITTEN:
        choose(page, "language", LANGUAGES[code])
        expect(page.locator("#tab-runs-button")).to_have_text(words("page.tabs.runs", code))
        for tab in each_tab(page):
            found += [f"{code} {tab} {width}: {each}" for each in page.evaluate(CUT_OFF)]
    assert not found, "\n".join(found)

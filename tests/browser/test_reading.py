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
        expect(page.locator(f"#tab-{tab}")).to_be_visible()
        page.wait_for_timeout(900)  # what follows from the click
        open_all(page)
        yield tab


def barriers(page: Page, width: int, place: str) -> list[str]:
    """In the colours that are shown, then the other ones."""
    found = []
    for scheme, rule in (("light", None), ("dark", "color-contrast")):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(300)
        found += [f"{place} {width} {scheme}: {each}" for each in faults(page, rule)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_no_barrier_on_a_page_without_runs(visit, bare, width):
    page = visit(width=width)
    page.set_viewport_size({"width": width, "height": TALL})
    found = [each for tab in each_tab(page) for each in barriers(page, width, tab)]
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
        expect(page.locator("#start, #tab-runs-button").last).to_have_text(words("page.tabs.runs", code))
        for tab in each_tab(page):
            found += [f"{code} {tab} {width}: {each}" for each in page.evaluate(CUT_OFF)]
    assert not found, "\n".join(found)

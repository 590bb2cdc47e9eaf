"""What a visitor does on the page, in the words of the tests."""

from __future__ import annotations

import shlex

from playwright.sync_api import Page, expect

from engine.words import LANGUAGES, LOCALES

WRITTEN = [code for code in LANGUAGES if (LOCALES / f"{code}.yaml").is_file()]
"""The languages that have a file."""

HOLDS = """
([said, which]) => {
    const fetched = window.fetch;
    let count = 0;
    const released = new Promise((done) => { window.release = done; });
    window.fetch = async (...asked) => {
        const answer = await fetched(...asked);
        if (String(asked[1]?.body).includes(said) && ++count === which) {
            window.isHeld = true;
            await released;
        }
        return answer;
    };
}
"""


def hold(page: Page, said: str, which: int = 1) -> None:
    """Keep back the answer to the first, or another, request that says this; the page sets ``isHeld`` when it is there,
    and its ``release()`` lets it go on."""
    page.evaluate(HOLDS, [said, which])


def open_tab(page: Page, name: str) -> None:
    page.locator(f"#tab-{name}-button").click()


def fill(page: Page, elem_id: str, text: str) -> None:
    page.locator(f"#{elem_id} input, #{elem_id} textarea").first.fill(text)


def choose(page: Page, elem_id: str, text: str) -> None:
    """Pick a choice of a drop-down by what it shows, once no other one is open any more."""
    expect(page.get_by_role("option")).to_have_count(0)
    page.locator(f"#{elem_id} input").click()
    page.get_by_role("option", name=text, exact=True).click()


def add_name(page: Page, elem_id: str, name: str) -> None:
    """Type a name into a drop-down that takes several, and close its list."""
    box = page.locator(f"#{elem_id} input")
    box.click()
    box.fill(name)
    box.press("Enter")
    box.press("Escape")
    box.blur()


def preview_words(page: Page) -> list[str]:
    """The command in the preview, as a shell splits it."""
    page.locator("#train-command .cm-content").wait_for()
    text = "\n".join(page.locator("#train-command .cm-line").all_inner_texts())
    return shlex.split(text.replace("\\\n", " "))

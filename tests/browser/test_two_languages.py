"""Two visitors in two languages at once: neither sees a word of the other's; gradio's words follow the choice."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

from engine.words import LANGUAGES, words
from tests.browser.steps import choose, fill, hold, open_tab

SCRIPTS = {"ko": "[\uac00-\ud7af]", "ru": "[\u0400-\u04ff]"}


def shown(page: Page) -> str:
    """Texts in sight, but for the names of the languages themselves."""
    page.locator("#train-status .run-name").wait_for()
    text = page.locator("#tabs").inner_text()
    return re.sub("|".join(map(re.escape, LANGUAGES.values())), "", text)


def test_two_languages_at_once_never_mix(visit, busy):
    pages = {code: visit(locale=code) for code in SCRIPTS}
    for code, page in pages.items():  # both watch the same run, and both are refused at the same time
        expect(page.locator("#train-status .chip")).to_have_text(words("page.status.running", code))
        fill(page, "learning_rate", "much")
    for page in pages.values():
        page.locator("#start").click(no_wait_after=True)
    for code, page in pages.items():
        expect(page.locator("#train-notice .notice.error")).to_contain_text(words("page.refused", code))
        refusal = words("errors.not_a_number", code, option="learning_rate", value="much").replace("`", "")
        expect(page.locator("#learning_rate .info-text strong")).to_contain_text(refusal)
    for code, page in pages.items():
        (other,) = set(SCRIPTS) - {code}
        assert re.search(SCRIPTS[code], shown(page)) and not re.search(SCRIPTS[other], shown(page))

    # One of them changes over: the run goes on being watched, what was typed stays, and the other sees nothing of it.
    choose(pages["ko"], "language", LANGUAGES["ja"])
    expect(pages["ko"].locator("#train-status .chip")).to_have_text(words("page.status.running", "ja"))
    expect(pages["ko"].locator("#train-status .run-name")).to_have_text(busy.name)
    expect(pages["ko"].locator("#learning_rate input, #learning_rate textarea")).to_have_value("much")
    assert not re.search(SCRIPTS["ko"], shown(pages["ko"]))
    expect(pages["ru"].locator("#start")).to_have_text(words("page.buttons.start", "ru"))
    expect(pages["ru"].locator("html")).to_have_attribute("lang", "ru")


def test_what_gradio_says_follows_the_choice_whatever_the_browser_reads(visit):
    page = visit(locale="fr-FR")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    for code in ("ko", "zh", "ru", "ja", "en"):
        choose(page, "language", LANGUAGES[code])
        expect(page.locator("#start")).to_have_text(words("page.buttons.start", code))
        expect(page.locator("html")).to_have_attribute("lang", code)
        open_tab(page, "data")
        for phrase in ("drop_file", "or", "click_to_upload"):
            expect(page.locator("#data-upload")).to_contain_text(words(f"gradio.{phrase}", code))
        expect(page.locator("#data-upload button").first).to_have_attribute("aria-label", words("gradio.upload", code))
        open_tab(page, "chat")
        label = words("options.top_p.label", code)
        page.get_by_label(words("gradio.slider", code, name=label), exact=True).first.wait_for()
        # What it says when the server is gone, as it would stand there.
        page.evaluate("""() => document.body.insertAdjacentHTML("beforeend",
            '<div data-testid="toast-body" id="gone"><span>Connection Lost </span><i>my own words</i></div>')""")
        expect(page.locator("#gone")).to_have_text(f"{words('gradio.connection_lost', code)} my own words")
        page.evaluate("document.getElementById('gone').remove()")
        open_tab(page, "train")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    choose(page, "language", LANGUAGES["ru"])
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", "ru"))
    page.reload()
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", "ru"))
    open_tab(page, "data")
    expect(page.locator("#data-upload")).to_contain_text(words("gradio.drop_file", "ru"))


def test_a_language_chosen_while_the_one_before_is_still_on_its_way_holds_for_the_whole_page(visit):
    page = visit()
    hold(page, '[null,"ru"]', 2)  # what is not in sight
    choose(page, "language", LANGUAGES["ru"])
    page.wait_for_function("window.isHeld")
    choose(page, "language", LANGUAGES["ko"])
    expect(page.locator("#start")).to_have_text(words("page.buttons.start", "ko"))
    page.evaluate("window.release()")
    open_tab(page, "runs")
    expect(page.locator("#runs-filter")).to_contain_text(words("page.runs.filter", "ko"))
    expect(page.locator("#runs-table")).to_contain_text(re.compile(SCRIPTS["ko"]))

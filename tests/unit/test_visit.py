"""In which language a visitor is answered: the page as it is served, and what gradio says by itself."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gradio
import pytest
from gradio.routes import App
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.testclient import TestClient

from engine.words import LANGUAGES, all_words, words
from webui.page import build_page
from webui.theme import theme
from webui.visit import COOKIE, InItsLanguage, language_of

BUNDLE = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
SPEAKERS = ("Index-*.js", "src-*.js", "core-*.js", "index-*.js", "Blocks-*.js", "statustracker-*.js", "markdown-*.js")
MADE = {
    "Remove all",
    "Remove {name}",
    "Invalid file type: {name}. Only {types} allowed.",
    "number input for {name}",
    "range slider for {name}",
    "- or -",
}
"""What gradio puts together from parts."""


@pytest.fixture(scope="module")
def app():
    page = build_page("ja")
    page.theme = theme()  # as launch does
    return App.create_app(page, app_kwargs={"middleware": [Middleware(InItsLanguage, default="ja")]}, mcp_server=False)


def asking(header: str | None = None, cookie: str | None = None) -> Request:
    headers = [(b"accept-language", header.encode())] if header else []
    headers += [(b"cookie", cookie.encode())] if cookie else []
    return Request({"type": "http", "headers": headers})


@pytest.mark.parametrize(
    ("header", "cookie", "language"),
    [
        ("ko-KR,ko;q=0.9,en-US;q=0.8", None, "ko"), ("zh-TW,zh;q=0.9", None, "zh"), ("zh-Hant-HK", None, "zh"),
        ("fr-FR,fr;q=0.9", None, "ja"), (None, None, "ja"), ("ko", f"other=1; {COOKIE}=ru", "ru"),
        ("ko", f"{COOKIE}=fr", "ko"), ("ko", f"{COOKIE}=", "ko"), ("ko", "=;;\x01", "ko"),
    ],
)  # fmt: skip
def test_a_choice_counts_more_than_the_browser_and_that_more_than_the_default(header, cookie, language):
    assert language_of(asking(header, cookie), "ja") == language


def test_the_page_is_served_in_the_language_of_each_visit(app):
    """Visits in turn, so that none could keep the words of the one before."""
    for code in (*LANGUAGES, *reversed(LANGUAGES), "fr"):
        spoken = code if code in LANGUAGES else "ja"
        client = TestClient(app)
        html = client.get("/", headers={"accept-language": code}).text
        assert f"dataset.language = '{spoken}'" in html
        config = client.get("/config", headers={"accept-language": code}).json()
        shown = {each["props"].get("elem_id"): each["props"] for each in config["components"]}
        assert shown["start"]["value"] == words("page.buttons.start", spoken)
        assert shown["learning_rate"]["label"] == words("options.learning_rate.label", spoken)
        assert shown["tab-runs"]["label"] == words("page.tabs.runs", spoken)
        assert shown["language"]["value"] == spoken
        choices = [label for label, _ in shown["finetuning_type"]["choices"]]
        assert words("choices.finetuning_type.freeze", spoken) in choices
        assert words("page.buttons.stop_and_save", spoken) in html
        others = [words("page.buttons.stop_and_save", each) for each in LANGUAGES if each != spoken]
        assert not [text for text in others if text in html]


def test_what_is_no_page_is_left_as_it_is(app):
    client = TestClient(app)
    plain = client.get("/robots.txt", headers={"accept-language": "ko"})
    assert plain.status_code == 200 and "dataset" not in plain.text
    answer = client.get("/", headers={"accept-language": "ko"})
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert {"Accept-Language", "Cookie"} <= set(re.split(", ?", answer.headers["vary"]))


def test_the_script_knows_every_phrase_in_every_language(app):
    html = TestClient(app).get("/").text
    (table,) = re.findall(r"const PHRASES = (\[.*\]);", html)
    phrases = json.loads(table)
    assert len(phrases) == len([key for key in all_words("en") if key.startswith("gradio.")]) > 40
    assert all(set(phrase) == set(LANGUAGES) for phrase in phrases)


def test_gradio_still_says_what_is_translated():
    """Once it says something otherwise, the new wording has to come into ``gradio`` of the locales."""
    bundle = "".join(path.read_text("utf-8") for each in SPEAKERS for path in BUNDLE.glob(each))
    gone = []
    for key, text in all_words("en").items():
        parts = re.split(r"\{\w+\}", text) if key.startswith("gradio.") and text not in MADE else []
        gone += [f"{key}: {part!r}" for part in parts if part.strip() and part.strip() not in bundle]
    assert gone == []
    assert all(
        part in bundle
        for part in ("Invalid file type", "number input for ${", "range slider for ${", "common.or", "common.remove")
    )

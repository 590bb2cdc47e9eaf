"""What a model, a dataset, a run or a file name says is shown as text: no script of it runs, nothing of it is fetched."""

# ruff: noqa: E501, an attack is left in one line

from __future__ import annotations

import json
import time
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from engine.runs.chat import Piece
from engine.runs.folder import Folder
from engine.runs.record import append_line, update_state
from engine.runs.talks import Answer, Talk, write_talk
from tests.browser.steps import add_name, fill, open_tab
from tests.security.attack import PASSWORDS

ELSEWHERE = "http://elsewhere.example"
SHOTS = (
    "<script>window.hit='script'</script>", "<img src=x onerror=\"window.hit='img'\">",
    "<svg onload=\"window.hit='svg'\"></svg>", "<details open ontoggle=\"window.hit='details'\">d</details>",
    "<iframe srcdoc=\"<script>parent.hit='iframe'</script>\"></iframe>", "<a href=\"javascript:window.hit='a'\">press</a>",
    "[press](javascript:window.hit='markdown')", "![p](x\" onerror=\"window.hit='alt')", "${window.hit='dollar'}",
    "{{window.hit='braces'}}", "{{constructor.constructor('window.hit=1')()}}", "<%= window.hit=1 %>",
    "<math><mtext><table><mglyph><style><img src=x onerror=\"window.hit='mxss'\">", "$$\\href{javascript:window.hit=1}{x}$$",
    "<input autofocus onfocus=\"window.hit='focus'\">", "<button formaction=\"javascript:window.hit=1\">b</button>",
    "`<img src=x onerror=window.hit=1>`", "</textarea><script>window.hit='textarea'</script>", "<base href=//evil.example>",
    "<style>*{background:url(" + ELSEWHERE + "/css)}</style>", "'\"><img src=x onerror=window.hit='attribute'>",
    "<form action=" + ELSEWHERE + "><button>f</button></form>", "<a href=" + ELSEWHERE + " target=_self>l</a>",
)  # fmt: skip
FETCHED = (
    f"<img src={ELSEWHERE}/img>", f"![p]({ELSEWHERE}/markdown)", f"<video src={ELSEWHERE}/video autoplay></video>",
    f"<link rel=stylesheet href={ELSEWHERE}/link>", f"<object data={ELSEWHERE}/object></object>",
    f"<iframe src={ELSEWHERE}/iframe></iframe>", f"<svg><image href={ELSEWHERE}/svg /></svg>",
    f"<picture><source srcset={ELSEWHERE}/source><img src=x></picture>", f"<audio src={ELSEWHERE}/audio autoplay></audio>",
    f"<div style=\"background:url({ELSEWHERE}/style)\">d</div>", f"<embed src={ELSEWHERE}/embed>",
)  # fmt: skip
EVERYTHING = "\n\n".join((*SHOTS, *FETCHED))
LINE = " ".join((*SHOTS, *FETCHED))


@pytest.fixture(scope="module")
def planted(fort) -> dict[str, str]:
    """Texts in every place that the page shows: runs, their logs, notes and errors, a dataset, a talk."""
    name = "<img src=x onerror=window.hit='name'>{{7*7}}${window.hit=1}"
    names = {}
    for kind, status in (("train", "failed"), ("eval", "done"), ("train", "done")):
        run = Folder(fort / "saves" / "m" / "lora" / f"{name}{kind}-{status}")
        run.path.mkdir(parents=True)
        names[f"{kind} {status}"] = run.path.relative_to(fort / "saves").as_posix()
        options = {"model_name_or_path": SHOTS[1], "dataset": [SHOTS[0]], "output_dir": str(run.path)}
        run.job.write_text(json.dumps({"kind": kind, "language": "en", "options": options}), encoding="utf-8")
        run.log.write_text(LINE + "\n" + "\n".join((*SHOTS, *FETCHED)) + "\n", encoding="utf-8")
        error = {"key": "unexpected", "facts": {"detail": LINE, "type": SHOTS[0], "path": SHOTS[1]}}
        update_state(
            run, kind=kind, status=status, started_at=time.time() - 60, finished_at=time.time(), model=SHOTS[1],
            method=SHOTS[0], datasets=[SHOTS[2]], total_steps=2, error=error if status == "failed" else None,
        )  # fmt: skip
        append_line(run.events, {"current_steps": 1, "total_steps": 2, "loss": 1.5, "epoch": 0.5})
        append_line(run.events, {"current_steps": 2, "total_steps": 2, "loss": 1.0, "epoch": 1.0})
        append_line(run.events, {"warning": SHOTS[1], "facts": {SHOTS[0]: LINE}})
        append_line(run.events, {"phase": SHOTS[1], "current": 1, "total": 2, "unit": SHOTS[0]})
        run.notes.write_text(json.dumps({"title": LINE, "note": EVERYTHING}), encoding="utf-8")
        answers = [
            {"index": 0, "prompt": EVERYTHING, "predict": EVERYTHING, "label": EVERYTHING, "scores": {LINE: 1.0}}
        ]
        run.predictions.write_text("\n".join(json.dumps(each) for each in answers), encoding="utf-8")
    rows = [{"instruction": each, "input": LINE, "output": EVERYTHING} for each in SHOTS]
    file_name = "rows<img src=x onerror=window.hit=1>.json"
    (fort / "hostile").mkdir()
    (fort / "hostile" / file_name).write_text(json.dumps(rows), encoding="utf-8")
    info = {"rows": {"file_name": file_name}, SHOTS[1]: {"file_name": file_name}, SHOTS[8]: {"file_name": SHOTS[0]}}
    (fort / "hostile" / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    return names


@pytest.fixture
def watched(chromium, target, planted, monkeypatch, fort):
    """A signed-in owner's tab, of which is known what it asked for and whether something has run in it."""
    context = chromium.new_context(viewport={"width": 1440, "height": 1000}, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(30_000)
    asked, dialogs = [], []
    context.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(target.address)
    page.locator("[name=name]").fill("ada")
    page.locator("[name=password]").fill(PASSWORDS["ada"])
    page.locator("button").click()
    page.locator("#start").wait_for(timeout=60_000)

    def clean() -> None:
        page.wait_for_timeout(500)
        # Blocked requests are reported too: what matters is that no answer was waited for.
        assert page.evaluate("window.hit") is None and not dialogs
        assert page.evaluate("document.querySelectorAll('iframe, object, embed, base:not([href=\"./\"])').length") == 0
        assert (
            page.evaluate("""[...document.querySelectorAll('*')].filter(each => [...each.attributes].some(
            attribute => /^on(error|load|toggle|focus)$/i.test(attribute.name)
                || /^\\s*javascript:/i.test(attribute.value))).map(each => each.outerHTML.slice(0, 200))""")
            == []
        )
        assert page.url.startswith(target.address)
        left = page.evaluate("performance.getEntriesByType('resource').map(each => each.name)")
        assert [url for url in left if not url.startswith((target.address, "data:", "blob:"))] == []

    page.clean = clean
    page.sent = asked
    yield page
    context.close()


def test_runs_their_logs_notes_and_errors(watched, planted):
    page = watched
    open_tab(page, "runs")
    page.locator("#runs-table [data-run]").first.wait_for()
    page.clean()
    for name in planted.values():
        page.locator("#runs-table [data-run]").filter(has_text=name.rpartition("}")[2]).first.click()
        page.wait_for_timeout(800)
        page.evaluate("document.querySelectorAll('button.label-wrap:not(.open)').forEach((each) => each.click())")
        page.clean()
    assert "window.hit" in page.locator("body").inner_text(), "nothing of what was planted is shown"


def names_in(answer) -> list[str]:
    """Of a conversation, where an event has given the browser one."""
    return [
        each["name"] for each in answer.json().get("data") or () if isinstance(each, dict) and set(each) == {"name"}
    ]


def test_what_a_model_says(watched, fort, monkeypatch):
    """The conversation that this browser held last, with an answer of every kind; and a question of the same."""
    page = watched
    monkeypatch.chdir(fort)
    open_tab(page, "chat")
    page.locator("#chat-question textarea").fill(LINE)
    with page.expect_response(lambda answer: answer.url.endswith("/run/predict") and names_in(answer)) as answered:
        page.locator("#chat-send").click()
    (name,) = names_in(answered.value)
    expect(page.locator("#chat-talk")).to_contain_text("window.hit")
    page.clean()
    last = Piece("", True, "stop", 5, 1.0, 5)
    write_talk(
        name, Talk([{"role": "user", "content": EVERYTHING}], Answer(f"<think>{LINE}</think>{EVERYTHING}", last))
    )
    page.reload()
    page.locator("#start").wait_for()
    open_tab(page, "chat")
    expect(page.locator("#chat-talk")).to_contain_text("window.hit='dollar'")
    page.evaluate("document.querySelectorAll('#chat-talk button, #chat-talk summary').forEach((each) => each.click())")
    page.clean()
    for link in page.locator("#chat-talk a").all():
        assert not (link.get_attribute("href") or "").lower().startswith("javascript:")


def test_rows_of_a_dataset(watched, fort):
    page = watched
    open_tab(page, "data")
    fill(page, "data-dataset_dir", str(fort / "hostile"))
    expect(page.locator("#data-rows")).to_contain_text("window.hit")
    page.clean()
    page.locator("#data-rows .data-row").first.click()
    page.wait_for_timeout(1500)
    page.clean()


def test_what_a_visitor_types_comes_back_as_text(watched):
    """In errors beside fields, in the preview of the command and in the address."""
    page = watched
    page.goto(page.url + "?run=" + quote(LINE[:1500]))
    page.locator("#start").wait_for()
    fill(page, "model_name_or_path", LINE)
    add_name(page, "dataset", SHOTS[1])
    page.locator("#start").click()
    expect(page.locator("#train-notice")).not_to_be_empty()
    page.clean()


def test_pictures_of_other_hosts_are_blocked_by_the_browser_itself(watched):
    """Whatever a component may let through one day: the browser is told to fetch nothing from elsewhere."""
    page = watched
    blocked = page.evaluate(
        """(url) => new Promise((say) => {
            document.addEventListener('securitypolicyviolation', (event) => say(event.blockedURI));
            const image = new Image(); image.src = url + '/direct'; document.body.append(image);
            setTimeout(() => say('nothing was blocked'), 5000);
        })""",
        ELSEWHERE,
    )
    assert blocked.startswith(ELSEWHERE)
    for ask in ("fetch(url)", "new WebSocket(url.replace('http', 'ws'))", "navigator.sendBeacon(url)", "import(url)"):
        said = page.evaluate(
            f"async (url) => {{ try {{ return String(await ({ask})) }} catch (error) {{ return 'no' }} }}", ELSEWHERE
        )
        assert said in ("no", "false", "true", "[object WebSocket]")
    page.wait_for_timeout(500)
    assert page.evaluate(
        "performance.getEntriesByType('resource').filter(e => e.name.includes('elsewhere')).every(e => !e.responseStatus)"
    )

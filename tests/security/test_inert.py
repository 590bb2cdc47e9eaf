"""What a model, a dataset, a run or a file name says is shown as text: no script of it runs, nothing of it is fetched."""

from __future__ import annotations

import json
import time

import pytest
from playwright.sync_api import expect

from engine.runs.folder import Folder
from engine.runs.record import append_line, update_state
from engine.runs.talks import Answer, Talk, new_name, write_talk
from tests.browser.steps import open_tab
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
        notes = {"title": LINE[:200], "note": EVERYTHING, "tags": [SHOTS[1], SHOTS[8]]}
        (run.path / "notes.json").write_text(json.dumps(notes), encoding="utf-8")
        answers = [{"prompt": EVERYTHING, "predict": EVERYTHING, "label": EVERYTHING}]
        (run.path / "generated_predictions.jsonl").write_text(
            "\n".join(json.dumps(each) for each in answers), encoding="utf-8"
        )
    rows = [{"instruction": each, "input": LINE, "output": EVERYTHING} for each in SHOTS]
    (fort / "rows<img src=x onerror=window.hit=1>.json").write_text(json.dumps(rows), encoding="utf-8")
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
        page.wait_for_timeout(1200)
        # Blocked requests are reported too: what matters is that no answer was waited for.
        assert page.evaluate("window.hit") is None and not dialogs
        assert page.evaluate("document.querySelectorAll('iframe, object, embed, base:not([href=\"./\"])').length") == 0
        assert page.evaluate("""[...document.querySelectorAll('*')].filter(each => [...each.attributes].some(
            attribute => /^on(error|load|toggle|focus)$/i.test(attribute.name)
                || /^\\s*javascript:/i.test(attribute.value))).map(each => each.outerHTML.slice(0, 200))""") == []
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
        for closed in page.locator("#tab-runs button.label-wrap:not(.open):visible").all():
            closed.click()
        page.clean()
    assert "window.hit" in page.locator("body").inner_text(), "nothing of what was planted is shown"


def test_an_answer_of_a_model(watched, target, fort, monkeypatch):
    """A conversation that this browser held last is shown again: every kind of text a model may say."""
    page = watched
    monkeypatch.chdir(fort)
    name = new_name()
    turns = [{"role": "user", "content": EVERYTHING}, {"role": "assistant", "content": f"<think>{LINE}</think>{EVERYTHING}"}]
    write_talk(name, Talk(turns, Answer("", error=None)))
    open_tab(page, "chat")
    page.locator("#chat-question textarea").fill(LINE)
    page.locator("#chat-send").click()
    expect(page.locator("#chat-talk")).to_contain_text("window.hit")
    page.clean()
    owner = target.client("ada")
    data = [json.dumps(["q", [{"role": each["role"], "content": each["content"]} for each in turns], {"name": ""}, False])]
    body = {"fn_index": target.events["chat_room._take"], "data": data, "session_hash": "model-output"}
    said = owner.post("/gradio_api/run/predict", json=body).json()["data"][1]
    assert len(said) == 3


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
        said = page.evaluate(f"async (url) => {{ try {{ return String(await ({ask})) }} catch (error) {{ return 'no' }} }}", ELSEWHERE)
        assert said in ("no", "false", "true", "[object WebSocket]")
    page.wait_for_timeout(500)
    assert page.evaluate("performance.getEntriesByType('resource').filter(e => e.name.includes('elsewhere')).every(e => !e.responseStatus)")

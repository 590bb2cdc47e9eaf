"""What is sent without gradio is what gradio would send."""

from __future__ import annotations

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from tests.loops import run
from webui.gathering import Page
from webui.sparing import spared

UPDATES = [
    gr.update(label="a", info="b"), gr.update(placeholder="p", visible=False), gr.update(interactive=True),
    gr.update(label="", info=""), gr.update(visible="hidden", interactive=False), gr.update(), "text", "", "<b>x</b>",
    gr.update(value="text"), gr.update(value="", visible=True), gr.update(value=None), gr.update(value=3),
    gr.update(choices=["a"], label="l"), gr.update(label=None, info="i"), None, 3, ["a"], gr.update(elem_classes="x"),
    gr.update(open=False), gr.update(value="a", label="b", choices=["a", "b"]),
]  # fmt: skip
UNNAMED = {"__type__": "update"}
MAKERS = {
    "textbox": gr.Textbox, "html": gr.HTML, "button": gr.Button, "number": gr.Number,
    "dropdown": lambda: gr.Dropdown(["a"]),
    "accordion": gr.Accordion, "markdown": gr.Markdown, "code": gr.Code, "upload": gr.UploadButton, "state": gr.State,
    "checkbox": gr.Checkbox, "tab": gr.Tab, "chatbot": gr.Chatbot, "download": gr.DownloadButton,
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKERS)
def test_as_gradio_would(kind):
    """Sent to a page of gradio's own, where it can be sent at all."""
    with gr.Blocks(analytics_enabled=False) as page:
        block = MAKERS[kind]()
        gr.Button().click(lambda: None, None, [block, gr.Textbox()])
    (event,) = page.fns.values()
    count = 0
    for update in UPDATES:
        answer = spared(block, update, {})
        if answer is None:
            continue
        count += 1
        theirs = run(page.postprocess_data(event, [update, gr.skip()], SessionState(page)))[0]
        if kind == "html" and isinstance(theirs, dict):  # whatever its template names; none of ours names anything
            assert theirs.pop("props", UNNAMED) == UNNAMED
        assert answer == theirs, update
    assert count >= (0 if kind == "state" else 2)


def test_a_line_that_is_there_already_is_not_sent():
    with Page(analytics_enabled=False):
        box = gr.Textbox(info="help")
    lines: dict[int, str] = {}
    assert spared(box, gr.update(info="help"), lines) == gr.skip()
    assert spared(box, gr.update(info="wrong"), lines)["info"] == "wrong"
    assert spared(box, gr.update(info="wrong"), lines) == gr.skip()
    assert spared(box, gr.update(info="wrong", label="x"), lines)["label"] == "x"
    assert spared(box, gr.update(info="help"), {}) == gr.skip(), "another browser"
    assert spared(box, gr.update(info="help"), lines)["info"] == "help"


def test_a_line_is_known_whoever_has_sent_it():
    """Together with what gradio looks at, and by an event that has but one output."""
    with Page(analytics_enabled=False) as page:
        box = gr.Dropdown(["a"], info="help")
        gr.Button().click(lambda: None, None, [box])
        gr.Button().click(lambda: None, None, [box, gr.State()])
    alone, among = page.fns.values()
    state = SessionState(page)

    def sent(event, update):
        answer = run(page.postprocess_data(event, update if event is alone else [update, gr.skip()], state))[0]
        return answer.get("info")

    wrong, help_ = gr.update(info="wrong"), gr.update(info="help")
    assert sent(among, wrong) == "wrong"
    assert sent(among, gr.update(info="help", choices=["a"])) == "help"
    assert sent(among, wrong) == "wrong", "the help had come with choices"
    assert sent(alone, help_) == "help" and sent(among, wrong) == "wrong"
    assert sent(alone, wrong) is None and sent(among, help_) == "help" and sent(alone, help_) is None

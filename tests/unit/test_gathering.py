"""Events with many inputs: what the browser is told of them, and what their functions are called with."""

from __future__ import annotations

import json

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from tests.loops import run
from webui.gathering import GATHER, Page
from webui.page import build_page


def _told(name, kept, count, choices, event: gr.EventData):
    return repr(event)


@pytest.fixture(scope="module")
def page():
    with Page(analytics_enabled=False) as page:
        name, kept = gr.Textbox(), gr.State("kept")
        count, choices = gr.Number(precision=0), gr.Dropdown(["a", "b"], multiselect=True)
        shown = gr.Textbox()
        button = gr.Button()
        inputs = [name, kept, count, choices]
        click = button.click(lambda *values: repr(values), inputs, shown, trigger_mode="once", queue=False)
        click.success(lambda *values: repr(values[::-1]), inputs, shown)
        button.click(lambda *values: None, inputs[:3], shown)
        gr.on([page.load, name.change], lambda *values: None, inputs, shown)
        name.input(_told, inputs, shown)
        page.gather()
    return page


def test_the_browser_gathers_and_the_server_is_asked_with_one_text(page):
    events = page.get_config_file()["dependencies"]
    by_id = {event["id"]: event for event in events}
    asked = [event for event in events if event["backend_fn"] and event["inputs"] and len(event["inputs"]) == 1]
    assert len(asked) == 3 and len({event["inputs"][0] for event in asked}) == 3, "a text for each"
    gathers = [by_id[event["trigger_after"]] for event in asked]
    assert all(each["js"] == GATHER and not each["backend_fn"] and len(each["inputs"]) == 4 for each in gathers)
    assert [each["outputs"] for each in gathers] == [event["inputs"] for event in asked]
    assert all(not event["trigger_only_on_success"] for event in asked)
    click, success, load = gathers
    assert [name for _, name in click["targets"]] == ["click"] and click["trigger_after"] is None
    assert success["trigger_after"] == asked[0]["id"] and success["trigger_only_on_success"]
    assert [name for _, name in load["targets"]] == ["load", "change"]
    assert asked[0]["trigger_mode"] == "once" and not asked[0]["queue"] and asked[1]["queue"]


def test_the_function_gets_what_each_component_makes_of_its_value(page):
    number = next(fn._id for fn in page.fns.values() if fn.fn and len(fn.inputs) == 4)
    values = json.dumps(['é"\n', None, 3.0, ["b", "a"]])
    result = run(page.process_api(number, [values], state=None))
    assert result["data"] == [repr(('é"\n', "kept", 3, ["b", "a"]))]
    with pytest.raises(gr.Error, match="choices"):
        run(page.process_api(number, [json.dumps(["", None, 1, ["c"]])], state=None))
    with pytest.raises(ValueError):
        run(page.process_api(number, [json.dumps(["", None])], state=None))


@pytest.mark.parametrize("sent", [[], ["[]", "[]"], [None], ["{"], ["{}"], ["1"], [["a"]], ["[" * 100_000]])
def test_what_no_browser_gathers_is_refused(page, sent):
    number = next(fn._id for fn in page.fns.values() if fn.fn and len(fn.inputs) == 4)
    with pytest.raises(gr.Error, match="not-sent-by-this-page"):
        run(page.process_api(number, sent, state=None))


def test_a_line_below_a_field_is_sent_once_to_each_browser():
    with Page(analytics_enabled=False) as page:
        fields = [gr.Textbox(info="help"), gr.Number(info="help"), gr.Textbox()]
        said = ["help", "help"]
        event = gr.Button().click(lambda: [*(gr.update(info=each) for each in said), "text"], None, fields)
        page.gather()
    (number,) = page.fns
    assert event is not None
    skipped = {"__type__": "update"}
    one, other = SessionState(page), SessionState(page)

    def sent(state):
        return run(page.process_api(number, [], state=state))["data"]

    assert sent(one) == [skipped, skipped, "text"], "what the page began with"
    said[1] = "**wrong**"
    for state in (one, other):
        first, second, third = sent(state)
        assert (first, second["info"], third) == (skipped, "**wrong**", "text")
        assert sent(state) == [skipped, skipped, "text"]
    said[1] = "help"
    assert sent(one)[1]["info"] == "help" and sent(one)[1] == skipped


def test_no_event_of_the_page_has_many_inputs():
    events = build_page().get_config_file()["dependencies"]
    assert max(len(event["inputs"]) for event in events if event["backend_fn"]) < 4


def test_nothing_sets_off_an_event_of_the_page_twice():
    """Gradio asks once for each time that a component is named."""
    for event in build_page().fns.values():
        assert len(set(event.targets)) == len(event.targets), event.name


def test_no_event_of_the_page_is_asked_for_in_no_language():
    page = build_page()
    (follow,) = [event for event in page.fns.values() if event.name == "follow"]
    for sent in (None, "", "xx", "../en", ["en"], {}):
        with pytest.raises(gr.Error):
            run(page.process_api(follow, [None, sent], state=SessionState(page)))
    assert run(page.process_api(follow, [None, "ko"], state=SessionState(page)))["data"][-1] == "ko"

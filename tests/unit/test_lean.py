"""Gradio without work that nobody sees: what is left out changes nothing of what there is."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest
from gradio import blocks, component_meta, utils
from gradio.routes import App
from gradio.state_holder import SessionState
from gradio_client import Client

from tests.conftest import PROJECT
from tests.served import free_port
from webui.gathering import Page
from webui.lean import LOOK_EVERY_S, calm, without_an_app
from webui.page import build_page

FRESH = """
import sys
opened = []
sys.addaudithook(lambda event, about: event == "open" and opened.append(str(about[0])))
import webui.page
webui.page.build_page()
assert not [path for path in opened if path.endswith(".pyi")], "gradio makes stubs"
assert "pandas" not in sys.modules and "pyarrow" not in sys.modules, "it is not wanted yet"
import FIRST
import gradio as gr
import pandas
assert FIRST and gr.Dataframe().postprocess(pandas.DataFrame({"a": [1]})).data == [[1]]
import gradio.caching
assert gradio.caching.pd.DataFrame is pandas.DataFrame
from gradio import utils
with utils.MatplotlibBackendMananger():
    assert "matplotlib" not in sys.modules, "an event draws nothing"
import matplotlib.pyplot
matplotlib.use("svg")
with utils.MatplotlibBackendMananger():
    assert matplotlib.get_backend() == "agg", "who draws opens no window"
assert matplotlib.get_backend() == "svg"
print("well")
"""


@pytest.mark.parametrize("first", ["pandas", "pandas.core.frame", "pandas.io.formats.style"])
def test_no_stub_is_made_and_pandas_comes_when_it_is_wanted(first):
    command = [sys.executable, "-c", FRESH.replace("FIRST", first)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "well\n", done.stderr


def test_the_file_of_a_component_is_found():
    assert Path(inspect.getfile(gr.Textbox)).name == "textbox.py"


def test_what_a_function_takes_is_told_as_by_inspect():
    for module in (blocks, component_meta):
        for what in (gr.Textbox.__init__, gr.HTML.__init__, build_page, lambda a, *b, c=1, **d: None):
            assert module.inspect.signature(what) == inspect.signature(what)
            assert module.inspect.getfullargspec(what) == inspect.getfullargspec(what)
        assert module.inspect.isgeneratorfunction is inspect.isgeneratorfunction


def test_what_a_browser_is_told_of_each_component_is_what_gradio_makes_of_it():
    page = build_page()
    told = {each["id"]: each for each in page.get_config_file()["components"]}
    assert len(told) > 500
    for number, block in page.blocks.items():
        props = block.get_config()
        utils.delete_none(props)
        assert number not in told or told[number]["props"] == props


def test_what_changes_for_one_visitor_changes_for_no_other():
    with Page(analytics_enabled=False) as page:
        box = gr.Textbox("first")
    one, other = SessionState(page), SessionState(page)
    one._update_value_in_config(box._id, "second")
    assert [each.config_values[box._id]["props"]["value"] for each in (one, other)] == ["second", "first"]
    one[box._id] = gr.Textbox("third", render=False)
    one._update_config(box._id)
    assert one.config_values[box._id]["props"]["value"] == "third"
    (told,) = [each for each in page.get_config_file()["components"] if each["id"] == box._id]
    assert told["props"]["value"] == "first"


def test_gradios_queue_hands_events_on_and_does_no_more(monkeypatch):
    """Asked as a browser asks, through the queue. The first assertion tells of a gradio that names these otherwise."""
    counted: list[list] = []
    with gr.Blocks(analytics_enabled=False) as page:
        box = gr.Textbox()
        box.submit(lambda text: text.upper(), box, box, api_name="loud")
    queue = page._queue
    assert queue.sleep_when_free < LOOK_EVERY_S and queue.ANALYTICS_MAX_EVENTS > 1
    monkeypatch.setattr(queue, "_get_df", lambda records: counted.append(records))
    calm(page)
    assert queue.sleep_when_free == LOOK_EVERY_S
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=free_port(), _frontend=False)
    try:
        client = Client(address, verbose=False)
        assert [client.predict(each, api_name="/loud") for each in ("a", "b", "c")] == ["A", "B", "C"]
        assert len(queue.event_analytics) == 1 and not counted
    finally:
        page.close()


def test_an_app_is_made_again_after_the_page():
    made = App.create_app
    with pytest.raises(ValueError), without_an_app():
        assert App.create_app(None) is None
        raise ValueError
    assert App.create_app is made

"""What a browser is sent of a panel: only news, also where two of its looks come at once."""

from __future__ import annotations

import threading
from copy import deepcopy

import gradio as gr

from webui.frame import Seen

SKIPPED = gr.skip()


def test_only_news_is_sent_and_every_browser_has_its_own():
    seen = Seen()
    other = deepcopy(seen)
    assert seen.news(0, lambda: ["a", "b"]) == ["a", "b"]
    assert seen.news(0, lambda: ["a", "c"]) == [SKIPPED, "c"]
    assert seen.news(1, lambda: ["a"]) == ["a"], "another panel"
    assert other.news(0, lambda: ["a", "c"]) == ["a", "c"]


def test_a_slow_look_does_not_hide_what_a_later_one_sent():
    """A tick that began before a click and ends after it: what is remembered is what the click has sent."""
    seen, may_end = Seen(), threading.Event()
    seen.news(0, lambda: ["all"])
    has_begun = threading.Event()

    def slow():
        has_begun.set()
        may_end.wait(10)
        return ["all"]

    tick = threading.Thread(target=lambda: seen.news(0, slow))
    click = threading.Thread(target=lambda: sent.extend(seen.news(0, lambda: ["last 100"])))
    sent: list[str] = []
    tick.start()
    has_begun.wait(10)
    click.start()
    may_end.set()
    for thread in (tick, click):
        thread.join(10)
    assert sent == ["last 100"]
    assert seen.news(0, lambda: ["all"]) == ["all"]

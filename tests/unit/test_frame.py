"""What a browser is sent of a panel: only news, also where two of its looks come at once, or their answers do not."""

from __future__ import annotations

import threading
from copy import deepcopy

import gradio as gr
import pytest

from webui.frame import Seen

SKIPPED = gr.skip()


def test_only_news_is_sent_and_every_browser_has_its_own():
    seen = Seen()
    other = deepcopy(seen)
    assert seen.news(0, {0: lambda: ["a", "b"]}) == ({0: ["a", "b"]}, 1)
    assert seen.news(1, {0: lambda: ["a", "c"]}) == ({0: [SKIPPED, "c"]}, 2)
    assert seen.news(2, {1: lambda: ["a"]}) == ({1: ["a"]}, 3), "another panel"
    assert seen.news(3, {0: lambda: ["a", "c"], 1: lambda: ["a"]}) == ({0: [SKIPPED] * 2, 1: [SKIPPED]}, SKIPPED)
    assert other.news(0, {0: lambda: ["a", "c"]}) == ({0: ["a", "c"]}, 1)


def test_a_slow_look_does_not_hide_what_a_later_one_sent():
    """A tick that began before a click and ends after it: what is remembered is what the click has sent."""
    seen, may_end = Seen(), threading.Event()
    seen.news(0, {0: lambda: ["all"]})
    has_begun = threading.Event()

    def slow():
        has_begun.set()
        may_end.wait(10)
        return ["all"]

    tick = threading.Thread(target=lambda: seen.news(1, {0: slow}))
    click = threading.Thread(target=lambda: sent.append(seen.news(1, {0: lambda: ["last 100"]})))
    sent: list[tuple] = []
    tick.start()
    has_begun.wait(10)
    click.start()
    may_end.set()
    for thread in (tick, click):
        thread.join(10)
    assert sent == [({0: ["last 100"]}, 2)]
    assert seen.news(2, {0: lambda: ["all"]})[0] == {0: ["all"]}


class Browser:
    """Shows what it is sent, in whatever order that comes."""

    def __init__(self, seen: Seen) -> None:
        self.seen, self.got, self.shown = seen, 0, ["", ""]

    def ask(self, *values: str) -> tuple[list, object]:
        news, number = self.seen.news(self.got, {0: lambda: list(values)})
        return news[0], number

    def take(self, answer: tuple[list, object]) -> None:
        values, number = answer
        for place, value in enumerate(values):
            self.shown[place] = self.shown[place] if value == SKIPPED else value
        self.got = self.got if number == SKIPPED else number


ORDERS = {"overtaken": (1, 0), "the third between": (1, 0, 2), "last first": (2, 1, 0), "lost": (0,), "all lost": ()}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_answers_that_overtake_one_another_or_are_lost_are_made_good(order):
    browser = Browser(Seen())
    browser.take(browser.ask("one", "a"))
    answers = [browser.ask("two", "a"), browser.ask("three", "a"), browser.ask("three", "b")]
    for place in order:
        browser.take(answers[place])
    for _ in range(5):
        tick = browser.ask("three", "b")
        browser.take(tick)
    assert browser.shown == ["three", "b"]
    assert tick == ([SKIPPED, SKIPPED], SKIPPED), "and then it is quiet again"


def test_an_answer_that_comes_after_all_was_sent_once_more_does_not_stay():
    browser = Browser(Seen())
    late, other = browser.ask("one", "a"), browser.ask("two", "a")
    browser.take(other)
    browser.take(browser.ask("two", "a"))
    tick = browser.ask("two", "b")
    browser.take(late)
    browser.take(tick)
    assert browser.shown == ["two", "b"]


def test_a_panel_that_fails_loses_no_news_of_another():
    seen = Seen()
    seen.news(0, {0: lambda: ["a"], 1: lambda: ["a"]})

    def fails():
        raise OSError

    with pytest.raises(OSError):
        seen.news(1, {0: lambda: ["b"], 1: fails})
    assert seen.news(1, {0: lambda: ["b"], 1: lambda: ["a"]})[0] == {0: ["b"], 1: ["a"]}

"""The page as gradio serves it: its words in the language of the visit, and many values gathered into one text.

What is gathered by the browser is taken apart before the event's function is called.
The browser's part of gradio 6.31 keeps a status for every component that ever was an input of an event which the server
answers, and walks through the whole page for each of them when an event begins, is first answered, and ends. With forms
of over a hundred fields that is most of a browser's work, ticks included. A gathered event has one input.
"""

from __future__ import annotations

import json
from copy import copy
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.events import EventListenerMethod

from engine.words import LANGUAGES
from webui.language import Texts
from webui.sparing import spared
from webui.visit import served

MANY = 4
"""Events with fewer inputs are left as they are."""
GATHER = "(...values) => JSON.stringify(values)"


class Page(gr.Blocks):
    """Blocks that are served in the language of the visit, and whose events with many inputs are gathered; functions
    are declared and called as in any other."""

    _chosen: Any = None

    def speak(self, texts: Texts, chosen: Any) -> None:
        """Args: texts: all words of the page; chosen: the drop-down of the language."""
        self._texts_shown, self._chosen, self._in_language = texts, chosen, {}

    @property
    def config(self) -> Any:
        """What a browser is told of the page. Gradio reads it for every visit, and sets it anew as the page grows."""
        language = served.get()
        if language is None or language == self._texts_shown.language:
            return self._config
        if language not in self._in_language:
            self._in_language[language] = self._translated(language)
        return self._in_language[language]

    @config.setter
    def config(self, config: Any) -> None:
        self._config, self._in_language = config, {}

    def _translated(self, language: str) -> Any:
        config = self._texts_shown.translated(self._config, language)
        (chosen,) = [each for each in config["components"] if each["id"] == self._chosen._id]
        chosen["props"]["value"] = language
        return config

    def gather(self) -> None:
        """To be called once, inside the page, when all its events are declared.

        Each event with many inputs is begun by one that runs in the browser alone and hands the text on. Events that
        are told what set them off stay: what follows another event is not.
        """
        self._gathered: dict[int, int] = {}
        for event in list(self.fns.values()):
            if event.fn and len(event.inputs) >= MANY and not event.js and not event.collects_event_data:
                self._gather(event)

    def _gather(self, event: BlockFunction) -> None:
        text = gr.Textbox(visible=False)
        _, number = self.default_config.set_event_trigger(
            [EventListenerMethod(self.blocks.get(block_id, self), name) for block_id, name in event.targets],
            None, event.inputs, text, js=GATHER, show_progress="hidden", queue=False, trigger_mode="multiple",
            trigger_after=event.trigger_after, trigger_only_on_success=event.trigger_only_on_success,
            trigger_only_on_failure=event.trigger_only_on_failure,
            no_target=event.trigger_after is not None, api_visibility="private",
        )  # fmt: skip
        event.targets, event.trigger_after = [(None, "then")], number
        event.trigger_only_on_success = event.trigger_only_on_failure = False
        self._gathered[event._id] = text._id

    def get_config_file(self) -> Any:
        config = super().get_config_file()
        for event in config["dependencies"]:
            if event["id"] in getattr(self, "_gathered", ()):
                event["inputs"] = [self._gathered[event["id"]]]
        return config

    async def process_api(self, block_fn: Any, inputs: list[Any], *args: Any, **options: Any) -> dict[str, Any]:
        number = block_fn if isinstance(block_fn, int) else block_fn._id
        event = options.get("event_data")
        if event is not None and self.fns[number].collects_event_data:
            event._data = {} if event._data is None else event._data
            if not isinstance(event._data, dict):
                raise _stranger()
            event._data = Said(event._data)
        if number in self._gathered:
            inputs = _taken_apart(inputs)
        return await super().process_api(block_fn, inputs, *args, **options)

    async def preprocess_data(
        self, block_fn: BlockFunction, inputs: list[Any], *args: Any, **options: Any
    ) -> list[Any]:
        """Only of what the page's own browser part sends."""
        told = zip(block_fn.inputs, inputs, strict=False)
        if not all(_fits(block, value) and (block is not self._chosen or value in LANGUAGES) for block, value in told):
            raise _stranger()
        return await super().preprocess_data(block_fn, inputs, *args, **options)

    async def postprocess_data(self, block_fn: BlockFunction, predictions: Any, state: Any) -> Any:
        """Gradio's own, of what is not spared."""
        outputs = block_fn.outputs
        told = [predictions] if len(outputs) == 1 else predictions
        if state is None or not isinstance(told, list | tuple) or len(told) != len(outputs):
            return await super().postprocess_data(block_fn, predictions, state)
        lines = vars(state).setdefault("lathe_lines", {})
        answers = [spared(block, each, lines) for block, each in zip(outputs, told, strict=True)]
        rest = [number for number, answer in enumerate(answers) if answer is None]
        fewer, kept = copy(block_fn), [told[number] for number in rest]
        fewer.outputs = [outputs[number] for number in rest]
        made = await super().postprocess_data(fewer, kept[0] if len(kept) == 1 else kept, state) if kept else []
        for number, answer in zip(rest, made, strict=True):
            answers[number] = answer
        return answers


class Said(dict):
    """What a click says of itself: what it does not say is None, where gradio 6.31 would raise an exception."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> None:
        return None


def _taken_apart(inputs: list[Any]) -> list[Any]:
    """Raises: gr.Error, for what no browser gathers."""
    try:
        (text,) = inputs
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise _stranger() from error
    if not isinstance(values, list):
        raise _stranger()
    return values


KEPT = (str, bool, type(None))


def _fits(block: Any, value: Any) -> bool:
    """Whether a component can have sent a value.

    A conversation is text: gradio 6.31 would also make components of it, with whatever settings it names, and copy the
    files and fetch the addresses that they name. All choices here are text, and so is what is typed in their place.
    """
    if isinstance(block, gr.Chatbot):
        return _is_text(value)
    if isinstance(block, gr.BrowserState):
        return value is None or (isinstance(value, dict) and all(isinstance(each, KEPT) for each in value.values()))
    if isinstance(block, gr.Dropdown) and value is not None:
        is_many = isinstance(value, list) and all(isinstance(each, str) for each in value)
        return is_many if block.multiselect else isinstance(value, str)
    return True


def _is_text(talk: Any) -> bool:
    """Whether a conversation, as a browser sends it, holds nothing but text."""
    if talk is None:
        return True
    return isinstance(talk, list) and all(isinstance(turn, dict) and _parts(turn.get("content")) for turn in talk)


def _parts(content: Any) -> bool:
    if isinstance(content, list):
        return all(isinstance(part, str) or _is_text_part(part) for part in content)
    return isinstance(content, str) or _is_text_part(content)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.keys() <= {"type", "text"} and isinstance(part.get("text"), str)


def _stranger() -> gr.Error:
    return gr.Error("not-sent-by-this-page", print_exception=False)

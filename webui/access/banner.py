"""The line above a page that others can reach: where, who is here, and the button that ends it. Owners see names."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.catalog.accounts import OWNER
from engine.words import words
from webui.access.door import COOKIE, role_of
from webui.access.sharing import Sharing
from webui.frame import QUICK
from webui.language import escaped, marked

LOOK_S = 10.0
ON_CLICK = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (button) trigger('select', {act: button.dataset.act});
});
"""


class Banner:
    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._line = gr.HTML(elem_id="sharing", js_on_load=ON_CLICK)
        self._last = gr.State("")

    def connect(self, load: Any, language: Any, spoken: Any) -> None:
        """Args: load: the page's event; language: the drop-down; spoken: what changes after it."""
        seen = [language, self._last]
        for event in (load, gr.Timer(LOOK_S).tick, spoken.change):
            event(self._look, seen, [self._line, self._last], **QUICK)
        self._line.select(self._on_act, language, [self._line, self._last], **QUICK)

    def _look(self, request: gr.Request, language: str, last: str) -> list[Any]:
        text = self._text(language, role_of(request) == OWNER)
        return [gr.skip(), gr.skip()] if text == last else [text, text]

    def _on_act(self, event: gr.EventData, request: gr.Request, language: str) -> list[str]:
        """Ask first; then end it. What the browser then shows is a look as any other."""
        if event.act == "ask":
            return [self._question(language), "?"]
        if event.act == "stop":
            self._sharing.stop(request.cookies.get(COOKIE))
        text = self._text(language, is_owner=True)
        return [text, text]

    def _text(self, language: str, is_owner: bool) -> str:
        if self._sharing.is_over:
            return _line(marked(words("access.stopped", language)))
        links = ", ".join(f'<a href="{escaped(each)}">{escaped(each)}</a>' for each in self._sharing.addresses)
        said = f"<b>{escaped(words('access.shared', language))}</b> {links}"
        if not is_owner:
            return _line(said)
        here = ", ".join(
            f"{name} ({words(f'access.{role}', language)})" + (f" × {count}" if count > 1 else "")
            for name, role, count in self._sharing.limits.connected()
        )
        said += f" <span>{escaped(words('access.here', language, names=here or '–'))}</span>"
        if self._sharing.fault:
            said += f'<p class="fault">{marked(self._sharing.fault.text(language))}</p>'
        return _line(said, _button("ask", "access.stop", language))

    def _question(self, language: str) -> str:
        asked = escaped(words("access.stop_question", language))
        buttons = _button("stop", "access.stop_now", language) + _button("keep", "access.stop_not", language)
        return _line(f'<span role="alert">{asked}</span>', buttons)


def _line(said: str, buttons: str = "") -> str:
    return f'<div class="sharing"><div>{said}</div><div class="acts">{buttons}</div></div>'


def _button(act: str, text: str, language: str) -> str:
    return f'<button type="button" data-act="{act}">{escaped(words(text, language))}</button>'

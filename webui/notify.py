"""Tells a visitor who looks elsewhere: the title says how far the run is, a notification that it has ended."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.runs.folder import Folder
from engine.runs.progress import Progress
from engine.words import words
from webui import live
from webui.frame import QUICK, Frame
from webui.language import Texts, escaped

MARKS = {"done": "✓", "stopped": "■", "failed": "✗", "lost": "✗"}
TOGGLE = """
let refused = false, isTried = false;
const reason = () => !window.isSecureContext ? 'insecure' : !('Notification' in window) ? 'missing'
  : Notification.permission === 'denied' || refused ? 'denied' : null;
const isGranted = () => !reason() && Notification.permission === 'granted';
const draw = () => {
  const box = element.querySelector('input'), said = element.querySelector('.notify-said');
  if (!box || !said) return;
  box.checked = localStorage.getItem('lathe-notify') === 'true' && isGranted();
  const text = isTried && reason() ? said.dataset[reason()] : '';
  if (said.textContent !== text) said.textContent = text;
};
element.addEventListener('change', async (event) => {
  const isOn = event.target.checked;
  isTried = isOn;
  refused = false;
  if (isOn && !reason() && !isGranted()) refused = (await Notification.requestPermission()) !== 'granted';
  localStorage.setItem('lathe-notify', String(isOn && isGranted()));
  draw();
});
window.addEventListener('storage', draw);
new MutationObserver(draw).observe(element, {childList: true, subtree: true});
draw();
"""
"""Asks the browser only when the box is ticked; the answer is kept by the browser, for all its tabs."""
WATCH = """
const alive = new Set();
let watched = null, ended = null;
const tell = (run) => {
  if (localStorage.getItem('lathe-notify') !== 'true' || window.Notification?.permission !== 'granted') return;
  const told = JSON.parse(localStorage.getItem('lathe-told') ?? '[]');
  if (told.includes(run.key)) return;
  localStorage.setItem('lathe-told', JSON.stringify([...told, run.key].slice(-100)));
  try { new Notification(run.name, {body: run.body, tag: run.key}); }
  catch { localStorage.setItem('lathe-notify', 'false'); }  // Chrome on Android has it, and refuses to make one
};
const read = () => {
  const runs = [...element.querySelectorAll('[data-name]')].map((each) => ({...each.dataset}));
  for (const run of runs) {
    if (run.active) alive.add(run.name);
    else if (alive.delete(run.name)) {
      ended = run.key;
      window.dispatchEvent(new CustomEvent('lathe-say', {detail: `${run.name}: ${run.body}`}));
      if (navigator.locks) navigator.locks.request('lathe-told', () => tell(run));
      else tell(run);
    }
  }
  const last = runs.at(-1);
  watched = last?.name ?? null;
  const title = last && (last.active || last.key === ended) ? `${last.title} · Lathe` : 'Lathe';
  if (document.title !== title) document.title = title;
};
new MutationObserver(read).observe(element, {childList: true, subtree: true, attributes: true});
setInterval(() => trigger('select', {run: watched}), 2000);
"""
"""A ``gr.Timer`` of gradio 6.31 rests while its tab is hidden, which is when this is needed. Only a run that
this page has seen alive is told of, and of several tabs one tells it."""


def notify_toggle(texts: Texts) -> Any:
    """The box "tell me when it ends"."""
    return texts.make(gr.HTML, {"value": _toggle}, elem_id="train-notify", js_on_load=TOGGLE)


def tell_of_ends(frame: Frame, shown: Any) -> None:
    """Watch the run of the Train tab from every tab. Args: shown: the ``gr.State`` with its name."""
    facts = gr.HTML(elem_id="run-facts", elem_classes="out-of-sight", js_on_load=WATCH)
    facts.select(_looked, [frame.language, shown], facts, **QUICK)


def _looked(language: str, shown: str | None, event: gr.EventData) -> str:
    """The run that was watched until now, if another has taken its place, and the one that is watched."""
    now = live.chosen_run(shown, "train")
    before = live.chosen_run(event.run, "train") if event.run else now
    folders = [now] if before is None or now is None or before.path == now.path else [before, now]
    return "".join(run_facts(folder, live.look(folder), language) for folder in folders if folder)


def run_facts(folder: Folder, progress: Progress | None, language: str) -> str:
    """What the browser is told of a run: nothing that is seen."""
    if progress is None:
        return ""
    is_active = live.is_active(progress)
    share = live.percent(progress)
    mark = MARKS.get(progress.status, "…") if not is_active else "…" if share is None else f"{share:.0f} %"
    separator = " · " if is_active else " "
    status = words(f"page.status.{progress.status}", language)
    loss = progress.loss
    body = status if loss is None else words("page.notify.body", language, status=status, loss=f"{loss:.4g}")
    facts = {
        "name": folder.name, "key": f"{folder.name} {progress.finished_at or progress.started_at}",
        "title": f"{mark}{separator}{folder.path.name}", "body": body, "active": "1" if is_active else "",
    }  # fmt: skip
    return "<i" + "".join(f' data-{name}="{escaped(value)}"' for name, value in facts.items()) + "></i>"


def _toggle(language: str) -> str:
    reasons = "".join(
        f' data-{name}="{escaped(words(f"page.notify.{name}", language))}"'
        for name in ("insecure", "denied", "missing")
    )
    label = escaped(words("page.notify.toggle", language))
    return (
        f'<label class="notify"><input type="checkbox" id="notify"> {label}</label>'
        f'<span class="notify-said" role="status"{reasons}></span>'
    )

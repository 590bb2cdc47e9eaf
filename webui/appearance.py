"""Light, dark, or as the browser prefers: chosen at the top, kept by the browser; the server is never asked."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.words import words
from webui.language import Texts, escaped

CHOICES = ("auto", "light", "dark")
FOLLOW = """<script>
(() => {
  const preferred = matchMedia('(prefers-color-scheme: dark)');
  const kept = () => { try { return localStorage.getItem('lathe-look'); } catch { return null; } };
  const apply = () => {
    const isDark = kept() === 'dark' || (kept() !== 'light' && preferred.matches);
    document.documentElement.style.colorScheme = isDark ? 'dark' : 'light';
    if (document.body.classList.contains('dark') !== isDark) document.body.classList.toggle('dark', isDark);
  };
  const begin = () => {
    apply();
    new MutationObserver(apply).observe(document.body, {attributes: true, attributeFilter: ['class']});
    preferred.addEventListener('change', apply);
    for (const name of ['storage', 'lathe-look']) window.addEventListener(name, apply);
  };
  if (document.body) begin(); else addEventListener('DOMContentLoaded', begin);
})();
</script>"""
"""In the page's head. Gradio 6.31 itself follows the browser's preference, by a class of the body that is watched here;
its own choice is a part of the address, and loads the page anew."""
CHOOSE = """
const draw = () => {
  const box = element.querySelector('select');
  if (box) box.value = localStorage.getItem('lathe-look') ?? 'auto';
};
element.addEventListener('change', (event) => {
  localStorage.setItem('lathe-look', event.target.value);
  window.dispatchEvent(new Event('lathe-look'));
});
window.addEventListener('storage', draw);
new MutationObserver(draw).observe(element, {childList: true, subtree: true});
draw();
"""


def appearance_choice(texts: Texts) -> Any:
    """The drop-down at the top of the page."""
    return texts.make(gr.HTML, {"value": _choice}, elem_id="appearance", js_on_load=CHOOSE)


def _choice(language: str) -> str:
    label = escaped(words("look.label", language))
    options = "".join(f'<option value="{name}">{escaped(words(f"look.{name}", language))}</option>' for name in CHOICES)
    return f'<select aria-label="{label}" title="{label}">{options}</select>'

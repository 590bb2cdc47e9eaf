"""Light, dark, or as the browser prefers: chosen at the top, kept by the browser; the server is never asked."""

from __future__ import annotations

from typing import Any

import gradio as gr

from engine.words import words
from webui.language import Texts, escaped

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
  const chosen = localStorage.getItem('lathe-look') ?? 'auto';
  for (const each of element.querySelectorAll('input')) each.checked = each.value === chosen;
};
element.addEventListener('change', (event) => {
  localStorage.setItem('lathe-look', event.target.value);
  window.dispatchEvent(new Event('lathe-look'));
});
window.addEventListener('storage', draw);
new MutationObserver(draw).observe(element, {childList: true, subtree: true});
draw();
"""
SIGNS = {
    "auto": '<circle cx="8" cy="8" r="6" fill="none"/><path d="M8 2a6 6 0 0 1 0 12z"/>',
    "light": '<circle cx="8" cy="8" r="3"/><path d="M8 1v2M8 13v2M1 8h2M13 8h2M3 3l1.4 1.4M11.6 11.6L13 13M3 13l1.4-1.4'
    'M11.6 4.4L13 3"/>',
    "dark": '<path d="M13.5 9.7A6 6 0 0 1 6.3 2.5a6 6 0 1 0 7.2 7.2z"/>',
}


def appearance_choice(texts: Texts) -> Any:
    """Three signs at the top of the page, of which one is chosen."""
    return texts.make(gr.HTML, {"value": _choice}, elem_id="appearance", js_on_load=CHOOSE)


def _choice(language: str) -> str:
    choices = ""
    for name, sign in SIGNS.items():
        word = escaped(words(f"look.{name}", language))
        drawn = f'<svg viewBox="0 0 16 16" aria-hidden="true">{sign}</svg>'
        radio = f'<input type="radio" name="appearance" value="{name}" aria-label="{word}">'
        choices += f'<label title="{word}">{radio}{drawn}</label>'
    return f'<div role="radiogroup" aria-label="{escaped(words("look.label", language))}">{choices}</div>'

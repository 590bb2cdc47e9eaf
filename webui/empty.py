"""What stands where nothing is yet: a sentence that says what to do, and where it helps a button that leads there."""

from __future__ import annotations

from engine.words import words
from webui.language import escaped

OPENS = """
() => document.addEventListener('click', (event) => {
  const opens = event.target.closest?.('[data-opens]')?.dataset.opens;
  if (opens) document.getElementById(`tab-${opens}-button`)?.click();
})
"""
"""Once for the whole page: a button with ``data-opens`` opens that tab."""


def nothing_yet(key: str, language: str, opens: str = "") -> str:
    """Args: opens: the tab to which the button leads, which ``empty.<tab>`` names."""
    said = f"<p>{escaped(words(key, language))}</p>"
    return said + (leads_to(opens, language) if opens else "")


def leads_to(tab: str, language: str) -> str:
    return (
        f'<button type="button" class="leads-on" data-opens="{tab}">{escaped(words(f"empty.{tab}", language))}</button>'
    )

"""What a screen reader says by itself: notices as they appear, and that a run has ended; nothing that ticks."""

from __future__ import annotations

LISTEN = """<script>
(() => {
  const begin = () => {
    if (document.getElementById('said')) return;
    const said = document.createElement('div');
    said.id = 'said';
    said.className = 'unseen';
    said.role = 'status';
    document.body.append(said);
    window.addEventListener('lathe-say', ({detail}) => { said.textContent = detail; });
  };
  if (document.body) begin(); else addEventListener('DOMContentLoaded', begin);
})();
</script>"""
"""In the page's head: a place that is there from the start; what appears together with its text may not be read."""
SPEAKS = """
new MutationObserver(() => {
  const isAlert = element.querySelector('[role=alert], [role=alertdialog]'), text = element.innerText.trim();
  if (text && !isAlert) window.dispatchEvent(new CustomEvent('lathe-say', {detail: text}));
}).observe(element, {childList: true, subtree: true});
"""
"""Of a place for notices; an alert is read without it."""

"""What can be measured of how the page reads: faults that axe-core finds, and text that is cut off."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

TABS = ("data", "train", "runs", "eval", "chat", "export", "gguf")
TALL = 3000
"""So high that the bar at the bottom covers nothing: what lies below it would be measured against its colours."""
CUT_OFF = """
() => {
  const isSeen = (each) => each.checkVisibility({visibilityProperty: true, opacityProperty: true});
  const hidden = '.unseen, .spoken, .out-of-sight, .skip, .topbar .info-text, .hints, [aria-hidden=true], option';
  const isHidden = (each) => each.closest(hidden) || [...ancestors(each)].some(
    (above) => above.clientWidth === 1 || getComputedStyle(above).clipPath !== 'none');
  function* ancestors(each) { for (let at = each; at && at !== document.body; at = at.parentElement) yield at; }
  const named = (each, why) => {
    const place = [...ancestors(each)].find((above) => above.id && !/\\d/.test(above.id));
    const text = (each.value || each.textContent).trim().slice(0, 60);
    return `#${place?.id} ${each.tagName.toLowerCase()} "${text}": ${why}`;
  };
  const boxes = (node, from = 0, to = node.length) => {
    const range = document.createRange();
    range.setStart(node, from);
    range.setEnd(node, to);
    return [...range.getClientRects()].filter((box) => box.width > 0.5);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, holder = node.parentElement;
    if (!node.data.trim() || /^(SCRIPT|STYLE)$/.test(holder.tagName) || !isSeen(holder) || isHidden(holder)) continue;
    const lines = boxes(node);
    for (const above of ancestors(holder)) {
      const look = getComputedStyle(above), edge = above.getBoundingClientRect();
      const scrolls = (way) => /auto|scroll/.test(look[`overflow${way}`]);
      if (scrolls('X') || scrolls('Y')) break;
      if (look.display === 'inline' || !/hidden|clip/.test(look.overflowX + look.overflowY)) continue;
      if (lines.some((box) => box.right > edge.right + 1 || box.left < edge.left - 1 || box.bottom > edge.bottom + 2)) {
        found.push(named(holder, 'is cut off'));
        break;
      }
    }
    const button = holder.closest('button, th, .chip, [data-testid=block-info], dt, .label-wrap');
    if (!button) continue;
    const frame = button.getBoundingClientRect();
    if (button.matches('button') && lines.some((box) => box.right > frame.right + 1 || box.left < frame.left - 1))
      found.push(named(button, 'leaves its button'));
    for (const word of node.data.matchAll(/[\\p{L}\\p{N}]+/gu)) {
      if (/[\\u3040-\\u30ff\\u3400-\\u9fff]/.test(word[0])) continue;  // Chinese and Japanese break anywhere
      const tops = new Set(boxes(node, word.index, word.index + word[0].length).map((box) => Math.round(box.top)));
      if (tops.size > 1) found.push(named(button, `breaks within "${word[0]}"`));
    }
  }
  const pen = document.createElement('canvas').getContext('2d');
  for (const box of document.querySelectorAll('input:not([type=checkbox], [type=radio], [type=range]), textarea')) {
    const isChoice = box.getAttribute('role') === 'combobox';
    const text = box.value ? (isChoice ? box.value : '') : box.placeholder;
    if (!text || !isSeen(box) || isHidden(box)) continue;
    const look = getComputedStyle(box);
    pen.font = look.font;
    const room = box.clientWidth - parseFloat(look.paddingLeft) - parseFloat(look.paddingRight);
    const lines = box.matches('textarea') ? Math.max(1, Math.floor(box.clientHeight / parseFloat(look.lineHeight))) : 1;
    if (pen.measureText(text).width > room * lines + 1) found.push(named(box, `shows only a part of "${text}"`));
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push('the page is wider than the window');
  return [...new Set(found)];
}
"""


def open_all(page: Page) -> None:
    """Unfold whatever is folded on the open tab."""
    page.evaluate(
        """() => document.querySelectorAll('button.label-wrap:not(.open), details:not([open]) > summary')
            .forEach((each) => each.checkVisibility() && each.click())"""
    )
    page.wait_for_timeout(400)


def faults(page: Page, rules: str | None = None) -> list[str]:
    """What axe-core calls serious or critical, with the element. Args: rules: only this rule."""
    options = {"resultTypes": ["violations"], **({"runOnly": [rules]} if rules else {})}
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{each['id']} {node['target'][0]}: {node['html'][:160]} {node['failureSummary']}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]

/* Shows what a word of the field means while a pointer rests on it, while it has the focus, and when it is tapped.
   Its marks are links to the explanations, which stand in #glossary; see glossary.py. */
(() => {
  const MARK = 'a[href^="#gloss-"]', EDGE = 8, AWAY = 6, LINGER_MS = 150;
  const box = document.createElement("div");
  let mark = null, leaving = 0;
  box.id = "term-note";
  box.setAttribute("role", "tooltip");
  box.hidden = true;

  const markAt = (target) => (target instanceof Element ? target.closest(MARK) : null);

  function show(next) {
    const meaning = document.getElementById(next.getAttribute("href").slice(1));
    if (!meaning) return;
    clearTimeout(leaving);
    mark = next;
    mark.setAttribute("aria-describedby", meaning.id);
    mark.removeAttribute("target");
    box.textContent = meaning.textContent;
    if (!box.isConnected) document.body.append(box);
    box.hidden = false;
    place();
  }

  function hide() {
    clearTimeout(leaving);
    mark = null;
    box.hidden = true;
  }

  function place() {
    const at = mark?.isConnected ? mark.getClientRects()[0] : null;
    const { clientWidth: width, clientHeight: height } = document.documentElement;
    if (!at || at.bottom < 0 || at.top > height) return hide();
    const below = at.bottom + AWAY, above = at.top - AWAY - box.offsetHeight;
    const fits = below + box.offsetHeight + EDGE <= height || above < EDGE;
    box.style.top = `${fits ? below : above}px`;
    box.style.left = `${Math.max(EDGE, Math.min(at.left, width - box.offsetWidth - EDGE))}px`;
  }

  /* A word that stands in many help lines is one stop of the Tab key, not many: that way a form stays quick to fill in. */
  function stopOnce() {
    const seen = new Set();
    for (const each of document.querySelectorAll(MARK)) {
      const isFirst = each.checkVisibility({ visibilityProperty: true }) && !seen.has(each.hash);
      if (isFirst) seen.add(each.hash);
      each.tabIndex = isFirst ? 0 : -1;
    }
  }

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const over = markAt(event.target);
    if (over) return show(over);
    clearTimeout(leaving);
    if (!mark || box.contains(event.target) || mark === document.activeElement) return;
    leaving = setTimeout(hide, LINGER_MS);
  });
  document.addEventListener("pointerdown", (event) => {
    if (mark && !markAt(event.target) && !box.contains(event.target)) hide();
  });
  document.addEventListener("focusin", (event) => {
    const focused = markAt(event.target);
    if (focused) show(focused);
    else if (mark) hide();
  });
  document.addEventListener("focusout", (event) => event.target === mark && !event.relatedTarget && hide());
  document.addEventListener("click", (event) => {
    const clicked = markAt(event.target);
    if (!clicked) return;
    event.preventDefault();
    show(clicked);
  }, true);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    if (event.key === "Tab") stopOnce();
  }, true);
  addEventListener("scroll", () => mark && place(), { capture: true, passive: true });
  addEventListener("resize", () => mark && place());
})();

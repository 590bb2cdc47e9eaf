// Says in the page's language what gradio's own browser part says in English. TABLE holds each phrase in every language.
(() => {
  const PHRASES = /* TABLE */ [];
  const root = document.documentElement; // its data-language is the language of the page
  root.lang = root.dataset.language;
  Object.defineProperty(navigator, "language", { get: () => "en" }); // gradio chooses its own words by this
  const patterns = PHRASES.map((phrase) => {
    const parts = phrase.en.split(/\{(\w+)\}/);
    const escaped = parts.map((part, at) => (at % 2 ? "(.*)" : part.replace(/[.*+?^$()|[\]\\]/g, "\\$&")));
    return { phrase, names: parts.filter((_, at) => at % 2), is: new RegExp(`^${escaped.join("")}$`, "s") };
  });
  const whole = new Map(PHRASES.filter((each) => !each.en.includes("{")).map((phrase) => [phrase.en, { phrase }]));
  const open = patterns.filter((each) => each.names.length);
  const ATTRIBUTES = ["aria-label", "title", "placeholder"];
  const LABELLED = ATTRIBUTES.map((name) => `[${name}]`).join();
  const SPOKEN = "[data-testid=upload-text], [data-testid=toast-body], .uploading, .file, .loading, .cm-search, .sr-only";
  const said = new WeakMap(); // what was written where, to say it again in another language

  function find(text) {
    const found = whole.get(text);
    if (found || !/[A-Za-z]/.test(text)) return found;
    for (const { phrase, names, is } of open) {
      const match = is.exec(text);
      if (match) return { phrase, facts: Object.fromEntries(names.map((name, at) => [name, match[at + 1]])) };
    }
  }

  function say(owner, place, text, write) {
    const known = said.get(owner)?.[place];
    const found = known?.text === text ? known : find(text);
    if (!found) return;
    const wanted = found.phrase[root.dataset.language];
    const filled = wanted.replace(/\{(\w+)\}/g, (_, name) => found.facts[name]);
    said.set(owner, { ...said.get(owner), [place]: { ...found, text: filled } });
    if (filled !== text) write(filled);
  }

  function label(element) {
    if (element.closest("[role=option]")) return; // what a person chooses from is called as it is called
    for (const name of ATTRIBUTES) {
      const text = element.getAttribute(name);
      if (text) say(element, name, text, (filled) => element.setAttribute(name, filled));
    }
  }

  function speak(element) {
    const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const text = node.nodeValue.trim();
      if (text) say(node, "text", text, (filled) => { node.nodeValue = node.nodeValue.replace(text, () => filled); });
    }
  }

  function look(element) {
    if (element.matches(LABELLED)) label(element);
    element.querySelectorAll(LABELLED).forEach(label);
    if (element.closest(SPOKEN)) speak(element);
    else element.querySelectorAll(SPOKEN).forEach(speak);
  }

  new MutationObserver((changes) => {
    for (const { type, target, addedNodes, attributeName } of changes) {
      if (attributeName === "data-language") look(document.body);
      if (target === root && type === "attributes") {
        if (root.lang !== root.dataset.language) root.lang = root.dataset.language; // gradio writes "en" there
      } else if (type === "attributes") label(target);
      else if (type === "characterData") target.parentElement?.closest(SPOKEN) && speak(target.parentElement);
      else for (const node of addedNodes) {
        if (node.nodeType === Node.ELEMENT_NODE) look(node);
        else if (node.nodeType === Node.TEXT_NODE && target.closest?.(SPOKEN)) speak(target);
      }
    }
  }).observe(root, {
    subtree: true, childList: true, characterData: true, attributes: true,
    attributeFilter: ["lang", "data-language", ...ATTRIBUTES],
  });
})();

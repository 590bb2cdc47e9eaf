"""The function that stands in the browser in place of gradio's own: it finds the same, however parts move about."""

from __future__ import annotations

import re

from webui.frontend import ASSETS, WALK, replaced

TRIAL = """([theirs, ours]) => {
    const [walk, straight] = [theirs, ours].map((text) => new Function(text + ";return Z")());
    let seed = 1, next = 0;
    const random = (below) => (seed = (seed * 48271) % 2147483647) % below;
    const grow = (depth) => {
        const part = {id: next++};
        if (depth) part.children = Array.from({length: random(6)}, () => grow(depth - 1));
        return part;
    };
    const all = (part) => [part, ...(part.children ?? []).flatMap(all)];
    const root = grow(5);
    root.children.push(grow(5), grow(5));
    const count = next;
    for (let round = 0; round < 60; round++) {
        const parts = all(root).filter((part) => part.children?.length);
        const from = parts[random(parts.length)], to = parts[random(parts.length)];
        const moved = from.children.splice(random(from.children.length), 1)[0];
        if (random(3)) (all(moved).includes(to) ? root : to).children.unshift(random(2) ? moved : {...moved});
        for (let id = -1; id <= count; id++) {
            if (walk(root, id) !== straight(root, id)) return `round ${round}, part ${id}`;
        }
    }
    return all(root).length;
}"""


def test_it_finds_what_gradios_own_finds(chromium):
    (name,) = replaced()
    theirs = (ASSETS / name.rpartition("/")[2]).read_text(encoding="utf-8")
    walk = WALK.search(theirs)
    ours = re.search(r"const latheWays=.*?return found\}", replaced()[name].decode())[0]
    assert theirs.replace(walk[0], ours) == replaced()[name].decode(), "and nothing else is changed"
    page = chromium.new_page()
    try:
        left = page.evaluate(TRIAL, [re.sub(rf"\b{walk['name']}\(", "Z(", text) for text in (walk[0], ours)])
    finally:
        page.close()
    assert isinstance(left, int) and left > 30, left


def test_the_browser_gets_it_once(chromium, address):
    (name,) = replaced()
    context = chromium.new_context()
    page = context.new_page()
    with page.expect_response(lambda answer: name in answer.url) as first:
        page.goto(address)
    assert "latheWays" in first.value.text() and first.value.headers["content-type"].startswith("text/javascript")
    with page.expect_response(lambda answer: name in answer.url) as second:
        page.goto(address)
    assert (first.value.status, second.value.status) == (200, 304)
    context.close()

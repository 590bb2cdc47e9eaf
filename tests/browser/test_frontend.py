"""What stands in the browser in place of gradio's own functions: it finds and reads the same."""

from __future__ import annotations

import re

import pytest

from webui.frontend import ASKED, ASSETS, WALK, replaced

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


READING = """async ([theirs, ours]) => {
    let copied = 0;
    const copy = (value) => { copied += JSON.stringify(value ?? null).length; return structuredClone(value); };
    const held = (text) => new (new Function("Z", `return class { ${text} }`)(copy))();
    const told = [];
    for (const text of [theirs, ours]) {
        const choices = Array.from({length: 9}, (_, at) => [`name ${at}`, at]);
        const component = held(text);
        component.props = {value: ["a", {b: 1}], choices, open: true, nothing: null};
        const data = await component.get_data();
        const seen = JSON.stringify([data, {...data}, "value" in data, "label" in data, data.label]);
        data.value.push("ours");
        data.open = false;
        told.push(JSON.stringify([seen, data.open, component.props]));
        copied = 0;
        (await component.get_data()).value;
        told.push(copied);
    }
    return told;
}"""


def of_both(kind: str, theirs: re.Pattern[str], ours: str) -> tuple[str, str]:
    """A function as gradio has it and as the browser gets it, each by the name of Z; and nothing else is changed."""
    (name,) = (name for name in replaced() if name.startswith(f"/assets/{kind}-"))
    text = (ASSETS / name.rpartition("/")[2]).read_text(encoding="utf-8")
    there, here = theirs.search(text), re.search(ours, replaced()[name].decode())[0]
    assert text.replace(there[0], here) == replaced()[name].decode()
    plain, other = (re.sub(rf"\b{there['name']}\(", "Z(", each) for each in (there[0], here))
    return plain, other


@pytest.fixture
def blank(chromium):
    page = chromium.new_page()
    yield page
    page.close()


def test_it_finds_what_gradios_own_finds(blank):
    left = blank.evaluate(TRIAL, of_both("core", WALK, r"const latheWays=.*?return found\}"))
    assert isinstance(left, int) and left > 30, left


def test_it_reads_what_gradios_own_reads_and_copies_less(blank):
    theirs, copied, ours, copied_here = blank.evaluate(
        READING, of_both("src", ASKED, r"async get_data\(\)\{const latheHeld=.*?\}\)\}")
    )
    assert ours == theirs
    assert copied_here < copied / 5


def test_the_browser_gets_it_once(chromium, address):
    name = next(name for name in replaced() if "core-" in name)
    context = chromium.new_context()
    page = context.new_page()
    with page.expect_response(lambda answer: name in answer.url) as first:
        page.goto(address)
    assert "latheWays" in first.value.text() and first.value.headers["content-type"].startswith("text/javascript")
    with page.expect_response(lambda answer: name in answer.url) as second:
        page.goto(address)
    assert (first.value.status, second.value.status) == (200, 304)
    context.close()

"""A small interpreter of the Go template syntax that our Modelfiles use; nothing of it comes from the program."""

from __future__ import annotations

import re


def run_go(template: str, messages: list[dict[str, str]]) -> str:
    """Run a Go template as Ollama does: ``.Messages`` are the turns, ``.System`` the text of the system turns."""
    tokens = re.split(r"""(\{\{(?:[^"}]|"[^"]*")*\}\})""", template)
    data = {
        "Tools": [],
        "Messages": messages,
        "System": "\n\n".join(m["content"] for m in messages if m["role"] == "system"),
    }
    text, end = _run(tokens, 0, data, data, {})
    assert end == len(tokens), "an {{ end }} too many"
    return text


def _run(tokens, at, dot, root, variables, active=True):
    """Run up to the {{ end }} or {{ else }} that is not ours."""
    out = []
    while at < len(tokens):
        token = tokens[at]
        if not token.startswith("{{"):
            out.append(token if active else "")
            at += 1
            continue
        code = token[2:-2].strip()
        if code == "end" or code.startswith("else"):
            break
        at += 1
        if code.startswith("range"):
            start, pieces = at, []
            assert code == "range $i, $_ := .Messages"
            for index, message in enumerate(dot["Messages"] if active else [{"role": "", "content": ""}]):
                part, at = _run(tokens, start, message, root, {"$i": index}, active)
                pieces.append(part)
            if not dot.get("Messages") and active:
                _, at = _run(tokens, start, {"role": "", "content": ""}, root, {"$i": 0}, False)
            assert tokens[at] == "{{ end }}"
            out.append("".join(pieces))
            at += 1
        elif code.startswith("if"):
            done, condition = False, code[2:]
            while True:
                chosen = active and not done and bool(_value(condition, dot, root, variables))
                part, at = _run(tokens, at, dot, root, variables, chosen)
                out.append(part if chosen else "")
                done = done or chosen
                code = tokens[at][2:-2].strip()
                at += 1
                if code == "end":
                    break
                condition = code[len("else if") :] if code.startswith("else if") else "true"
        elif ":=" in code:
            name, value = code.split(":=")
            variables = {**variables, name.strip(): _value(value, dot, root, variables)}
        elif active:
            out.append(str(_value(code, dot, root, variables)))
    return "".join(out), at


def _value(code: str, dot, root, variables):
    words = re.findall(r'"[^"]*"|[()]|[^\s()]+', code)

    def atom():
        word = words.pop(0)
        if word == "(":
            value = call()
            assert words.pop(0) == ")"
            return value
        if word.startswith('"'):
            return word[1:-1]
        if word == "true" or word.isdigit():
            return True if word == "true" else int(word)
        if word.startswith("$."):
            return root[word[2:]]
        if word.startswith("$"):
            return variables[word]
        return dot[word[1:]] if word[1:] in dot else dot[word[1:].lower()]

    def call():
        functions = {"eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "le": lambda a, b: a <= b, "len": len,
                     "not": lambda a: not a,
                     "and": lambda a, b: a and b, "slice": lambda a, b: a[b:]}  # fmt: skip
        if words[0] not in functions:
            return atom()
        function, arguments = functions[words.pop(0)], []
        while words and words[0] != ")":
            arguments.append(atom())
        return function(*arguments)

    value = call()
    assert not words, f"left over: {words}"
    return value

"""The Modelfile: its Go template, run by a small interpreter of the Go syntax it uses, renders what Jinja does."""

from __future__ import annotations

import re

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.work.ollama import Pieces, find_pieces, go_template, modelfile, stop_words

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are SmolLM.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% for m in messages %}{% set c = '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set c = bos_token + c %}{% endif %}"
    "{{ c }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA31 = (  # a system turn is there even when nobody wrote one
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\n' + s + '<|eot_id|>' }}"
    "{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] }}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (  # refuses a system turn
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system turns') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + m['role'].replace('assistant', 'model') + '\n' + m['content'] | trim"
    " + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL = (  # the system text opens the first user turn
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + (s if loop.first else '') + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
ALPACA = (
    "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '### Instruction:\n' + m['content'] + '\n\n' }}"
    "{% else %}{{ '### Response:\n' + m['content'] + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "llama3.1": LLAMA31,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "alpaca": ALPACA,
}
BOS = {"chatml": "<|im_start|>", "llama3": "<|begin_of_text|>", "llama3.1": "<|begin_of_text|>", "gemma": "<bos>",
       "mistral": "<s>", "alpaca": ""}  # fmt: skip
ADDS_BOS = {"llama3", "llama3.1", "gemma", "mistral"}

TURNS = [
    {"role": "user", "content": "Hello {{ there }}!"},
    {"role": "assistant", "content": "Hi."},
    {"role": "user", "content": "And 2 + 2?"},
]
SYSTEM = {"role": "system", "content": "Be brief."}


def jinja(name: str):
    """The template as transformers runs it."""

    def refuse(message: str):
        from jinja2 import TemplateError

        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    template = environment.from_string(TEMPLATES[name])
    return lambda messages, wants: template.render(messages=messages, add_generation_prompt=wants, bos_token=BOS[name])


def run_go(template: str, messages: list[dict[str, str]]) -> str:
    """Run a Go template as Ollama does: ``.Messages`` are the turns, ``.System`` the text of the system turns."""
    tokens = re.split(r"""(\{\{(?:[^"}]|"[^"]*")*\}\})""", template)
    data = {"Messages": messages, "System": "\n\n".join(m["content"] for m in messages if m["role"] == "system")}
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


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("with_system", [False, True], ids=["no system", "system"])
@pytest.mark.parametrize("turns", [1, 3])
def test_go_renders_what_jinja_renders(name, with_system, turns):
    render = jinja(name)
    pieces = find_pieces(render, BOS[name], name in ADDS_BOS)
    assert pieces is not None
    messages = ([SYSTEM] if with_system else []) + TURNS[:turns]
    if name == "gemma" and with_system:
        first = {"role": "user", "content": f"Be brief.\n\n{TURNS[0]['content']}"}
        wanted = render([first, *TURNS[1:turns]], True)
    else:
        wanted = render(messages, True)
    if name in ADDS_BOS:  # llama.cpp puts it there
        wanted = wanted.removeprefix(BOS[name])
    if not with_system and pieces.default_system:  # Ollama takes it from the SYSTEM line
        messages = [{"role": "system", "content": pieces.default_system}, *messages]
    assert run_go(go_template(pieces), messages) == wanted


def test_an_answer_that_was_begun_is_left_open():
    pieces = find_pieces(jinja("chatml"), BOS["chatml"])
    messages = [SYSTEM, TURNS[0], {"role": "assistant", "content": "Hi"}]
    assert run_go(go_template(pieces), messages).endswith("<|im_start|>assistant\nHi")


def test_default_system_becomes_the_system_line():
    pieces = find_pieces(jinja("chatml"), BOS["chatml"])
    assert pieces.default_system == "You are SmolLM."
    text = modelfile("demo-F16.gguf", pieces, ["<|im_end|>", 'a "b"'], None, {"temperature": 0.2})
    lines = text.splitlines()
    assert lines[0] == "FROM ./demo-F16.gguf"
    assert 'SYSTEM """You are SmolLM."""' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines and r'PARAMETER stop "a \"b\""' in lines
    assert "PARAMETER temperature 0.2" in lines
    assert 'SYSTEM """Mine."""' in modelfile("x.gguf", pieces, [], "Mine.", {})
    assert "SYSTEM" not in modelfile("x.gguf", pieces, [], "", {})


def test_stop_words():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    chatml = find_pieces(jinja("chatml"), BOS["chatml"])
    assert stop_words(chatml, special, "<|im_end|>") == ["<|im_end|>", "<|im_start|>"]
    alpaca = find_pieces(jinja("alpaca"))
    assert stop_words(alpaca, ["</s>"], "</s>") == ["</s>", "### Instruction:"]


def test_braces_of_a_template_are_not_taken_for_go():
    pieces = Pieces("", ("<{{s}}>", "\n"), ("{{u}} ", "\n"), ("a ", "\n"), "a ")
    assert run_go(go_template(pieces), TURNS[:1]) == "{{u}} Hello {{ there }}!\na "


def test_a_template_that_does_not_come_apart_is_left_to_ollama():
    assert find_pieces(lambda messages, wants: "the same for everyone") is None
    assert modelfile("x.gguf", None, ["</s>"], None, {}) == 'FROM ./x.gguf\n\nPARAMETER stop "</s>"\n'

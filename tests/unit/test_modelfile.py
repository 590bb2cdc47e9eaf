"""The Modelfile: its Go template, run by a small interpreter of the Go syntax it uses, renders what Jinja does."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.catalog.modelfile import Modelfile, modelfile_of, parse_modelfile, suggested_name
from engine.catalog.rendering import Renderer
from engine.catalog.templates import find_template, template_names
from engine.errors import UserError
from engine.options.rules_served import is_ollama_name, whole_name
from engine.work.modelfile import Pieces, find_pieces, go_template, modelfile, stop_words
from tests.go_template import run_go

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
PHI3 = (  # the end token ends the conversation, not a turn
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ '<|endoftext|>' }}{% endif %}"
)
TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "llama3.1": LLAMA31,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "alpaca": ALPACA,
    "phi3": PHI3,
}
BOS = {"chatml": "<|im_start|>", "llama3": "<|begin_of_text|>", "llama3.1": "<|begin_of_text|>", "gemma": "<bos>",
       "mistral": "<s>", "alpaca": "", "phi3": "<s>"}  # fmt: skip
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


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("with_system", [False, True], ids=["no system", "system"])
@pytest.mark.parametrize("turns", [1, 3])
def test_go_renders_what_jinja_renders(name, with_system, turns):
    render = jinja(name)
    pieces = find_pieces(render, BOS[name], name in ADDS_BOS, "<|endoftext|>")
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


@pytest.mark.parametrize("adds_bos", [False, True], ids=["", "llama.cpp adds the beginning"])
@pytest.mark.parametrize("name", template_names())
def test_every_template_that_has_a_name_is_expressed(name, adds_bos):
    renderer = Renderer(find_template(name).chat_template, {"bos_token": "<s>", "eos_token": "</s>"})
    pieces = find_pieces(lambda messages, wants: renderer.render(messages, wants), "<s>", adds_bos)
    go = go_template(pieces)
    for system in ([], [SYSTEM], [{"role": "system", "content": ""}]):
        for turns in (TURNS[:1], TURNS):
            wanted = renderer.render([*system, *turns], add_generation_prompt=True)
            default = [] if system or not pieces.default_system else [{**SYSTEM, "content": pieces.default_system}]
            assert run_go(go, [*default, *system, *turns]) == wanted.removeprefix("<s>" if adds_bos else "")


def test_a_system_text_that_changes_later_turns_is_left_to_ollama():
    def render(messages, wants):
        has_system = messages[0]["role"] == "system"
        return "".join(f"<{m['role']}{' !' * has_system}>{m['content']}\n" for m in messages) + "<assistant>" * wants

    assert find_pieces(render) is None


def test_an_answer_that_was_begun_is_left_open():
    pieces = find_pieces(jinja("chatml"), BOS["chatml"])
    messages = [SYSTEM, TURNS[0], {"role": "assistant", "content": "Hi"}]
    assert run_go(go_template(pieces), messages).endswith("<|im_start|>assistant\nHi")


def test_default_system_becomes_the_system_line():
    pieces = find_pieces(jinja("chatml"), BOS["chatml"])
    assert pieces.default_system == "You are SmolLM."
    lines = modelfile("demo-F16.gguf", pieces, ["<|im_end|>", 'a "b"'], None, {"temperature": 0.2}).text.splitlines()
    assert lines[0] == "FROM ./demo-F16.gguf"
    assert 'SYSTEM """You are SmolLM."""' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines and 'PARAMETER stop "a "b""' in lines  # Ollama knows no escapes
    assert "PARAMETER temperature 0.2" in lines
    assert 'SYSTEM """Mine."""' in modelfile("x.gguf", pieces, [], "Mine.", {}).text
    assert "SYSTEM" not in modelfile("x.gguf", pieces, [], "", {}).text


def test_stop_words():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    chatml = find_pieces(jinja("chatml"), BOS["chatml"])
    assert stop_words(chatml, special, "<|im_end|>") == ["<|im_end|>", "<|im_start|>"]
    alpaca = find_pieces(jinja("alpaca"))
    assert stop_words(alpaca, ["</s>"], "</s>") == ["</s>", "### Instruction:"]
    phi3 = find_pieces(jinja("phi3"), BOS["phi3"], eos="<|endoftext|>")
    assert stop_words(phi3, ["<|end|>", "<|user|>"], "<|endoftext|>") == ["<|endoftext|>", "<|end|>", "<|user|>"]


def test_braces_of_a_template_are_not_taken_for_go():
    pieces = Pieces("", ("<{{s}}>", "\n"), ("{{u}} ", "\n"), ("a ", "\n"), "a ")
    assert run_go(go_template(pieces), TURNS[:1]) == "{{u}} Hello {{ there }}!\na "


def test_a_template_that_does_not_come_apart_is_left_to_ollama():
    assert find_pieces(lambda messages, wants: "the same for everyone") is None
    assert modelfile("x.gguf", None, ["</s>"], None, {}).text == 'FROM ./x.gguf\n\nPARAMETER stop "</s>"\n'


def test_a_modelfile_says_the_same_when_it_is_read():
    for said in (
        Modelfile("./a.gguf", "{{ .Messages }}\n", 'Be "brief"\n\nand kind.', {"stop": ["<|im_end|>", "\n\n", 'a "b"'],
                                                                              "temperature": 0.2, "top_k": 40}),
        Modelfile("./a b.gguf"),
        Modelfile("./a.gguf", "Q: \nA: ", " one \n two "),  # spaces before a line's end too
        Modelfile("llama3", ' two  spaces "quoted" ', "", {"stop": ['"']}),
    ):  # fmt: skip
        assert parse_modelfile(said.text) == said


def test_a_modelfile_is_read_as_ollama_writes_it():
    """The forms of ``ollama show --modelfile``: comments, words in any case, values without quotes."""
    text = """# Modelfile generated by "ollama show"
# To build a new Modelfile based on this, replace FROM with:
# FROM mine:latest

FROM /root/.ollama/models/blobs/sha256-0a
TEMPLATE "{{ .System }}
{{ .Prompt }}"
SYSTEM You are brief.
parameter stop ### Instruction:
PARAMETER stop "
"
PARAMETER temperature 0.2
"""
    licence = 'LICENSE """Free,\nas in air"""\n'
    assert parse_modelfile(text) == Modelfile(
        "/root/.ollama/models/blobs/sha256-0a", "{{ .System }}\n{{ .Prompt }}", "You are brief.",
        {"stop": ["### Instruction:", "\n"], "temperature": 0.2},
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        parse_modelfile(text + licence)
    assert caught.value.key == "ollama.modelfile_line" and caught.value.facts["line"] == 13
    with pytest.raises(UserError) as caught:
        parse_modelfile('FROM x\nSYSTEM """no end\nPARAMETER top_k 4\n')
    assert caught.value.key == "ollama.modelfile_open" and caught.value.facts["line"] == 2
    with pytest.raises(UserError) as caught:
        parse_modelfile("FROM x\nPARAMETER\n")
    assert caught.value.key == "ollama.modelfile_line" and caught.value.facts["line"] == 2


def test_the_modelfile_beside_a_file_is_its_own(tmp_path):
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    (tmp_path / "Modelfile").write_text("FROM ./one.gguf\n")
    assert modelfile_of(one) == tmp_path / "Modelfile" and modelfile_of(two) is None
    (tmp_path / "two.Modelfile").write_text("FROM ./two.gguf\n")
    assert modelfile_of(two) == tmp_path / "two.Modelfile"


@pytest.mark.parametrize(
    "name", ["a", "my-model", "my.model_2:q8-0", "me/mine", "example.com:5000/me/mine:7b", "A" * 80]
)
def test_names_that_ollama_takes(name):
    assert is_ollama_name(name)


@pytest.mark.parametrize(
    "name",
    ["", " a", "a b", "a:", ":a", "a:b:c", "a//b", ".a", "-a", "a/b.c/d/e", "m.e/a", "a\n", "é", "A" * 81, "../a"],
)
def test_names_that_it_does_not_take(name):
    assert not is_ollama_name(name)


def test_a_name_after_a_file():
    assert suggested_name("x/My Model (v2)-Q8_0.gguf") == "my-model-v2-q8_0"
    assert is_ollama_name(suggested_name("…….gguf")) and is_ollama_name(suggested_name("_a.gguf"))
    assert whole_name("Mine") == "mine:latest" and whole_name("h:5000/a/b") == "h:5000/a/b:latest"

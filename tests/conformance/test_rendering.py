"""Our rendering of chat templates against transformers' own, on the bundled tokenizer and templates of every habit."""

import pytest
from transformers import AutoTokenizer

from engine.catalog.rendering import Renderer, renderer_for, renderer_of
from engine.catalog.templates import find_template, template_names
from engine.errors import UserError
from engine.options.jobs import TrainJob

ONE = [{"role": "user", "content": "How are you"}, {"role": "assistant", "content": "I am fine!"}]
TWO = [*ONE, {"role": "user", "content": "你好"}, {"role": "assistant", "content": "很高兴认识你！"}]
SYSTEM = [{"role": "system", "content": "Be 'brief'."}, *TWO]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": [2.5, None, True]}}}
TOOL_USE = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": '{"temp": 20}'},
    {"role": "assistant", "content": "It is 20°C."},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}},
    }
]
CONVERSATIONS = {"one": ONE, "two": TWO, "system": SYSTEM, "tools": TOOL_USE, "open": TWO[:3]}


def each(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}"


HABITS = {
    "whitespace": "{% for m in messages %}\n  {{ m.role }}: {{ m.content | trim }}\n{% endfor %}\n"
    "{% if add_generation_prompt %}\nassistant:\n{% endif %}",
    "namespace": "{% set ns = namespace(n=0) %}" + each("{% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m['content'] }}"),
    "loop controls": each("{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}"),
    "generation": each("{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"),
    "json": "{{ tools | tojson(indent=2) if tools else '' }}" + each("{{ m | tojson }}"),
    "dict": "{{ dict(a=1)['a'] }}{% for k, v in dict(messages[0]).items() %}{{ k }}={{ v }};{% endfor %}",
    "macro": "{% macro turn(r, c) -%}<{{ r }}>{{ c }}{%- endmacro %}" + each("{{ turn(m.role, m.content) }}"),
    "thinking": each("{{ m.content.split('</think>')[-1] if not loop.last else m.content }}|"),
    "defined": "{{ tools is defined }}{{ documents is defined }}{{ enable_thinking is defined }}",
    "special tokens": "{{ bos_token }}" + each("{{ m.content }}{{ eos_token }}") + "{{ unk_token }}{{ pad_token }}",
}


@pytest.fixture(scope="module")
def tokenizer(bundled_model):
    return AutoTokenizer.from_pretrained(bundled_model)


@pytest.fixture(scope="module")
def chat_templates(tokenizer):
    names = {f"named {name}": find_template(name).chat_template for name in template_names()}
    return {"own": tokenizer.chat_template, **names, **HABITS}


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize(
    "extra", [{}, {"tools": TOOLS}, {"enable_thinking": False}, {"enable_thinking": True}], ids=str
)
def test_renders_as_transformers_does(tokenizer, chat_templates, conversation, extra):
    messages = CONVERSATIONS[conversation]
    for name, text in chat_templates.items():
        for wants_answer in (False, True):
            expected = tokenizer.apply_chat_template(
                messages, chat_template=text, tokenize=False, add_generation_prompt=wants_answer, **extra
            )
            ours = Renderer(text, dict(tokenizer.special_tokens_map)).render(messages, wants_answer, **extra)
            assert ours == expected, name


def test_what_lies_on_the_disk_is_enough(tokenizer, bundled_model):
    job = TrainJob(model_name_or_path=str(bundled_model))
    light, loaded = renderer_for(job), renderer_of(tokenizer, job)
    assert light.chat_template == loaded.chat_template
    for name in ("bos_token", "eos_token"):
        assert light.special_tokens[name] == loaded.special_tokens[name]


def test_templates_by_name_of_several_take_the_one_for_tools(tokenizer):
    several = {"default": "plain", "tool_use": "with tools"}
    assert Renderer(several).render(ONE) == "plain"
    assert Renderer(several).render(ONE, tools=TOOLS) == "with tools"


@pytest.mark.parametrize(
    "text",
    [
        "{{ raise_exception('no system') }}",
        "{{ messages[9].content }}",
        "{% for m in messages %}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{% set ns = namespace(_x=1) %}",
        "{{ messages[0].content + 1 }}",
        None,
    ],
)
def test_what_cannot_be_rendered_is_said(text):
    with pytest.raises(UserError) as error:
        Renderer(text).render(ONE)
    assert error.value.key == ("template_refused" if text else "template_missing")

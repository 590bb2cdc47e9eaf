"""A chat template that came with a model and means harm: refused with a sentence, within its time and memory."""

# ruff: noqa: E501, an attack is left in one line

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time

import pytest

import engine.catalog.bounded as bounded_module
from engine.catalog.rendering import Renderer, renderer_for
from engine.errors import UserError
from engine.options.jobs import DataJob
from tests.conftest import PROJECT
from tests.unit.house import code_files, imported_by

ESCAPES = {
    "the class of a text": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by a filter": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "by a map": "{{ ['']|map(attribute='__class__')|list|first }}{{ ['']|map(attribute='__class__.__mro__')|list }}",
    "by an item": "{{ messages['__class__'] }}{{ ''['__class__'] }}",
    "by a format": "{{ '{0.__class__.__mro__}'.format('') }}", "by a format map": "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "by a function": "{{ raise_exception.__globals__['__builtins__'] }}",
    "by the date": "{{ strftime_now.__globals__ }}", "by a lambda": "{{ dict.__init__.__globals__ }}",
    "by a macro": "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "by itself": "{{ self.__init__.__globals__ }}{{ self._TemplateReference__context }}",
    "by the loop": "{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}",
    "by the cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "by the joiner": "{{ joiner.__init__.__globals__.os }}", "by lipsum": "{{ lipsum.__globals__['os'].popen('id') }}",
    "by a namespace": "{% set n = namespace(__class__=1) %}{{ n.__class__ }}",
    "by a namespace's item": "{% set n = namespace({'__init__': 1}) %}{{ n.__init__.__globals__ }}",
    "by a generator": "{{ (messages|map('upper')).gi_frame.f_globals }}", "code": "{{ raise_exception.__code__.co_consts }}",
    "an include": "{% include '/etc/passwd' %}", "an import": "{% import 'os' as os %}{{ os }}",
    "an extension": "{% extends '/etc/passwd' %}", "a file": "{{ open('/etc/passwd').read() }}",
    "a module": "{{ __import__('os').system('id') }}", "an evaluation": "{{ eval('1') }}{{ exec('1') }}",
    "changing a message": "{% do messages.append(1) %}{{ messages.clear() }}",
    "the environment": "{{ environment }}{{ self.environment.globals }}{{ config.items() }}{{ request.application }}",
}  # fmt: skip
BOMBS = {
    "for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "for ever over letters": "{% set s = 'a' * 9999 %}{% for a in s %}{% for b in s %}{% for c in s %}{% endfor %}{% endfor %}{% endfor %}",
    "a huge range": "{% for i in range(10**12) %}x{% endfor %}", "a range as a list": "{{ range(10**9)|list }}",
    "a long text": "{{ 'a' * 10**10 }}", "a long list": "{{ [0] * 10**10 }}", "a long tuple": "{{ (0, 1) * 10**10 }}",
    "a big number": "{{ 9 ** (9 ** 9) }}", "another": "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "shifted": "{{ (1).__lshift__(10**10) }}", "doubling": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling by plus": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling lists": "{% set n = namespace(x=[0]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling by a block": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set b %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = b %}{% endfor %}",
    "doubling by join": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = [n.x, n.x]|join %}{% endfor %}",
    "doubling by a method": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = ','.join([n.x, n.x]) %}{% endfor %}",
    "doubling by format": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = '{0}{0}'.format(n.x) %}{% endfor %}",
    "doubling by percent": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = '%s%s' % (n.x, n.x) %}{% endfor %}",
    "doubling by the format filter": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = '%s%s'|format(n.x, n.x) %}{% endfor %}",
    "doubling by replace": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x|replace('a', 'aa') %}{% endfor %}",
    "doubling by the method replace": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x.replace('a', n.x) %}{% endfor %}",
    "doubling by translate": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x.translate({97: 'aa'}) %}{% endfor %}",
    "doubling by tojson": "{% set n = namespace(x='\"') %}{% for i in range(60) %}{% set n.x = n.x|tojson %}{% endfor %}",
    "lists in lists": "{% set n = namespace(x=['a' * 9999]) %}{% for i in range(60) %}{% set n.x = [n.x, n.x, n.x] %}{% endfor %}{{ n.x }}",
    "a wide text": "{{ 'a'|center(10**10) }}", "by a method": "{{ 'a'.ljust(10**10) }}", "zeros": "{{ '1'.zfill(10**10) }}",
    "tabs": "{{ ('\t' * 1000).expandtabs(10**9) }}", "a wide format": "{{ '{:>9999999999}'.format(1) }}",
    "a nested width": "{{ '{:{w}}'.format(1, w=10**10) }}", "a wide percent": "{{ '%9999999999d' % 1 }}",
    "a starred percent": "{{ '%*d' % (10**10, 1) }}", "a precise percent": "{{ '%.9999999999f' % 1 }}",
    "indented": "{{ messages|tojson(indent=10**9) }}", "an indent": "{{ ('a\n' * 99999)|indent(10**6) }}",
    "wrapped": "{{ ('a ' * 99999)|wordwrap(1, wrapstring='a' * 99999) }}", "batched": "{{ [1]|batch(10**10, 'x')|list }}",
    "bytes": "{{ (1).to_bytes(10**11, 'big') }}", "a sum of lists": "{{ ([[0] * 9999] * 9999)|sum(start=[]) }}",
    "own text in a loop": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "own text in a block": "{% set b %}{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}{% endset %}",
    "macros of macros": "".join(
        f"{{% macro m{n}() %}}{{{{ m{n - 1}() }}}}{{{{ m{n - 1}() }}}}{{% endmacro %}}" if n else "{% macro m0() %}x{% endmacro %}"
        for n in range(60)) + "{{ m59() }}",
    "without an end": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "a loop in itself": "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
    "a date of a billion letters": "{{ strftime_now('%999999999d') }}", "a long date": "{{ strftime_now('%A' * 99999) }}",
    "brackets": "{{ " + "(" * 5000 + ")" * 5000 + " }}", "loops within loops": "{% for a in [1] %}" * 300 + "{% endfor %}" * 300,
    "no division": "{{ 1 // 0 }}{{ 1 % 0 }}", "a long template": "x" * 1_000_001, "never closed": "{% for x in",
    "lazily": "{{ (range(99999)|map('string')|map('center', 9999))|join }}", "sorted": "{{ (['a' * 9999] * 99999)|sort|join }}",
}  # fmt: skip
QUESTION = [{"role": "user", "content": "Who?"}]
WITHIN = bounded_module.MOST_SECONDS


@pytest.fixture(autouse=True)
def short(monkeypatch, little_memory):
    """A tenth of the time, so that what would go on for ever ends soon; and no memory beyond two more gigabytes."""
    monkeypatch.setattr(bounded_module, "MOST_SECONDS", 1.0)


@pytest.mark.parametrize("why", ESCAPES)
def test_no_way_out_of_the_sandbox(why):
    """Refused, or rendered to nothing: in no case is anything of Python's insides named."""
    try:
        text = Renderer(ESCAPES[why]).render(QUESTION)
    except UserError as error:
        assert error.key == "template_refused" and error.text("en")
        return
    for sign in ("<class", "<function", "<built-in", "<module", "<frame", "root:", "uid=", "object at 0x", "Jinja"):
        assert sign not in text, text[:300]


@pytest.mark.parametrize("why", BOMBS)
def test_no_rendering_without_an_end(why):
    begun = time.thread_time()
    with pytest.raises(UserError) as caught:
        Renderer(BOMBS[why]).render(QUESTION)
    assert caught.value.key == "template_refused" and caught.value.text("zh")
    assert not isinstance(caught.value.__cause__, MemoryError), "it got as far as the memory"
    assert time.thread_time() - begun < 30


def test_a_long_conversation_is_no_bomb(monkeypatch):
    """A hundred times what a model can read."""
    monkeypatch.setattr(bounded_module, "MOST_SECONDS", WITHIN)
    template = (
        "{% for message in messages %}{% if message['content'] is string and '</think>' in message.content %}"
        "{% set content = message.content.split('</think>')[-1].lstrip('\\n') %}{% else %}{% set content = message.content "
        "%}{% endif %}{{ '<|im_start|>' + message.role + '\\n' + content|trim + '<|im_end|>\\n' }}"
        "{% if loop.last or not loop.nextitem %}{{ loop.length }}{% endif %}{% endfor %}"
    )
    long = [{"role": "user", "content": "</think>" + "word " * 20_000} for _ in range(60)]
    text = Renderer(template).render(long)
    assert text.count("<|im_start|>") == 60 and text.endswith("60") and len(text) > 5_900_000
    many = [{"role": "user", "content": "hi"} for _ in range(50_000)]
    assert Renderer(template).render(many).endswith("50000")


@pytest.mark.parametrize("why", ["for ever", "the class of a text", "doubling"])
def test_in_a_downloaded_model_as_the_page_shows_it(tmp_path, why):
    """Read from its folder, in every place where a template may lie."""
    bad = {**BOMBS, **ESCAPES}[why]
    for name, content in (
        ("tokenizer_config.json", json.dumps({"chat_template": bad})),
        ("tokenizer_config.json", json.dumps({"chat_template": [{"name": "default", "template": bad}]})),
        ("chat_template.jinja", bad),
    ):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text("{}")
        (folder / name).write_text(content)
        job = DataJob.from_values({"model_name_or_path": str(folder)})
        with pytest.raises(UserError) as caught:
            renderer_for(job).render(QUESTION)
        assert caught.value.key == "template_refused"


def test_there_is_one_place_that_renders():
    """No file asks transformers, llama.cpp or jinja itself to render: chat, training, GGUF and the API go one way."""
    asked = [
        f"{path}:{node.lineno}"
        for path in code_files("engine", "webui", "terminal")
        for node in ast.walk(ast.parse((PROJECT / path).read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in ("apply_chat_template", "create_chat_completion", "from_string")
    ]
    assert [place.partition(":")[0] for place in asked] == ["engine/catalog/rendering.py"]
    jinja = {path.parts for path in code_files() if any(name.startswith("jinja2") for name in imported_by(path))}
    catalog, work = ("engine", "catalog"), ("engine", "work")
    assert jinja == {(*catalog, "bounded.py"), (*catalog, "rendering.py"), (*work, "modelfile.py")}


def test_a_process_that_chats_refuses_it_with_a_sentence(tiny_model, tmp_path):
    """The whole way of the command line, which the page's chat and the API share: no traceback, exit code, a sentence."""
    import shutil

    folder = tmp_path / "hostile"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(ESCAPES["the class of a text"])
    code = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from engine.errors import UserError
from engine.options.jobs import ChatJob
from engine.work.load import load_tokenizer, render_prompt
job = ChatJob.from_values({{"model_name_or_path": {str(folder)!r}}})
try:
    print(render_prompt(load_tokenizer({str(folder)!r}, job), [{{"role": "user", "content": "hi"}}], job))
except UserError as error:
    print("REFUSED", error.text("en"))
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "REFUSED" in answer.stdout, answer.stderr[-2000:]

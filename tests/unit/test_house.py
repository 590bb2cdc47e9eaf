"""Who may import whom, what is loaded to show the page or a help text, and that every sentence in use exists."""

from __future__ import annotations

import ast
import re
import string
import subprocess
import sys
from pathlib import Path

import pytest

from engine.catalog.packages import MODULES
from engine.words import all_words
from tests.unit.house import PROJECT, code_files, first_arguments, imported_by, module_name, project_files, tree_of

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "modelscope", "gguf", "llama_cpp")
STANDARD = set(sys.stdlib_module_names)
OPTIONS = {"pydantic", "pydantic_core", "typing_extensions", "yaml", "engine.errors", "engine.words", "engine.options"}
CATALOG = OPTIONS | {"engine.catalog"}
RUNS = CATALOG | {"engine.runs", "filelock", "psutil", "matplotlib"}

MAY_IMPORT = {
    "engine/options": OPTIONS,
    "engine/catalog": CATALOG | {"jinja2", "psutil", "pyarrow", "ollama", "httpx"},
    "engine/runs": RUNS,
    "terminal": RUNS | {"terminal"},
    "webui": RUNS | {"webui", "gradio", "starlette"},
}
"""Beside the standard library. ``engine/work`` may import everything but the page."""

LIGHT_ROOMS = tuple(MAY_IMPORT)


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_a_light_room_imports_only_what_it_may(room):
    strangers = [
        f"{path} imports {name}"
        for path in code_files(room)
        for name in imported_by(path)
        if name.split(".")[0] not in STANDARD and not _is_within(name, MAY_IMPORT[room])
    ]
    assert strangers == []


def test_the_engine_does_not_know_who_looks_at_it():
    upward = [
        f"{path} imports {name}"
        for path in code_files("engine")
        for name in imported_by(path)
        if _is_within(name, {"gradio", "webui", "terminal", "app"})
    ]
    assert upward == []


@pytest.mark.parametrize("name", ["matplotlib", "ollama", "httpx"])
def test_what_loads_slowly_is_imported_only_where_it_is_used(name):
    early = [
        str(path)
        for path in code_files(*LIGHT_ROOMS)
        for node in tree_of(path).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        if re.match(rf"(import|from) {name}\b", ast.unparse(node))
    ]
    assert early == [], f"{name} takes half a second to load: import it inside the function that needs it"


def test_a_light_room_loads_nothing_heavy():
    modules = [module_name(path) for path in code_files("engine/options", "engine/catalog", "engine/runs", "terminal")]
    assert len(modules) > 20
    loaded = _loaded_after("; ".join(f"import {name}" for name in modules))
    assert loaded & {*HEAVY, "gradio", "matplotlib", "numpy", "pyarrow", "ollama", "httpx"} == set()


@pytest.mark.parametrize("path", code_files("webui"), ids=str)
def test_a_file_of_the_page_has_no_text_of_its_own(path):
    """A label, a placeholder or a button's text is looked up, never written down."""
    shown = ("label", "info", "placeholder", "value", "title")
    texts = [
        f"{path}:{node.lineno}: {word.value.value!r}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg in shown and isinstance(word.value, ast.Constant)
        if re.search(r"[A-Za-z]{2} ", str(word.value.value))
    ]
    assert texts == []


@pytest.mark.parametrize("path", [*code_files("webui", "terminal", "engine/options"), Path("app.py")], ids=str)
def test_no_sentence_stands_in_the_code(path):
    """What a person reads there is looked up; an exception of ours and a docstring may speak English."""
    tree = tree_of(path)
    silent = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Raise) for part in ast.walk(node)}
    silent |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    sentences = [
        f"{path}:{node.lineno}: {node.value!r}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent
        if re.search(r"[A-Za-z]{2,} [A-Za-z']{2,} [A-Za-z]{2,}", node.value)
        if not re.search(r"[<>{};=$]|Noto Sans", node.value)  # HTML, JavaScript, fonts
    ]
    assert sentences == []


def test_building_the_page_loads_no_torch():
    loaded = _loaded_after("import webui.page; webui.page.build_page()")
    assert "gradio" in loaded
    assert loaded & set(HEAVY) == set()


@pytest.mark.parametrize(
    "command", ["", "train", "export", "gguf", "ollama", "chat", "api", "runs", "data", "env", "password", "webui"]
)
def test_a_help_text_loads_neither_torch_nor_gradio(command):
    code = f"""
import runpy, sys
sys.argv = ["app.py", *{command.split()!r}, "--help"]
try:
    runpy.run_path("app.py", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""
    assert _loaded_after(code) & {*HEAVY, "gradio", "matplotlib", "ollama"} == set()


def test_importing_touches_nothing(tmp_path):
    """No file written, no environment changed, no logging set up by importing any module of the light rooms."""
    modules = [module_name(path) for path in code_files("engine/options", "engine/catalog", "engine/runs", "terminal")]
    code = f"""
import importlib, logging, os, pathlib
environment = dict(os.environ)
for name in {modules!r}:
    importlib.import_module(name)
assert dict(os.environ) == environment
assert not logging.getLogger().handlers
assert list(pathlib.Path(".").iterdir()) == []
"""
    _python(code, folder=tmp_path)


def test_every_error_in_use_has_its_sentence():
    raised = first_arguments("UserError", "ApiError", "Problem", "warn", "_problem")
    assert len(raised) > 20
    missing = [f"{place}: errors.{key}" for place, key in raised if f"errors.{key}" not in all_words("en")]
    assert missing == []


def test_every_fact_that_a_sentence_shows_is_given():
    """``UserError("x", path=…)`` and ``Problem("x", option, {"path": …})`` fill every placeholder of ``errors.x``."""
    incomplete = []
    for path in code_files():
        for node in ast.walk(tree_of(path)):
            key, facts = _facts_of(node)
            if key and f"errors.{key}" in all_words("en"):
                missing = placeholders(all_words("en")[f"errors.{key}"]) - facts
                incomplete += [f"{path}:{node.lineno}: errors.{key} shows {name}" for name in sorted(missing)]
    assert incomplete == []


def test_every_phase_in_use_has_its_words():
    named = first_arguments("phase")
    missing = [f"{place}: phases.{name}" for place, name in named if f"phases.{name}" not in all_words("en")]
    assert missing == []


def test_every_text_looked_up_exists():
    missing = [f"{place}: {key}" for place, key in first_arguments("words") if key not in all_words("en")]
    assert missing == []


def test_a_file_holds_one_idea():
    too_long = {str(path): _line_count(path) for path in code_files() if _line_count(path) > 400}
    assert too_long == {}


def test_a_file_says_what_it_is_for():
    silent = [str(path) for path in code_files() if not ast.get_docstring(tree_of(path))]
    assert silent == []


def test_no_error_is_swallowed():
    swallowed = [
        f"{path}:{node.lineno}"
        for path in code_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
    ]
    assert swallowed == []


def test_no_shell_and_no_unfinished_places():
    found = []
    for path in code_files():
        text = (PROJECT / path).read_text(encoding="utf-8")
        found += [f"{path}: {word}" for word in re.findall(r"shell=True|os\.system|\bTODO\b|\bFIXME\b|\bXXX\b", text)]
    assert found == []


def test_it_runs_on_python_3_10():
    """Names that the standard library has only since 3.11; the grammar itself is checked by parsing as 3.10."""
    later = {
        "typing.Self", "typing.assert_never", "typing.LiteralString", "typing.Never", "typing.Required",
        "typing.NotRequired", "typing.Unpack", "typing.override", "typing.assert_type", "typing.reveal_type",
        "enum.StrEnum", "datetime.UTC", "tomllib", "contextlib.chdir", "hashlib.file_digest", "asyncio.timeout",
        "asyncio.TaskGroup", "itertools.batched",
    }  # fmt: skip
    found = [f"{path}: {name}" for path in code_files() for name in imported_by(path) & later]
    for path in code_files():
        found += [f"{path}: {name}" for name in later if re.search(rf"\b{re.escape(name)}\b", _source(path))]
    assert found == []


def test_data_and_words_hold_no_code():
    scripts = [path for path in project_files() if path.suffix == ".py"]
    assert [str(path) for path in scripts if path.parts[0] in ("data", "locales")] == []


def test_what_is_imported_is_required():
    """requirements.txt names every package that the program imports, each with a lower bound and a reason."""
    lines = [line for line in (PROJECT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.match(r"[\w-]+>=[\d.]+(,<\d+)?\s+# \w", line) for line in lines)
    required = {re.match(r"[\w-]+", line)[0].lower() for line in lines}
    package = {"yaml": "pyyaml", "pydantic_core": "pydantic", "typing_extensions": "pydantic", "starlette": "gradio",
               "fastapi": "gradio", "uvicorn": "gradio", "tokenizers": "transformers", "PIL": "matplotlib",
               "httpx": "ollama"}  # fmt: skip
    optional = {"llama_cpp", "swanlab", *MODULES.values()}  # named where they are missing, with how to get them
    ours = {"engine", "webui", "terminal", "app", "environment"}
    imported = {name.split(".")[0] for path in code_files() for name in imported_by(path)}
    outside = imported - STANDARD - optional - ours
    assert {name for name in outside if package.get(name, name).lower() not in required} == set()


def placeholders(text: str) -> set[str]:
    """``{"path", "line"}`` of ``"{path}: line {line}"``."""
    return {re.split(r"[.\[]", name)[0] for _, name, _, _ in string.Formatter().parse(text) if name}


def _facts_of(node: ast.AST) -> tuple[str | None, set[str]]:
    """Key and names of the facts of a call that makes an error, where both can be read off the code."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return None, set()
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    if called in ("UserError", "warn") and all(word.arg for word in node.keywords):
        return node.args[0].value, {word.arg for word in node.keywords}
    if called == "Problem":
        facts = node.args[2] if len(node.args) > 2 else {word.arg: word.value for word in node.keywords}.get("facts")
        if facts is None:
            return node.args[0].value, set()
        if isinstance(facts, ast.Dict) and all(isinstance(key, ast.Constant) for key in facts.keys):
            return node.args[0].value, {key.value for key in facts.keys}
    return None, set()


def _is_within(name: str, allowed: set[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


def _source(path) -> str:
    return (PROJECT / path).read_text(encoding="utf-8")


def _line_count(path) -> int:
    return len(_source(path).splitlines())


def _loaded_after(code: str) -> set[str]:
    """Top-level names of all modules loaded once ``code`` has run in a Python of its own."""
    code += "\nimport sys\nprint('\\nLOADED', *{name.split('.')[0] for name in sys.modules})"
    return set(_python(code).rsplit("LOADED", 1)[1].split())


def _python(code: str, folder=PROJECT) -> str:
    answer = subprocess.run(
        [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(PROJECT)!r})\n{code}"],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout

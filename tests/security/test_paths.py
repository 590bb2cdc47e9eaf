"""Paths that a browser names: whatever is typed into whichever field, nothing outside of the page's folders is touched.

What is opened, listed or started is told by Python itself (``sys.addaudithook``), whoever of the program does it.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import pytest
from starlette.requests import Request

from engine.errors import Refused, UserError
from engine.options.jobs import JOBS, TrainJob
from engine.options.option import about
from engine.options.serve import Serve
from webui.access import allowed as rules
from webui.access.allowed import NAMED, WRITTEN, Allowed, allow, allowed_by, allowed_path, allowed_values
from webui.page import build_page

PATHS = {name for job in JOBS.values() for name, field in job.model_fields.items() if about(field, "control") == "path"}
TYPED = PATHS | {*NAMED, "validation", "model_name"}
"""Fields that a path can be typed into, by the option behind them."""
STARTED = ("subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork")
WATCHED = (
    "open", "os.listdir", "os.scandir", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink",
    "os.truncate", "os.chmod", "shutil.copyfile", "shutil.rmtree",
)  # fmt: skip
_watch: list[tuple[str, str]] | None = None
_outside = ""


def _hook(event, arguments):
    if _watch is None:
        return
    if event in STARTED:
        _watch.append((event, str(arguments[:2])))
    for each in arguments[:2] if event in WATCHED else ():
        if isinstance(each, str | bytes | os.PathLike) and os.path.realpath(os.fsdecode(each)).startswith(_outside):
            _watch.append((event, os.fsdecode(each)))


sys.addaudithook(_hook)


@pytest.fixture(scope="module")
def place(tmp_path_factory, bundled_model):
    """A page's working directory; beside it a folder that holds whatever a field could ask for."""
    global _outside
    top = tmp_path_factory.mktemp("place")
    inside, outside = top / "inside", top / "outside"
    inside.mkdir()
    outside.mkdir()
    _outside = str(outside)
    rows = [{"instruction": "canary", "output": "bird"}] * 3
    (outside / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (outside / "dataset_info.json").write_text('{"rows": {"file_name": "rows.json"}}', encoding="utf-8")
    (outside / "rows_test").mkdir()
    for name in ("config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"):
        (outside / name).write_bytes((bundled_model / name).read_bytes())
    (outside / "adapter_config.json").write_text('{"peft_type": "LORA"}', encoding="utf-8")
    (outside / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    (outside / "words.yaml").write_text("<a>: first", encoding="utf-8")
    for name in ("data", "models"):
        (inside / name).symlink_to(Path(__file__).resolve().parents[2] / name, target_is_directory=True)
    (inside / "link").symlink_to(outside, target_is_directory=True)
    (inside / "file.json").symlink_to(outside / "rows.json")
    (inside / ".hidden").mkdir()
    (inside / ".hidden" / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return inside


@contextmanager
def refusal(name):
    with pytest.raises(UserError) as refused:
        yield
    assert refused.value.key == f"access.{name}"


def attacks(place: Path) -> dict[str, str]:
    outside = place.parent / "outside"
    return {
        "absolute": str(outside), "a file": str(outside / "rows.json"), "up": "../outside", "up and down":
        "data/../../outside/rows.json", "up, written otherwise": "data/./.././../outside", "backslashes": "..\\outside",
        "both slashes": "data\\..\\..\\outside", "doubled": "....//....//outside/../../outside", "a link": "link",
        "a link to a file": "file.json", "below a link": "link/rows.json", "slashes": f"/{outside}", "address":
        f"file://{outside}/rows.json", "an address of another machine": "http://127.0.0.1:9/rows.json", "NUL":
        f"{outside}/rows.json\0.txt", "NUL first": f"data\0{outside}", "line break": f"data\n{outside}", "dash":
        "-rf", "option": "--output_dir=/", "somebody's home": "~root/rows.json", "nobody's home": "~nobody-here/rows",
        "own memory": "/proc/self/environ", "system": "/etc/passwd", "device": "/dev/zero", "hidden":
        ".hidden/rows.json", "root": "/", "too long": "a" * 300,
        "much too long": "a/" * 3000, "blanks": f"  {outside}/rows.json ", "above by dot": f"{place}/../outside",
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(place):
    before = Path.cwd()
    os.chdir(place)
    try:
        allow(Allowed((place, *(Path(place / name).resolve() for name in ("data", "models")))))
        yield build_page()
    finally:
        allow(None)
        os.chdir(before)


@pytest.fixture
def seen(place):
    """What was touched outside, or started, while this test ran."""
    global _watch
    _watch = []
    yield _watch
    _watch = None


def _option(component) -> str:
    """The option that a field on the page stands for."""
    name = component.elem_id or ""
    prefixes = ("data-", "eval-", "chat-", "gguf-", "export-", "ollama-")
    return next((name.removeprefix(each) for each in prefixes if name.startswith(each)), name)


def _fields(page):
    """Each event with each of its inputs into which a path can be typed."""
    taken = set()
    for event in page.fns.values():
        if event.fn and not event.collects_event_data:
            for index, component in enumerate(event.inputs):
                same = (event.fn.__qualname__, component._id)
                is_typed = isinstance(component, gr.Textbox | gr.Dropdown) and _option(component) in TYPED
                if is_typed and same not in taken:
                    taken.add(same)
                    yield event, index


def _answers(event, values):
    """All that an event's function says to somebody who sends these values, whatever gradio would make of them."""
    given, left = [], list(values)
    for each in inspect.signature(event.fn).parameters.values():
        if "Request" in str(each.annotation):
            given.append(gr.Request(Request({"type": "http", "headers": [], "session_hash": "s"})))
        elif each.kind is each.VAR_POSITIONAL:
            given, left = [*given, *left], []
        elif left:
            given.append(left.pop(0))
    said = event.fn(*given, *left)
    return str(list(said) if inspect.isgenerator(said) else said)


def _values(event, index, text):
    """An event's inputs as a fresh page has them, with one of them changed; with what is asked for beside it."""
    values = [copy.deepcopy(each.value) for each in event.inputs]
    for at, each in enumerate(event.inputs):
        if isinstance(each, gr.Textbox):
            values[at] = values[at] or ("Hi" if each.elem_id in ("side-question", "prompts-text", "data-name") else "")
        if isinstance(each, gr.Dropdown) and each.multiselect:
            values[at] = values[at] or []
        if _option(each) == "dataset" and _option(event.inputs[index]) == "dataset_dir":
            values[at] = ["rows"] if each.multiselect else "rows"
    values[index] = [text] if getattr(event.inputs[index], "multiselect", False) else text
    return values


def test_no_field_of_any_event_leads_outside(page, place, seen):
    asked, wrong = Counter(), []
    for event, index in _fields(page):
        option, name = _option(event.inputs[index]), event.fn.__qualname__
        for kind, text in attacks(place).items():
            before = len(seen)
            try:
                said = _answers(event, _values(event, index, text))
            except Exception:  # a fault of the program: told beside what it touched
                said = traceback.format_exc()
                wrong.append((name, option, kind, said))
            asked[option] += 1
            if len(seen) > before:
                wrong.append((name, option, kind, seen[before:]))
            if "canary" in said:
                wrong.append((name, option, kind, "told what stands there"))
    assert not wrong, "\n".join(str(each)[-300:] for each in wrong[:8])
    assert {"dataset_dir", "dataset", "model_name_or_path", "output_dir", "export_dir", "outfile", "gguf", "task",
            "tokenized_path", "ref_model", "imatrix", "resume_from_checkpoint"} <= set(asked)  # fmt: skip
    assert sum(asked.values()) > 1000


@pytest.mark.parametrize("option", sorted(PATHS | set(NAMED)))
def test_no_option_of_any_job_takes_a_path_that_leads_outside(option, page, place, seen):
    for job in (job for job in JOBS.values() if option in job.model_fields):
        for kind, text in attacks(place).items():
            for value in (text, [text], ["data/identity.json", text], f"data/identity.json,{text}"):
                with pytest.raises(Refused) as refused:
                    allowed_values(job, {option: value})
                assert [each.option for each in refused.value.problems] == [option], kind
                assert refused.value.problems[0].text("ko").strip()
    assert not seen


def test_what_lies_inside_is_taken(page, place):
    names = [
        "data",
        "data/identity.json",
        "models/SmolLM2-135M-Instruct",
        "saves/new/run",
        "new.gguf",
        "owner/name-1.5B",
    ]
    for text in (*names, "Qwen/Qwen2.5-0.5B-Instruct", str(place / "saves"), "a..b", "имя", "模型", "", None):
        assert allowed_path(text, is_written=True) == Path((text or ".").strip())
    said = {"dataset": "identity", "lora_rank": "../8"}
    assert allowed_values(TrainJob, said) == said


def test_a_run_elsewhere_that_left_its_link_may_be_read(page, place):
    run = place.parent / "elsewhere"
    run.mkdir()
    with refusal("path_outside"):
        allowed_path(str(run))
    (place / "saves" / "elsewhere").mkdir(parents=True)
    (run / "state.json").write_text("{}", encoding="utf-8")
    (place / "saves" / "elsewhere" / "it").symlink_to(run, target_is_directory=True)
    assert allowed_path(str(run / "checkpoint-5")) == run / "checkpoint-5"


def test_the_program_itself_is_read_but_never_written(monkeypatch):
    project = rules.PROGRAM
    monkeypatch.setattr(rules, "_allowed", Allowed((project, project.parent)))
    for name in (
        "app.py",
        "engine",
        "webui/page.py",
        "locales/en.yaml",
        "tests/new",
        ".",
        "..",
        "Makefile",
        "terminal",
    ):
        path = str((project / name).resolve())
        assert allowed_path(path) == Path(path)
        with refusal("path_program"):
            allowed_path(path, is_written=True)
    for name in ("saves/x", "data/x.json", "models/mine", "outputs", "merged"):
        assert allowed_path(str(project / name), is_written=True)
    assert {"output_dir", "export_dir", "outfile"} <= WRITTEN <= PATHS


def test_the_file_of_passwords_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "accounts.json").write_text("ada:owner:scrypt$", encoding="utf-8")
    (tmp_path / "link.json").symlink_to("accounts.json")
    monkeypatch.setattr(rules, "_allowed", allowed_by(Serve(auth_file="accounts.json"), has_door=True))
    for name in ("accounts.json", "link.json", "./accounts.json", str(tmp_path / "accounts.json")):
        with refusal("path_hidden"):
            allowed_path(name)


def test_home_is_no_root_where_others_come_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    (tmp_path / "more").mkdir()
    assert allowed_by(Serve(), has_door=False).roots == (tmp_path, tmp_path.parent)
    assert allowed_by(Serve(), has_door=True).roots == (tmp_path,)
    assert allowed_by(Serve(roots=("more", str(tmp_path / "more"))), has_door=True).roots == (
        tmp_path,
        tmp_path / "more",
    )
    with refusal("root_missing"):
        allowed_by(Serve(roots=("gone",)), has_door=True)


def test_code_of_models_runs_only_where_the_start_allows_it_and_nobody_else_comes_in(monkeypatch):
    trusting = Serve(trust_remote_code=True)
    with refusal("remote_code_shared"):
        allowed_by(trusting, has_door=True)
    for is_allowed in (False, True):
        monkeypatch.setattr(rules, "_allowed", Allowed((Path.cwd(),), remote_code=is_allowed))
        assert allowed_values(TrainJob, {}) == ({"trust_remote_code": True} if is_allowed else {})


@pytest.mark.parametrize("name", sorted({"dataset_dir", "dataset", "model_name_or_path", "output_dir", "ref_model"}))
def test_a_file_of_settings_leads_nowhere_either(page, place, seen, tmp_path, name):
    load = next(event for event in page.fns.values() if event.fn and event.fn.__qualname__ == "Settings._on_load")
    for kind, text in attacks(place).items():
        for key in (name, name.replace("_", "-")):
            file = tmp_path / "settings.yaml"
            file.write_text(json.dumps({key: text}), encoding="utf-8")
            said = load.fn("en", str(file), *[each.value for each in load.inputs[2:]])[0]
            assert 'role="alert"' in said and "canary" not in said, kind
            assert not seen, kind


def test_what_a_browser_kept_leads_nowhere_either(page, place, seen):
    restore = next(event for event in page.fns.values() if event.fn and event.fn.__qualname__ == "Kept._restore")
    for kind, text in attacks(place).items():
        kept = {"train": {name: [text] if name in ("dataset", "adapter_name_or_path") else text
                          for name in ("dataset", "dataset_dir", "model_name_or_path", "ref_model")}}  # fmt: skip
        said = restore.fn(gr.Request(Request({"type": "http", "headers": []})), json.dumps(kept), "en")
        assert not seen, kind
        assert "canary" not in str(said)

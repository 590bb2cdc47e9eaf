"""Every way in which a run can fail has a kind, a sentence and advice; a new error without a kind fails here."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from engine.options.jobs import TrainJob
from engine.runs.cause import LOG_LINES, cause_of, kind_of, kinds, last_lines
from engine.runs.folder import SAVES, Folder
from engine.runs.record import update_state, write_job
from engine.words import LANGUAGES, all_words, has_words
from terminal.runs import runs
from terminal.watch import stay_with
from tests.unit.house import PROJECT, code_files, tree_of
from tests.unit.test_house import placeholders

KINDS = {"memory", "killed", "disk", "download", "data", "precision", "model", "options", "machine", "bug"}
FOR_PEOPLE = ("precision.",)
"""Sentences below errors that are reasons of a choice, and no errors."""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_run(key: str | None = None, /, *, kind: str = "train", status: str = "failed", **facts) -> Folder:
    folder = Folder(SAVES / "m" / "lora" / f"{kind}_1")
    folder.path.mkdir(parents=True, exist_ok=True)
    write_job(folder, TrainJob(dataset=("identity",)), "en")
    error = {"key": key, "facts": facts} if key else None
    update_state(folder, kind=kind, status=status, started_at=1.0, finished_at=2.0, error=error)
    return folder


def errors_in_use() -> dict[str, str]:
    """Error key → a place where work or catalog say it, warnings not counted."""
    found = {}
    for path in code_files("engine/work", "engine/catalog"):
        warned = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("warn", "phase") and node.args:
                warned |= {id(each) for each in ast.walk(node.args[0])}
        for node in ast.walk(tree_of(path)):
            said = node.value if isinstance(node, ast.Constant) and id(node) not in warned else None
            if isinstance(said, str) and has_words(f"errors.{said}") and not said.startswith(FOR_PEOPLE):
                found.setdefault(said, f"{path}:{node.lineno}")
    return found


def test_every_error_in_use_has_a_kind():
    used = errors_in_use()
    assert len(used) > 150
    missing = [f"{place}: {key}" for key, place in used.items() if key not in kinds()]
    assert missing == [], "put them into engine/runs/causes.yaml"


def test_every_row_that_can_be_wrong_has_a_kind_also_where_its_key_is_put_together():
    rows = [key.removeprefix("errors.") for key in all_words("en") if key.startswith("errors.dataset_row.")]
    assert {kinds().get(key) for key in rows} == {"data"}


def test_every_kind_is_of_an_error_that_there_is():
    assert [key for key in kinds() if not has_words(f"errors.{key}")] == []
    text = (PROJECT / "engine" / "runs" / "causes.yaml").read_text(encoding="utf-8")
    assert set(kinds().values()) == KINDS
    listed = [
        word.strip("-, []") for line in text.splitlines() if line[:1] != "#" for word in line.split("#")[0].split()
    ]
    keys = [word for word in listed if word and not word.endswith(":")]
    assert len(keys) == len(set(keys)), "an error of two kinds"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_cause_is_told_in_every_language(language):
    folder = a_run()
    for key, kind in kinds().items():
        names = placeholders(all_words("en")[f"errors.{key}"])
        update_state(folder, error={"key": key, "facts": dict.fromkeys(names, "here")})
        cause = cause_of(folder)
        assert cause.kind == kind
        assert cause.label(language) and cause.advice(language)
        assert not names or "here" in cause.sentence(language), key


@pytest.mark.parametrize(
    ("detail", "kind"),
    [
        ("KeyError: 'x'", "bug"),
        ("RuntimeError: CUDA error: device-side assert triggered", "machine"),
        ("ConnectionError: HTTPSConnectionPool(host='huggingface.co')", "download"),
        ("PermissionError: [Errno 13] Permission denied: 'x'", "disk"),
        ("RuntimeError: \"addmm_impl_cpu_\" not implemented for 'Half'", "precision"),
        ("ImportError: libcudart.so.12: cannot open shared object file", "machine"),
    ],
)
def test_what_nobody_foresaw_is_told_by_its_text(detail, kind):
    assert kind_of({"key": "unexpected", "facts": {"detail": detail}}) == kind
    several = {"rank": 1, "processes": 2, "cause": "…", "cause_key": "unexpected", "detail": detail}
    assert kind_of({"key": "rank_failed", "facts": several}) == kind


def test_of_several_processes_the_cause_is_that_of_the_one_that_failed():
    assert kind_of({"key": "rank_failed", "facts": {"cause_key": "disk_full"}}) == "disk"
    assert kind_of({"key": "rank_failed", "facts": {}}) == "bug"


def test_a_run_that_is_gone_without_a_word_was_killed():
    cause = cause_of(a_run(status="running"))
    assert cause.kind == "killed" and cause.can_resume
    assert "runs resume m/lora/train_1" in cause.advice("en")


def test_and_if_the_system_has_counted_it_memory_was_what_it_lacked(monkeypatch):
    monkeypatch.setattr("engine.runs.killed.kills_for_memory", lambda: 3)
    folder = a_run(status="running")
    update_state(folder, kills_before=2)
    assert cause_of(folder).kind == "memory"
    update_state(folder, kills_before=3)
    assert cause_of(folder).kind == "killed"


@pytest.mark.parametrize("status", ["done", "stopped"])
def test_what_has_not_failed_has_no_cause(status):
    assert cause_of(a_run(status=status)) is None


def test_an_error_of_another_version_is_shown_as_it_is():
    for key in ("of_the_future", "out_of_memory"):  # unknown; known, with other facts
        cause = cause_of(a_run(key, sun="high", detail="why"))
        assert all("why" in cause.sentence(language) for language in LANGUAGES)
    assert cause_of(a_run("of_the_future")).kind == "bug"


def test_advice_for_training_is_not_given_to_others():
    facts = dict.fromkeys(("asked", "free", "total", "used", "device", "detail"), "1 GB")
    assert "runs retry" in cause_of(a_run("out_of_memory_early", **facts)).advice("en")
    assert cause_of(a_run("out_of_memory_early", kind="export", **facts)).advice("en") == ""
    assert "resume" not in cause_of(a_run("disk_full", kind="export", detail="")).advice("en")


def test_a_name_with_a_blank_can_be_typed_as_it_is_shown():
    folder = Folder(SAVES / "my model" / "lora" / "one")
    folder.path.mkdir(parents=True)
    write_job(folder, TrainJob(dataset=("identity",)), "en")
    update_state(folder, kind="train", status="failed", error={"key": "disk_full", "facts": {"detail": ""}})
    assert "runs resume 'my model/lora/one'" in cause_of(folder).advice("en")


@pytest.mark.parametrize("status", ["failed", "running"])
def test_the_terminal_tells_it_at_the_end(status, capsys):
    folder = a_run("disk_full" if status == "failed" else None, status=status, detail="x")
    folder.log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert last_lines(folder).splitlines() == [f"line {number}" for number in range(100 - LOG_LINES, 100)]
    assert stay_with(folder, "en", stop_on_interrupt=False) == 1
    watched = capsys.readouterr().err
    assert runs(["show", "train_1"], "en") == 0
    shown = capsys.readouterr().out
    for text in (watched, shown):
        assert ("Cause: the disk." if status == "failed" else "Cause: its process was killed.") in text
        assert "line 99" in text and "line 87\n" not in text and "runs resume" in text and str(folder.log) in text


def test_the_page_tells_it_too_and_what_the_log_says_is_no_html():
    from webui.cause import cause_notice

    folder = a_run("disk_full", detail="<b>")
    folder.log.write_text("<script>alert(1)</script>\n")
    html = cause_notice(folder, "en")
    assert 'data-cause="disk"' in html and "the disk" in html and "runs resume" in html
    assert "<script>" not in html and "&lt;script&gt;" in html and "(&lt;b&gt;)" in html
    assert cause_notice(a_run(status="done"), "en") == "" and cause_notice(Folder(Path("gone")), "en") == ""


def test_the_end_is_told_with_its_time():
    from engine.runs.progress import watch
    from engine.words import words
    from webui import live

    folder = a_run(status="done")
    folder.events.write_text('{"phase": "ready"}\n')  # the last that its worker said it was doing
    html = live.card(folder, watch(folder), "en", "")
    assert live.moment(2.0) in html and "ended" in html and words("phases.ready") not in html
    json.dumps(html)

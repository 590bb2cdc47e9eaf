"""Uploading a merged model: huggingface_hub's own client against a hub served here; ModelScope's by name."""

from __future__ import annotations

import http.server
import inspect
import json
from pathlib import Path

import pytest

from engine.errors import UserError
from engine.options.jobs import ExportJob
from engine.runs.folder import Folder
from engine.runs.record import Recorder, StopRequested
from engine.work import hub_upload, upload
from tests.unit.hub_server import served_as_hubs

TOKEN = "hf_" + "s" * 30
FILES = {"config.json": b"{}", "README.md": b"# Merged", "model.safetensors": b"w" * 200_000}


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few answers of huggingface.co that an upload takes."""

    made: list[dict] = []
    stored: dict[str, bytes] = {}
    commits: list[list[dict]] = []
    tokens: set[str] = set()
    refuses = False

    def log_message(self, *args) -> None:
        return

    def do_POST(self) -> None:
        given = self.rfile.read(int(self.headers["Content-Length"]))
        self.tokens.add(self.headers.get("Authorization", ""))
        host = f"http://{self.headers['Host']}"
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.made.append(json.loads(given))
            self.answer({"url": f"{host}/me/tiny"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(given)["files"]]
            kinds = {name: "lfs" if name.endswith(".safetensors") else "regular" for name in names}
            self.answer({"files": [{"path": n, "uploadMode": k, "shouldIgnore": False} for n, k in kinds.items()]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(given)["objects"]
            places = [{**each, "actions": {"upload": {"href": f"{host}/put/{each['oid']}"}}} for each in objects]
            self.answer({"transfer": "basic", "objects": places})
        elif "/commit/" in self.path and self.refuses:
            self.answer({"error": f"no room for {TOKEN}"}, 403)
        elif "/commit/" in self.path:
            self.commits.append([json.loads(line) for line in given.splitlines()])
            self.answer({"commitUrl": f"{host}/me/tiny/commit/abc", "commitOid": "abc"})
        else:
            self.answer({"error": self.path}, 404)

    def do_PUT(self) -> None:
        self.stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({})

    def answer(self, content: dict, status: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch):
    """A fresh hub, a merged folder, and a run to report to."""
    for name, empty in {"made": [], "stored": {}, "commits": [], "tokens": set(), "refuses": False}.items():
        monkeypatch.setattr(FakeHub, name, empty)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "merged").mkdir()
    (tmp_path / "run").mkdir()
    for name, content in FILES.items():
        (tmp_path / "merged" / name).write_bytes(content)
    with served_as_hubs(FakeHub, tmp_path, monkeypatch):
        yield FakeHub


def sent(tmp_path: Path, **options) -> dict[str, str]:
    job = ExportJob.from_values({"export_dir": "x", "export_hub_model_id": "me/tiny", **options})
    return upload.upload(tmp_path / "merged", job, Recorder(Folder(tmp_path / "run")))


def is_private(made: dict) -> bool:
    """As older and newer versions of the client say it."""
    return made.get("private", made.get("visibility") == "private")


def test_all_files_arrive_in_one_commit_of_a_private_repository(hub, tmp_path: Path) -> None:
    assert sent(tmp_path) == {"uploaded": "https://huggingface.co/me/tiny"}
    assert [is_private(each) for each in hub.made] == [True]
    assert list(hub.stored.values()) == [FILES["model.safetensors"]]
    (commit,) = hub.commits
    paths = {line["value"]["path"] for line in commit if line["key"] in ("file", "lfsFile")}
    assert paths == set(FILES)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    events = [json.loads(line) for line in (tmp_path / "run" / "trainer_log.jsonl").read_text().splitlines()]
    assert events[-1]["phase"] == "uploading" and events[-1]["current"] == events[-1]["total"] > 200_000
    assert TOKEN not in (tmp_path / "run" / "trainer_log.jsonl").read_text()
    assert {path.name for path in (tmp_path / "merged").iterdir()} == set(FILES), "nothing of the upload is left there"


def test_it_is_public_only_when_asked(hub, tmp_path: Path) -> None:
    sent(tmp_path, export_private_repo=False)
    assert [is_private(each) for each in hub.made] == [False]


def test_a_failed_upload_leaves_the_folder_and_tells_the_command(hub, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setattr(FakeHub, "refuses", True)
    with pytest.raises(UserError) as caught:
        sent(tmp_path)
    facts = caught.value.facts
    assert caught.value.key == "upload.failed"
    assert facts["command"] == f"hf upload me/tiny {tmp_path / 'merged'} --private"
    assert {path.name for path in (tmp_path / "merged").iterdir()} == set(FILES)
    assert hub.commits == []
    told = caught.value.text() + "".join(capfd.readouterr())
    assert "403" in told and TOKEN not in told


def test_without_a_token_it_is_said_before_anything_is_merged(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    with pytest.raises(UserError) as caught:
        upload.need_token("modelscope")
    assert caught.value.facts["variable"] == "MODELSCOPE_API_TOKEN"


def test_a_stop_ends_it(hub, tmp_path: Path) -> None:
    Folder(tmp_path / "run").stop_request.touch()
    with pytest.raises(StopRequested):
        sent(tmp_path)


@pytest.mark.parametrize("is_there", [True, False])
def test_modelscope_is_called_as_its_library_wants(is_there: bool, tmp_path: Path, monkeypatch) -> None:
    hub_api = pytest.importorskip("modelscope_hub").HubApi
    real = {name: inspect.signature(getattr(hub_api, name)) for name in ("repo_exists", "create_repo", "upload_folder")}
    calls: dict[str, dict] = {}

    def noting(name: str):
        def note(*args, **kwargs):
            calls[name] = real[name].bind(*args, **kwargs).arguments
            if name == "upload_folder":
                kwargs["progress_callback"]({"committed_bytes": 2, "event": "batch_committed"})
            return is_there

        return note

    for name in real:
        monkeypatch.setattr(hub_api, name, noting(name))
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    (tmp_path / "config.json").write_text("{}")
    said: list[dict] = []
    assert hub_upload.main(hub_upload.Order("me/tiny", "modelscope", str(tmp_path), True), said.append) == 0
    assert said == [{"done": 2, "total": 2}, {"address": "https://modelscope.cn/models/me/tiny"}]
    assert ("create_repo" in calls) != is_there
    assert is_there or calls["create_repo"]["visibility"] == "private"
    assert calls["upload_folder"]["folder_path"] == str(tmp_path)

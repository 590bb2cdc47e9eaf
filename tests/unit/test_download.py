"""Folders, the bundled model and hub ids: against hubs that answer as the real ones do, served from this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import urllib.parse
from pathlib import Path
from typing import NamedTuple

import pytest

from engine.catalog.models import BUNDLED
from engine.errors import UserError
from engine.runs.record import StopRequested
from engine.work import bundled, download, hubs
from engine.work.download import local_model
from engine.work.hubs import Order, as_user_error, needed_files
from tests.unit.hub_server import served_as_hubs

REPOSITORY = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"w" * 300_000,
    "pytorch_model.bin": b"x" * 400_000,
    "model.Q4_K_M.gguf": b"g" * 10,
    "onnx/model.onnx": b"o" * 10,
    "flax_model.msgpack": b"f" * 10,
    "README.md": b"# Tiny",
}
NEEDED = {"config.json", "tokenizer.json", "model.safetensors", "README.md"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(http.server.BaseHTTPRequestHandler):
    """The few answers of huggingface.co and modelscope.cn that a download takes."""

    fetched: list[str] = []

    def log_message(self, *args) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        if url.path.startswith("/api/v1/models/"):
            self.modelscope(url.path.removeprefix("/api/v1/models/"), urllib.parse.parse_qs(url.query))
        else:
            self.huggingface(url.path)

    def huggingface(self, path: str) -> None:
        if "missing" in path:
            self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif "main" not in path and COMMIT not in path:
            self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif "/resolve/" in path:
            name = path.split(f"/resolve/{COMMIT}/")[1]
            if "gated" in path:
                self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
                return
            content = REPOSITORY[name]
            etag = hashlib.sha1(content).hexdigest()
            self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, name)
        elif "/tree/" in path:
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in REPOSITORY.items()
            ]
            self.answer(200, json.dumps(files).encode())
        else:
            files = [{"rfilename": name, "size": len(content)} for name, content in REPOSITORY.items()]
            self.answer(200, json.dumps({"id": "me/tiny", "sha": COMMIT, "siblings": files}).encode())

    def modelscope(self, path: str, query: dict[str, list[str]]) -> None:
        if "missing" in path:
            self.answer(404, b'{"Code": 10010205001, "Success": false, "Message": "not found"}')
        elif path.endswith("/repo/files"):
            assert query["Revision"] == ["master"]
            files = [
                {
                    "Path": name, "Name": name, "Type": "blob", "Size": len(content),
                    "Sha256": hashlib.sha256(content).hexdigest(), "Revision": COMMIT,
                }
                for name, content in REPOSITORY.items()
            ]  # fmt: skip
            self.answer(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": files}}).encode())
        elif path.endswith("/repo"):
            name = query["FilePath"][0]
            self.answer(200, REPOSITORY[name], name=name)
        else:
            self.answer(200, json.dumps({"Code": 200, "Success": True, "Data": {"Name": "tiny"}}).encode())

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None, name: str = "") -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json" if not name else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            FakeHub.fetched += [name] if name else []
            self.wfile.write(content)


class Listener:
    """A recorder that keeps what it is told."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.phases: list[tuple] = []
        self.warnings: list[str] = []
        self.stop_at = stop_at

    def phase(self, *facts) -> None:
        self.phases.append(facts)

    def warn(self, key: str, **facts) -> None:
        self.warnings.append(key)

    def check_stop(self) -> None:
        if self.stop_at is not None and len(self.phases) > self.stop_at:
            raise StopRequested


class Hub(NamedTuple):
    cache: Path
    fetched: list[str]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    FakeHub.fetched = []
    with served_as_hubs(FakeHub, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        yield Hub(tmp_path / "cache", FakeHub.fetched)


@pytest.mark.parametrize("name", ["huggingface", "modelscope"])
def test_a_hub_id_is_downloaded_once_and_only_what_is_needed(hub, name):
    listener = Listener()
    folder = local_model("me/tiny", name, recorder=listener, cache_dir=hub.cache)
    assert {path.name for path in folder.iterdir() if path.name in REPOSITORY} == NEEDED
    assert (folder / "model.safetensors").read_bytes() == REPOSITORY["model.safetensors"]
    assert folder.is_relative_to(hub.cache)
    assert set(FakeHub.fetched) == NEEDED
    total = sum(len(REPOSITORY[each]) for each in NEEDED)
    assert listener.phases[-1] == ("downloading", total, total, "bytes")

    FakeHub.fetched.clear()
    assert local_model("me/tiny", name, cache_dir=hub.cache) == folder
    assert FakeHub.fetched == []


def test_what_was_downloaded_is_found_without_a_network(hub, monkeypatch):
    folder = local_model("me/tiny", cache_dir=hub.cache)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert local_model("me/tiny", cache_dir=hub.cache) == folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        local_model("me/tiny", cache_dir=hub.cache)
    assert caught.value.key == "download.no_network"


@pytest.mark.parametrize(
    ("model", "name", "revision", "key"),
    [
        ("me/missing", "huggingface", "main", "download.not_found"),
        ("me/missing", "modelscope", "main", "download.not_found"),
        ("me/gated", "huggingface", "main", "download.gated"),
        ("me/tiny", "huggingface", "v9", "download.revision_missing"),
    ],
)
def test_each_refusal_of_a_hub_has_its_sentence(hub, model, name, revision, key):
    with pytest.raises(UserError) as caught:
        local_model(model, name, revision, cache_dir=hub.cache)
    assert caught.value.key == key
    assert model in caught.value.text() and "{" not in caught.value.text()


def test_no_network(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        local_model("me/tiny", cache_dir=hub.cache)
    assert caught.value.key == "download.no_network"
    error = as_user_error(ConnectionError("Connection refused"), Order("me/tiny", "modelscope"))
    assert error.key == "download.no_network"
    assert "ModelScope" in error.text()


def test_a_stop_request_ends_the_download(hub, monkeypatch):
    with pytest.raises(StopRequested):
        local_model("me/tiny", recorder=Listener(stop_at=0), cache_dir=hub.cache)


def test_a_disk_that_is_too_small_is_noticed_before(monkeypatch, tmp_path):
    with pytest.raises(UserError) as caught:
        hubs._check_space(Order("me/tiny", "huggingface"), tmp_path / "not" / "there", 10**18)
    assert caught.value.key == "download.disk_full"
    assert "1000000.0 TB" in caught.value.text()


def test_a_disk_that_fills_up_meanwhile():
    error = RuntimeError("Error while writing")
    error.__cause__ = OSError(28, "No space left on device")
    assert as_user_error(error, Order("me/tiny", "huggingface")).key == "disk_full"


def test_a_downloading_process_that_dies_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(download.sys, "executable", "/bin/false")
    with pytest.raises(UserError) as caught:
        download.fetch("me/tiny", "huggingface")
    assert caught.value.key == "download.failed"


def test_sharded_weights_come_with_their_index():
    names = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
             "model.safetensors.index.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin",
             "consolidated.safetensors", "model.fp16.safetensors", "original/params.json", "chat_template.jinja",
             "tokenizer.model", "modeling_own.py", "image.png"]  # fmt: skip
    assert set(needed_files(names)) == {
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "chat_template.jinja", "tokenizer.model", "modeling_own.py",
    }  # fmt: skip
    only_bin = ["config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"]
    assert set(needed_files(only_bin)) == set(only_bin)


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert local_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    ("path", "key", "near"),
    [
        ("./models/smollm2-135m", "model_folder_missing_near", "models/SmolLM2-135M"),
        ("models/SmolLM2-135", "model_folder_missing_near", "models/SmolLM2-135M"),
        ("/nowhere/at/all", "model_folder_missing", ""),
        ("models/SmolLM2-135M", "model_folder_incomplete", None),
    ],
)
def test_a_path_that_is_none_is_refused_at_once(tmp_path, monkeypatch, path, key, near):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "SmolLM2-135M").mkdir(parents=True)
    monkeypatch.setattr(download, "fetch", lambda *_: pytest.fail("a hub was asked"))
    with pytest.raises(UserError) as caught:
        local_model(path)
    assert (caught.value.key, caught.value.facts.get("near")) == (key, near)


def test_without_its_package_the_bundled_model_comes_from_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "bundled_gguf", lambda: None)
    monkeypatch.setattr(download, "fetch", lambda name, *_: tmp_path / name)
    listener = Listener()
    assert local_model(str(BUNDLED.path), recorder=listener) == tmp_path / BUNDLED.huggingface
    assert listener.warnings == ["download.bundled_from_hub"]


def test_without_package_and_network_the_package_is_asked_for(tmp_path, monkeypatch):
    def offline(*_):
        raise UserError("download.no_network", name="x", hub="Hugging Face", detail="x")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "bundled_gguf", lambda: None)
    monkeypatch.setattr(download, "fetch", offline)
    with pytest.raises(UserError) as caught:
        local_model(str(BUNDLED.path))
    assert caught.value.key == "download.package_missing"
    assert caught.value.__cause__.key == "download.no_network"


def test_without_network_the_bundled_model_stands_in_for_its_hub_id(tmp_path, monkeypatch):
    def offline(*_):
        raise UserError("download.no_network", name="x", hub="Hugging Face", detail="x")

    monkeypatch.setattr(download, "bundled_gguf", lambda: tmp_path)
    monkeypatch.setattr(download, "fetch", offline)
    monkeypatch.setattr(download, "make_bundled", lambda recorder: tmp_path)
    listener = Listener()
    assert local_model(BUNDLED.huggingface, recorder=listener) == tmp_path
    assert listener.warnings == ["download.bundled_instead"]
    with pytest.raises(UserError):
        local_model("somebody/else", recorder=listener)


def test_a_half_made_bundled_model_never_has_its_name(tmp_path, monkeypatch):
    def fails(gguf, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundled, "bundled_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(bundled, "_convert", fails)
    with pytest.raises(OSError):
        bundled.make_bundled(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_two_who_want_the_bundled_model_at_once_make_it_once(tmp_path, monkeypatch):
    made = []

    def convert(gguf, folder):
        made.append(folder)
        folder.mkdir()
        barrier.wait(timeout=5)
        (folder / "config.json").write_text("{}")

    barrier = threading.Barrier(2)
    monkeypatch.setattr(bundled, "bundled_gguf", lambda: tmp_path / "model.gguf")
    monkeypatch.setattr(bundled, "_convert", convert)
    threads = [threading.Thread(target=bundled.make_bundled, args=(tmp_path / "model",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait(timeout=5)
    for thread in threads:
        thread.join(timeout=5)
    assert len(made) == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["model"]

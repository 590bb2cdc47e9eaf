"""Datasets on hubs and in clouds: against hubs that answer as the real ones do, served from this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import urllib.parse

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from engine.catalog.entry import Columns, Entry
from engine.catalog.rows import rows_of
from engine.errors import UserError
from engine.options.jobs import TrainJob
from engine.runs.record import StopRequested
from engine.work.hubs import data_files
from engine.work.sources import local_entry
from tests.unit.hub_server import served_as_hubs

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = {
    "configs": [
        {"config_name": "en", "data_files": [{"split": "train", "path": "en/train-*.jsonl"},
                                             {"split": "test", "path": "en/test.jsonl"}]},
        {"config_name": "zh", "data_files": "zh/*.jsonl"},
    ]
}  # fmt: skip


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"instruction": text, "output": "x"}) + "\n" for text in texts).encode()


REPOSITORY = {
    "README.md": f"---\n{json.dumps(CARD)}\n---\n# Words\n".encode(),
    "en/train-0.jsonl": lines("one", "two"),
    "en/train-1.jsonl": lines("three"),
    "en/test.jsonl": lines("four"),
    "zh/all.jsonl": lines("yi"),
    "make.py": b"raise SystemExit('code that nobody runs')",
    "picture.png": b"p",
}


class FakeHub(http.server.BaseHTTPRequestHandler):
    fetched: list[str] = []

    def log_message(self, *_: object) -> None:
        return

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urllib.parse.urlparse(self.path)
        query = urllib.parse.parse_qs(url.query)
        if "missing" in url.path:
            self.answer(404, b'{"Code": 10010205001, "Success": false}', {"X-Error-Code": "RepoNotFound"})
        elif url.path.endswith("/repo/tree"):
            files = [
                {"Path": name, "Name": name, "Type": "blob", "Size": len(content), "Revision": COMMIT,
                 "Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in REPOSITORY.items()
            ]  # fmt: skip
            self.answer(200, json.dumps({"Code": 200, "Success": True, "Data": {"Files": files}}).encode())
        elif url.path.endswith("/repo"):
            self.send(query["FilePath"][0])
        elif url.path.startswith("/api/v1/"):
            self.answer(200, json.dumps({"Code": 200, "Success": True, "Data": {"Name": "words"}}).encode())
        elif "/resolve/" in url.path:
            assert url.path.startswith("/datasets/")
            self.send(url.path.split(f"/resolve/{COMMIT}/")[1])
        elif "/tree/" in url.path:
            files = [{"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                     for name, content in REPOSITORY.items()]  # fmt: skip
            self.answer(200, json.dumps(files).encode())
        else:
            assert url.path.startswith("/api/datasets/")
            files = [{"rfilename": name, "size": len(content)} for name, content in REPOSITORY.items()]
            told = {"id": "me/words", "sha": COMMIT, "siblings": files, "cardData": CARD}
            self.answer(200, json.dumps(told).encode())

    def send(self, name: str) -> None:
        content = REPOSITORY[name]
        if self.command == "GET":
            FakeHub.fetched.append(name)
        etag = hashlib.sha1(content).hexdigest()
        self.answer(200, content, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


class Listener:
    """A recorder that keeps what it is told, and stops on demand."""

    def __init__(self, stops: bool = False) -> None:
        self.phases: list[tuple] = []
        self.stops = stops

    def phase(self, *facts: object) -> None:
        self.phases.append(facts)

    def check_stop(self) -> None:
        if self.stops:
            raise StopRequested


@pytest.fixture
def hub(tmp_path, monkeypatch):
    FakeHub.fetched = []
    with served_as_hubs(FakeHub, tmp_path, monkeypatch):
        yield FakeHub.fetched


@pytest.fixture
def job(tmp_path):
    return TrainJob.from_values({"cache_dir": str(tmp_path / "cache")})


def asked(entry: Entry) -> list[str]:
    return [row["instruction"] for _, row in rows_of(entry.path)]


def test_a_file_stays_as_it_is(job, tmp_path):
    entry = Entry("words", tmp_path / "words.json")
    assert local_entry(entry, job, Listener()) is entry


def test_a_subset_of_a_repository_is_fetched_once_and_nothing_else(hub, job):
    listener = Listener()
    entry = local_entry(Entry("words", hf_hub_url="me/words", subset="en"), job, listener)
    assert asked(entry) == ["one", "two", "three"]
    assert set(hub) == {"README.md", "en/train-0.jsonl", "en/train-1.jsonl", "en/test.jsonl"}
    total = sum(len(REPOSITORY[name]) for name in set(hub))
    assert listener.phases[-1] == ("downloading_dataset", total, total, "bytes")
    hub.clear()
    test = local_entry(Entry("words", hf_hub_url="me/words", subset="en", split="test"), job, listener)
    assert asked(test) == ["four"]
    both = local_entry(Entry("words", hf_hub_url="me/words", subset="en", split="test+train[:1]"), job, listener)
    assert asked(both) == ["four", "one"]
    assert hub == []


def test_modelscope_has_its_datasets_too(hub, job):
    entry = local_entry(Entry("words", ms_hub_url="me/words", subset="zh"), job, Listener())
    assert asked(entry) == ["yi"]
    assert "picture.png" not in hub and "make.py" not in hub


@pytest.mark.parametrize(("hub_asked", "read"), [("huggingface", "here"), ("modelscope", "there")])
def test_of_two_hubs_the_one_is_asked_that_the_job_names(tmp_path, job, hub_asked, read):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.jsonl").write_bytes(lines(name))
    entry = Entry("words", hf_hub_url=str(tmp_path / "here"), ms_hub_url=str(tmp_path / "there"))
    job = job.model_copy(update={"hub": hub_asked})
    assert asked(local_entry(entry, job, Listener())) == [read], "a folder is taken as it is"


def test_a_folder_and_many_files_of_a_repository(tmp_path, job, monkeypatch):
    monkeypatch.setattr("datasets.config.MAX_SHARD_SIZE", "1KB")
    (tmp_path / "repo" / "part").mkdir(parents=True)
    (tmp_path / "repo" / "other.jsonl").write_bytes(lines("other"))
    for number in range(3):
        (tmp_path / "repo" / "part" / f"train-{number}.jsonl").write_bytes(lines(*[f"{number} {n}" for n in range(40)]))
    entry = local_entry(Entry("words", hf_hub_url=str(tmp_path / "repo"), folder="part"), job, Listener())
    assert entry.path.is_dir() and len(list(entry.path.iterdir())) > 1
    assert asked(entry) == [f"{number} {n}" for number in range(3) for n in range(40)]


def test_what_is_plain_text_is_settled_once_the_rows_are_here(tmp_path, job):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "train.jsonl").write_bytes(lines("one"))
    columns = Columns(prompt="instruction", query=None, response=None)
    entry = Entry("words", hf_hub_url=str(tmp_path / "repo"), columns=columns, only_prompt=True)
    assert entry.kind == "text" and local_entry(entry, job, Listener()).kind == "sft"


@pytest.mark.parametrize(
    ("given", "key", "said"),
    [
        ({"hf_hub_url": "me/missing"}, "download.dataset_not_found", "me/missing"),
        ({"ms_hub_url": "me/missing"}, "download.dataset_not_found", "me/missing"),
        ({"hf_hub_url": "me/words", "folder": "fr"}, "download.no_rows", "me/words"),
        ({"hf_hub_url": "me/words", "subset": "fr"}, "source.unreadable", "'en', 'zh'"),
        ({"hf_hub_url": "me/words", "subset": "en", "split": "validation"}, "source.unreadable", "'train', 'test'"),
    ],
)
def test_each_refusal_has_its_sentence(hub, job, given, key, said):
    with pytest.raises(UserError) as caught:
        local_entry(Entry("words", **given), job, Listener())
    assert caught.value.key == key
    assert said in caught.value.text() and "{" not in caught.value.text()


def test_a_stop_request_ends_the_download(hub, job):
    with pytest.raises(StopRequested):
        local_entry(Entry("words", hf_hub_url="me/words"), job, Listener(stops=True))


def test_only_rows_and_the_readme_are_needed():
    names = ["README.md", "a/1.parquet", "a/2.json.gz", "b/1.csv", "load.py", "x.png"]
    assert data_files(names) == ["README.md", "a/1.parquet", "a/2.json.gz", "b/1.csv"]
    assert data_files(names, folder="a/") == ["README.md", "a/1.parquet", "a/2.json.gz"]
    assert data_files(names, patterns=["**/*.csv"]) == ["README.md", "b/1.csv"]


# ---- clouds


class Memory(MemoryFileSystem):
    """A memory that stands for S3."""

    protocol = "s3"
    store: dict = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("s3://").strip("/")


def test_a_file_in_a_cloud_is_copied_again_only_when_it_changed(job, monkeypatch):
    monkeypatch.setattr("engine.work.sources.fsspec.filesystem", lambda scheme: Memory())
    Memory().pipe("/bucket/words.jsonl", lines("one", "two"))
    entry = Entry("words", cloud_file_name="s3://bucket/words.jsonl")
    first = local_entry(entry, job, Listener())
    assert asked(first) == ["one", "two"]
    monkeypatch.setattr(Memory, "get_file", lambda *_, **__: pytest.fail("fetched again"))
    assert local_entry(entry, job, Listener()).path == first.path
    monkeypatch.undo()
    monkeypatch.setattr("engine.work.sources.fsspec.filesystem", lambda scheme: Memory())
    Memory().pipe("/bucket/words.jsonl", lines("three"))
    assert asked(local_entry(entry, job, Listener())) == ["three"]
    with pytest.raises(UserError) as caught:
        local_entry(Entry("words", cloud_file_name="s3://bucket/other.jsonl"), job, Listener())
    assert caught.value.key == "source.cloud"


def test_a_cloud_without_its_driver_says_what_to_install(job, monkeypatch):
    def absent(scheme):
        raise ImportError(f"Install a package to access {scheme}")

    monkeypatch.setattr("engine.work.sources.fsspec.filesystem", absent)
    for url, package in {"s3://b/x.json": "s3fs", "gs://b/x.json": "gcsfs", "gcs://b/x.json": "gcsfs"}.items():
        with pytest.raises(UserError) as caught:
            local_entry(Entry("words", cloud_file_name=url), job, Listener())
        assert caught.value.key == "source.driver_missing" and package in caught.value.text()
    with pytest.raises(UserError) as caught:
        local_entry(Entry("words", cloud_file_name="ftp://b/x.json"), job, Listener())
    assert caught.value.key == "source.scheme" and "s3://" in caught.value.text()

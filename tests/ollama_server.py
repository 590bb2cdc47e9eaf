"""A server that speaks Ollama's HTTP API as far as the tests need it; it checks what it is sent, and llama.cpp answers.

Nothing of it comes from the program. What it is sent against the API is refused with status 400 and kept in ``faults``.
Source: docs/api.md and server/routes.go of Ollama.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.go_template import run_go

NUMBERS = {
    "temperature": float, "top_p": float, "top_k": int, "min_p": float, "repeat_penalty": float, "seed": int,
    "num_predict": int, "num_ctx": int,
}  # fmt: skip
CREATE = {"model", "stream", "files", "template", "system", "parameters"}
CHAT = {"model", "messages", "options", "stream", "tools", "think"}


class Wrong(Exception):
    """Told to the client with a status; a fault of the client's unless ``is_expected``."""

    def __init__(self, status: int, text: str, is_expected: bool = False) -> None:
        super().__init__(text)
        self.status, self.is_expected = status, is_expected


class OllamaServer:
    """``with OllamaServer(folder) as server``: at ``server.host``.

    Attributes:
        asked: every request as ``(method, path, body)``; of a blob, the number of bytes.
        faults: what was sent against the API.
        cut: requests whose client went away.
        prompts: every prompt that was rendered.
        wait_after: an upload stops being read after so many bytes, until ``go_on`` is set.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.blobs, self._port = folder, port
        self.models: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.faults: list[str] = []
        self.cut: list[str] = []
        self.prompts: list[str] = []
        self.wait_after: int | None = None
        self.is_waiting, self.go_on = threading.Event(), threading.Event()
        self.changes: dict[str, Any] = {}
        self._llamas: dict[Path, Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> OllamaServer:
        self.blobs.mkdir(parents=True, exist_ok=True)
        handler = type("Handler", (_Handler,), {"ollama": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.host = f"127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *error: Any) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    def paths(self, method: str) -> list[str]:
        return [path for asked, path, _ in self.asked if asked == method]

    def blob(self, digest: str) -> Path:
        kind, _, number = digest.partition(":")
        if kind != "sha256" or len(number) != 64 or set(number) - set("0123456789abcdef"):
            raise Wrong(400, f"invalid digest {digest!r}")
        return self.blobs / f"sha256-{number}"

    def take_blob(self, digest: str, size: int, stream: Any) -> None:
        """Keep a blob under its name once all of it has come and has its digest; else keep nothing."""
        path, found, left = self.blob(digest), hashlib.sha256(), size
        with tempfile.NamedTemporaryFile(dir=self.blobs, prefix="part-", delete=False) as part:
            try:
                while left:
                    chunk = stream.read(min(65536, left))
                    if not chunk:
                        self.cut.append(digest)
                        raise Wrong(400, "unexpected EOF", is_expected=True)
                    part.write(chunk)
                    found.update(chunk)
                    left -= len(chunk)
                    if self.wait_after is not None and size - left >= self.wait_after:
                        self.is_waiting.set()
                        self.go_on.wait(60)
                if f"sha256:{found.hexdigest()}" != digest:
                    raise Wrong(400, f"digest mismatch, expected {digest}")
                os.replace(part.name, path)
            finally:
                Path(part.name).unlink(missing_ok=True)

    def create(self, said: dict[str, Any]):
        _only(said, CREATE)
        files = said.get("files") or {}
        if len(files) != 1 or not all(name.endswith(".gguf") and "/" not in name for name in files):
            raise Wrong(400, f"files: {files}")
        path = self.blob(next(iter(files.values())))
        if not path.is_file():
            raise Wrong(400, "blob not found")
        if path.open("rb").read(4) != b"GGUF":
            raise Wrong(400, "invalid file magic")
        if "template" in said:
            try:
                run_go(said["template"], [{"role": "user", "content": "x"}])
            except (AssertionError, LookupError) as error:
                raise Wrong(400, f"template: {error!r}") from error
        _check_numbers({name: value for name, value in said.get("parameters", {}).items() if name != "stop"})
        stops = said.get("parameters", {}).get("stop", [])
        if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
            raise Wrong(400, f"stop: {stops!r}")
        yield {"status": "parsing GGUF"}
        yield {"status": f"using existing layer sha256:{path.name[7:]}"}
        yield {"status": "writing manifest"}
        said = {**said, **self.changes}
        self.models[_whole(said["model"])] = {
            "path": path, "template": said.get("template", "{{ .Prompt }}"), "system": said.get("system", ""),
            "parameters": said.get("parameters", {}),
        }  # fmt: skip
        yield {"status": "success"}

    def tags(self) -> dict[str, Any]:
        return {"models": [
            {"name": name, "model": name, "modified_at": "2025-06-01T10:00:00.123456789+02:00",
             "size": model["path"].stat().st_size, "digest": model["path"].name[7:],
             "details": {"format": "gguf", "family": "llama", "families": ["llama"], "parameter_size": "1M",
                         "quantization_level": "F16"}}
            for name, model in self.models.items()
        ]}  # fmt: skip

    def show(self, said: dict[str, Any]) -> dict[str, Any]:
        _only(said, {"model"})
        model = self.find(said["model"])
        lines = ['# Modelfile generated by "ollama show"', "# FROM " + said["model"], "", f"FROM {model['path']}"]
        lines.append(f"TEMPLATE {_quote(model['template'])}")
        lines += [f"SYSTEM {_quote(model['system'])}"] if model["system"] else []
        for name, value in model["parameters"].items():
            lines += [f"PARAMETER {name} {_quote(str(each))}" for each in (value if name == "stop" else [value])]
        return {
            "modelfile": "\n".join(lines) + "\n", "template": model["template"], "system": model["system"],
            "details": {"format": "gguf", "family": "llama", "quantization_level": "F16"},
            "model_info": {"general.architecture": "llama", "llama.context_length": 2048},
            "capabilities": ["completion"], "modified_at": "2025-06-01T10:00:00Z",
        }  # fmt: skip

    def chat(self, said: dict[str, Any]):
        _only(said, CHAT)
        model = self.find(said["model"])
        options = said.get("options", {})
        _check_numbers(options)
        messages = said.get("messages", [])
        if any(set(each) - {"role", "content"} or each["role"] not in ("system", "user", "assistant")
               for each in messages):  # fmt: skip
            raise Wrong(400, f"messages: {messages}")
        if said.get("tools") and ".Tools" not in model["template"]:
            raise Wrong(400, f"{said['model']} does not support tools", is_expected=True)
        start = {"model": said["model"], "created_at": "2025-06-01T10:00:00Z"}
        if not messages:
            yield {**start, "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"}
            return
        if model["system"] and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": model["system"]}, *messages]
        prompt = run_go(model["template"], _collated(messages))
        self.prompts.append(prompt)
        options = {**model["parameters"], **options}
        with self._lock:
            for piece in self._generate(model["path"], prompt, options):
                yield {**start, **piece}

    def find(self, name: str) -> dict[str, Any]:
        if _whole(name) not in self.models:
            raise Wrong(404, f"model '{name}' not found", is_expected=True)
        return self.models[_whole(name)]

    def _generate(self, path: Path, prompt: str, options: dict[str, Any]):
        import llama_cpp

        if path not in self._llamas:
            self._llamas[path] = llama_cpp.Llama(str(path), n_ctx=2048, verbose=False)
        llama = self._llamas[path]
        llama.reset()
        llama.set_seed(options.get("seed", 0xFFFFFFFF))
        tokens = llama.tokenize(prompt.encode(), add_bos=True, special=True)
        stops, kept, count, reason = options.get("stop", []), b"", 0, "stop"
        for token in llama.generate(
            tokens, temp=options.get("temperature", 0.8), top_p=options.get("top_p", 0.9),
            top_k=options.get("top_k", 40), min_p=options.get("min_p", 0.0),
            repeat_penalty=options.get("repeat_penalty", 1.1),
        ):  # fmt: skip
            if llama_cpp.llama_vocab_is_eog(llama._model.vocab, token):
                break
            count += 1
            kept += llama.detokenize([token], special=True)
            ends = [at for stop in stops if (at := kept.find(stop.encode())) >= 0]
            if ends:
                kept = kept[: min(ends)]
                break
            if count == options.get("num_predict", -1):
                reason = "length"
                break
            with contextlib.suppress(UnicodeDecodeError):
                if not any(kept.endswith(stop.encode()[:n]) for stop in stops for n in range(1, len(stop.encode()))):
                    yield {"message": {"role": "assistant", "content": kept.decode()}, "done": False}
                    kept = b""
        yield {"message": {"role": "assistant", "content": kept.decode(errors="ignore")}, "done": True,
               "done_reason": reason, "eval_count": count, "prompt_eval_count": len(tokens)}  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    ollama: OllamaServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._note(None)
        try:
            has = self.ollama.blob(self.path.removeprefix("/api/blobs/")).is_file()
        except Wrong:
            has = False
        self._answer(200 if has else 404, b"")

    def do_GET(self) -> None:
        self._note(None)
        known = {"/api/version": lambda: {"version": "0.99.0-test"}, "/api/tags": self.ollama.tags}
        self._reply(known[self.path] if self.path in known else lambda: _no_such(self.path))

    def do_DELETE(self) -> None:
        said = self._said()

        def delete():
            _only(said, {"model"})
            self.ollama.find(said["model"])
            del self.ollama.models[_whole(said["model"])]

        self._reply(delete)

    def do_POST(self) -> None:
        if self.path.startswith("/api/blobs/"):
            self._take_blob()
            return
        said = self._said()
        if self.path == "/api/show":
            self._reply(lambda: self.ollama.show(said))
        elif self.path in ("/api/create", "/api/chat"):
            self._stream((self.ollama.create if self.path == "/api/create" else self.ollama.chat)(said), said)
        else:
            self._reply(lambda: _no_such(self.path))

    def _take_blob(self) -> None:
        size = int(self.headers.get("Content-Length") or -1)
        self._note(size)
        self.close_connection = True

        def take():
            if size < 0:
                raise Wrong(400, "no Content-Length")
            self.ollama.take_blob(self.path.removeprefix("/api/blobs/"), size, self.rfile)

        self._reply(take, status=201)

    def _stream(self, parts: Any, said: dict[str, Any]) -> None:
        if said.get("stream") is False:
            self._reply(lambda: list(parts)[-1])
            return
        try:
            first = next(parts)
        except Wrong as wrong:
            self._refuse(wrong)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._chunk(first)
            for part in parts:
                self._chunk(part)
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.ollama.cut.append(self.path)
            self.close_connection = True

    def _chunk(self, part: dict[str, Any]) -> None:
        line = json.dumps(part).encode() + b"\n"
        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")

    def _reply(self, work: Any, status: int = 200) -> None:
        try:
            found = work()
        except Wrong as wrong:
            self._refuse(wrong)
            return
        self._answer(status, b"" if found is None else json.dumps(found).encode())

    def _refuse(self, wrong: Wrong) -> None:
        if not wrong.is_expected:
            self.ollama.faults.append(f"{self.command} {self.path}: {wrong}")
        self._answer(wrong.status, json.dumps({"error": str(wrong)}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

    def _said(self) -> dict[str, Any]:
        said = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self._note(said)
        return said

    def _note(self, said: Any) -> None:
        self.ollama.asked.append((self.command, self.path, said))

    def log_message(self, *words: Any) -> None:
        """Silent."""


def _no_such(path: str) -> None:
    raise Wrong(404, f"no such path: {path}")


def _only(said: dict[str, Any], known: set[str]) -> None:
    if set(said) - known or not said.get("model"):
        raise Wrong(400, f"{sorted(set(said) - known)} not known, model {said.get('model')!r}")


def _check_numbers(said: dict[str, Any]) -> None:
    for name, value in said.items():
        fits = isinstance(value, int if NUMBERS.get(name) is int else (int, float)) and not isinstance(value, bool)
        if name not in NUMBERS or not fits:
            raise Wrong(400, f"option {name}: {value!r}")


def _whole(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _quote(text: str) -> str:
    if "\n" in text or text[:1] == " " or text[-1:] == " ":
        return f'"""{text}"""' if '"' in text else f'"{text}"'
    return text


def _collated(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Turns of the same role one after the other are one."""
    found: list[dict[str, str]] = []
    for each in messages:
        if found and found[-1]["role"] == each["role"]:
            found[-1] = {**each, "content": found[-1]["content"] + "\n\n" + each["content"]}
        else:
            found.append(each)
    return found

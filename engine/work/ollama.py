"""The Ollama job: a .gguf file becomes a model on the server at OLLAMA_HOST, which need not be this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.catalog.modelfile import Modelfile, modelfile_of, parameter_value, read_modelfile
from engine.catalog.ollama import SHORT_S, connected, look, ollama_host, telling
from engine.errors import UserError
from engine.options.jobs import OllamaJob
from engine.runs.record import Recorder

if TYPE_CHECKING:
    from ollama import Client

CHUNK_BYTES = 2**20


def run(job: OllamaJob, recorder: Recorder) -> dict[str, Any]:
    """Send the file, unless the server has it, have the model made, and see that it is what was asked for.

    Returns:
        ``ollama``: the model's name; ``host``, ``version``: of the server; ``digest`` and ``size_bytes`` of the file;
        ``sent``: False when the server had it already; ``modelfile``: where the template came from, None: the .gguf.

    Raises:
        UserError: anything that stands in the way. A model appears on the server at once or not at all: it counts a
            file only when all of it has come and has the digest that was named.
    """
    path = Path(job.gguf).expanduser()
    asked, source = _asked(job, path, recorder)
    server = look()
    with connected(None) as client:
        if not job.overwrite and _has(client, job.ollama):
            raise UserError("ollama.exists", name=job.ollama, host=ollama_host())
        digest = _digest(path, recorder)
        sent = _send(client, path, digest, recorder)
        recorder.check_stop()
        recorder.phase("ollama_creating")
        with telling():
            for _ in client.create(
                job.ollama, files={path.name: digest}, template=asked.template, system=asked.system or None,
                parameters=dict(asked.parameters), stream=True,
            ):  # fmt: skip
                recorder.check_stop()
        recorder.phase("verifying")
        verify(client, job.ollama, asked)
    return {"ollama": job.ollama, "host": server.host, "version": server.version, "digest": digest, "sent": sent,
            "size_bytes": path.stat().st_size, "gguf": str(path), "modelfile": source and str(source)}  # fmt: skip


def verify(client: Client, name: str, asked: Modelfile) -> None:
    """Raises: UserError, if the server's model has not the template, system text and parameters that were sent."""
    with telling(name):
        shown = client.show(name)
    text = f"\n{shown.modelfile or ''}\n"
    wrong = []
    if asked.template is not None and shown.template != asked.template:
        wrong.append("TEMPLATE")
    if asked.system and not _stands_in(text, "SYSTEM", asked.system):
        wrong.append("SYSTEM")
    wrong += [f"PARAMETER {key}" for key, value in asked.parameters.items() if not _has_parameter(text, key, value)]
    if wrong:
        raise UserError("ollama.not_as_sent", name=name, host=ollama_host(), what=", ".join(wrong))


def _stands_in(text: str, instruction: str, value: str) -> bool:
    """Whether a Modelfile that a server shows says so. It cannot be read: Ollama knows no escapes."""
    return any(f"\n{instruction} {marks}{value}{marks}\n" in text for marks in ("", '"', '"""'))


def _has_parameter(text: str, name: str, value: Any) -> bool:
    said = re.findall(rf"^PARAMETER {re.escape(name)} (.*)$", text, re.MULTILINE)
    if isinstance(value, int | float):  # 1.0 is shown as 1
        return [parameter_value(each) for each in said] == [value]
    words = value if isinstance(value, list) else [str(value)]
    return len(said) == len(words) and all(_stands_in(text, f"PARAMETER {name}", word) for word in words)


def _asked(job: OllamaJob, path: Path, recorder: Recorder) -> tuple[Modelfile, Path | None]:
    """What the model shall be, and the Modelfile that says so: the one named, the one beside the file, or none."""
    source = Path(job.modelfile).expanduser() if job.modelfile else modelfile_of(path)
    if source:
        return read_modelfile(source), source
    from engine.work.modelfile import modelfile_from_gguf

    recorder.phase("loading_tokenizer")
    return modelfile_from_gguf(path, recorder), None


def _has(client: Client, name: str) -> bool:
    try:
        with telling(name):
            client.show(name)
    except UserError as error:
        if error.key != "ollama.model_missing":
            raise
        return False
    return True


def _digest(path: Path, recorder: Recorder) -> str:
    total, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            recorder.check_stop()
            digest.update(chunk)
            done += len(chunk)
            recorder.phase("ollama_hashing", done, total, "bytes")
    return f"sha256:{digest.hexdigest()}"


def _send(client: Client, path: Path, digest: str, recorder: Recorder) -> bool:
    """Send a file as a blob; False: the server has it already.

    ``Client.create_blob`` of ollama 0.6.3 tells no progress, cannot be stopped, and sends what is there already.
    """
    size = path.stat().st_size
    with telling():
        found = client._client.head(f"/api/blobs/{digest}", timeout=SHORT_S)
        if found.status_code == 200:
            return False
        client._request_raw(
            "POST", f"/api/blobs/{digest}", content=_chunks(path, size, recorder),
            headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
        )  # fmt: skip
    return True


def _chunks(path: Path, size: int, recorder: Recorder) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            recorder.check_stop()
            yield chunk
            done += len(chunk)
            recorder.phase("ollama_sending", done, size, "bytes")

"""The Ollama server at OLLAMA_HOST, by its official client: which models it has, and removing one.

The client is loaded only where it is used: httpx takes half a second.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.errors import UserError

if TYPE_CHECKING:
    from ollama import Client

CONNECT_S = 5.0
SHORT_S = 10.0
"""How long a server may take for what it only has to look up."""


@dataclass(frozen=True)
class OllamaModel:
    """A model of a server. ``kind``: how its weights are stored, "Q8_0"; "" where that is not said."""

    name: str
    size_bytes: int
    kind: str


@dataclass(frozen=True)
class OllamaServer:
    """A server that answers."""

    host: str
    version: str
    models: tuple[OllamaModel, ...]


def ollama_host() -> str:
    """Where the server is looked for, without a password that may stand there."""
    host = os.environ.get("OLLAMA_HOST") or "127.0.0.1:11434"
    scheme, separator, rest = host.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def look(timeout_s: float = SHORT_S) -> OllamaServer:
    """The server and its models.

    Raises:
        UserError: none answers, or not as Ollama does.
    """
    with telling(), connected(timeout_s) as client:
        # ollama 0.6.3 has no call for the version
        version = client._request_raw("GET", "/api/version").json()["version"]
        models = tuple(
            OllamaModel(str(each.model), int(each.size or 0), (each.details and each.details.quantization_level) or "")
            for each in client.list().models
        )
    return OllamaServer(ollama_host(), str(version), models)


def remove(name: str) -> None:
    """Take a model from the server. Raises: UserError, if it does not have it, or does not answer."""
    with telling(name), connected(SHORT_S) as client:
        client.delete(name)


def connected(timeout_s: float | None) -> Client:
    """The official client, which reads OLLAMA_HOST. None: an answer may take any time."""
    import httpx
    from ollama import Client

    limit = httpx.Timeout(timeout_s, connect=min(timeout_s or CONNECT_S, CONNECT_S))
    try:
        return Client(timeout=limit)
    except ValueError as error:  # the port is no number
        raise UserError("ollama.host_wrong", host=ollama_host(), detail=error) from error


@contextmanager
def telling(name: str = "") -> Iterator[None]:
    """Say in our words what the client raises. ``name``: the model that is spoken of."""
    import httpx
    from ollama import ResponseError

    try:
        yield
    except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UserError("ollama.no_server", host=ollama_host()) from error
    except httpx.TimeoutException as error:
        raise UserError("ollama.silent", host=ollama_host()) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError("ollama.cut_off", host=ollama_host(), detail=str(error).rstrip(".")) from error
    except ResponseError as error:
        if error.status_code == 404 and name:
            raise UserError("ollama.model_missing", name=name, host=ollama_host()) from error
        raise UserError("ollama.refused", host=ollama_host(), detail=error.error) from error
    except (ValueError, KeyError, TypeError) as error:  # no JSON, or none of Ollama's
        raise UserError("ollama.not_ollama", host=ollama_host(), detail=error) from error

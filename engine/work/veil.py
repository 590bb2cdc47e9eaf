"""What a worker prints goes into its run's log, and errors of libraries may quote a token: it is taken out before.

Only values of the environment whose names say that they are secret are known here, spelled as they are there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from engine.runs.redact import NO_SECRETS, REMOVED, secrets_of

SHORTEST = 8


class Veil:
    """A stream without secrets. Args: stream: where the rest goes; secrets: values that are taken out of it."""

    def __init__(self, stream: Any, secrets: Iterable[str]) -> None:
        self._stream, self._secrets = stream, tuple(secrets)

    def write(self, text: str) -> int:
        self._stream.write(hidden(text, self._secrets))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def veil_output() -> None:
    """Let nothing secret through stdout and stderr from here on."""
    secrets = secrets_here()
    sys.stdout, sys.stderr = Veil(sys.stdout, secrets), Veil(sys.stderr, secrets)


def secrets_here() -> list[str]:
    """Longest first, so that of one within another nothing is left."""
    found = {value.strip() for value in secrets_of(os.environ)}
    return sorted((each for each in found if len(each) >= SHORTEST and each.lower() not in NO_SECRETS), key=len)[::-1]


def hidden(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, REMOVED)
    return text

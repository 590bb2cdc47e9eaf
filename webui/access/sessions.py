"""Who is signed in: a random token in a cookie, of which a hash lies on the disk, so that a restart loses nobody."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.catalog.accounts import Account
from engine.runs.record import write_text

LASTS_S = 7 * 24 * 3600
MOST = 1000


class Sessions:
    """Args: path: their file, which only its owner can read; accounts: who there is, by name."""

    def __init__(self, path: Path, accounts: Mapping[str, Account]) -> None:
        self._path, self._accounts = path, accounts
        self._lock = threading.Lock()
        self._kept = self._read()

    def begin(self, account: Account) -> str:
        """A new session's token."""
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._kept[_hash(token)] = {"name": account.name, "seal": account.seal, "until": time.time() + LASTS_S}
            self._write()
        return token

    def account(self, token: str | None) -> Account | None:
        """Whose session this is; None: nobody's, or it has ended, or its password was changed."""
        kept = self._kept.get(_hash(token)) if token else None
        account = self._accounts.get(kept["name"]) if kept else None
        is_valid = account is not None and kept["seal"] == account.seal and kept["until"] > time.time()
        return account if is_valid else None

    def end(self, token: str) -> None:
        with self._lock:
            self._kept.pop(_hash(token), None)
            self._write()

    def end_all_but(self, token: str | None) -> None:
        """End every session, but for one."""
        with self._lock:
            kept = _hash(token) if token else None
            self._kept = {key: each for key, each in self._kept.items() if key == kept}
            self._write()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return {key: {"name": str(each["name"]), "seal": str(each["seal"]), "until": float(each["until"])}
                    for key, each in found.items()}  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # everybody signs in again

    def _write(self) -> None:
        now = time.time()
        alive = sorted((each["until"], key) for key, each in self._kept.items() if each["until"] > now)[-MOST:]
        self._kept = {key: self._kept[key] for _, key in alive}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(self._path.parent, 0o700)
        write_text(self._path, json.dumps(self._kept))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

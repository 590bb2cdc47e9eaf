"""Who may sign in: names, roles and hashed passwords, from a file or made for one start. It knows of no request.

The file has a line each, ``name:role:hash``; ``python app.py password`` writes the hash. A role is "owner" (everything)
or "viewer" (watch and chat).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.errors import UserError

OWNER, VIEWER = "owner", "viewer"
COST = {"n": 2**14, "r": 8, "p": 1}
"""scrypt's; about 50 ms and 16 MB a try."""


@dataclass(frozen=True)
class Account:
    """Args: hash: as :func:`hashed` gives it."""

    name: str
    role: str
    hash: str

    @property
    def seal(self) -> str:
        """What a session remembers of the password: another password ends all sessions."""
        return hashlib.sha256(f"{self.name}:{self.role}:{self.hash}".encode()).hexdigest()


def hashed(password: str, salt: bytes | None = None) -> str:
    """``scrypt$SALT$KEY``, both in base64."""
    salt = salt or secrets.token_bytes(16)
    key = hashlib.scrypt(password.encode(), salt=salt, dklen=32, **COST)
    return "$".join(("scrypt", base64.b64encode(salt).decode(), base64.b64encode(key).decode()))


@cache
def _nobody() -> str:
    """Compared with where there is no such name, so that an answer takes as long as for a name that is there."""
    return hashed(secrets.token_urlsafe())


def signed_in(accounts: Mapping[str, Account], name: str, password: str) -> Account | None:
    """The account that a name and a password belong to."""
    account, nobody = accounts.get(name), _nobody()
    stored = account.hash if account else nobody
    salt = base64.b64decode(stored.split("$")[1])
    agrees = hmac.compare_digest(hashed(password, salt), stored)
    return account if account and agrees else None


def read_accounts(path: Path) -> dict[str, Account]:
    """The accounts of a file, by name.

    Raises:
        UserError: it cannot be read, a line is not of that form, a name comes twice, or there is no owner.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError("access.file_unreadable", path=path, detail=error) from error
    accounts: dict[str, Account] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        account = _account(line.strip())
        if account is None or account.name in accounts:
            raise UserError("access.file_line", path=path, line=number)
        accounts[account.name] = account
    if not any(account.role == OWNER for account in accounts.values()):
        raise UserError("access.file_without_owner", path=path)
    return accounts


class AccountsFile(Mapping):
    """The accounts of a file as it is now, by name: who is taken out of it is out at once.

    Args:
        path: of the file.
        tell: told once what is wrong with a changed file; until it is right, the accounts are those of before.

    Raises:
        UserError: as :func:`read_accounts`, when it is made.
    """

    def __init__(self, path: Path, tell: Callable[[UserError], None]) -> None:
        self._path, self._tell = path, tell
        self._seen, self._accounts = _version(path), read_accounts(path)

    def __getitem__(self, name: str) -> Account:
        return self._now()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> dict[str, Account]:
        version = _version(self._path)
        if version != self._seen:
            self._seen = version
            try:
                self._accounts = read_accounts(self._path)
            except UserError as error:
                self._tell(error)
        return self._accounts


def _version(path: Path) -> tuple[int, ...] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_mtime_ns, about.st_ctime_ns, about.st_size


def _account(line: str) -> Account | None:
    name, _, rest = line.partition(":")
    role, _, stored = rest.partition(":")
    is_hash = re.fullmatch(r"scrypt\$[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=", stored)
    return Account(name, role, stored) if name and role in (OWNER, VIEWER) and is_hash else None


def account_for_one_start() -> tuple[Account, str]:
    """An owner with a password that nobody has chosen, and that password."""
    password = secrets.token_urlsafe(12)
    return Account(OWNER, OWNER, hashed(password)), password

"""Whether the page needs a door, and the door that it gets when it is served."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from engine.catalog.accounts import account_for_one_start, read_accounts
from engine.options.serve import Serve
from engine.runs.folder import SAVES
from engine.words import words
from webui.access.door import Door
from webui.access.sessions import Sessions
from webui.access.viewers import allowed

SESSIONS = SAVES / ".access" / "sessions.json"


def needs_door(job: Serve) -> bool:
    """Whether others than this machine's own users could reach the page, or accounts are named."""
    return job.share or bool(job.auth_file) or not _is_loopback(job.host)


def door(job: Serve, events: Mapping[int, Any]) -> list[Middleware]:
    """The door for ``launch``. Without a file of accounts it makes a password and prints it, once.

    Raises:
        UserError: the file of accounts cannot be used.
    """
    if job.auth_file:
        accounts = read_accounts(Path(job.auth_file).expanduser())
    else:
        account, password = account_for_one_start()
        accounts = {account.name: account}
        print(words("access.made", job.lang, name=account.name, password=password), flush=True)
    sessions = Sessions(SESSIONS.absolute(), accounts)
    return [Middleware(Door, accounts=accounts, sessions=sessions, for_viewers=allowed(events), language=job.lang)]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

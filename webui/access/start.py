"""Whether others can reach the page that a command asks for, and who they may be."""

from __future__ import annotations

from pathlib import Path

from engine.catalog.accounts import AccountsFile, account_for_one_start
from engine.options.serve import Serve
from engine.runs.api import is_loopback
from engine.runs.folder import SAVES
from engine.words import words
from webui.access.sessions import Sessions
from webui.access.sharing import Sharing

SESSIONS = SAVES / ".access" / "sessions.json"


def needs_door(job: Serve) -> bool:
    """Whether others than this machine's own users could reach the page, or accounts are named."""
    return job.share or bool(job.auth_file) or not is_loopback(job.host)


def sharing_of(job: Serve) -> Sharing | None:
    """How the page is shared; None: it is not. Without a file of accounts it makes a password and prints it, once.

    Raises:
        UserError: the file of accounts cannot be used.
    """
    if not needs_door(job):
        return None
    if job.auth_file:
        path = Path(job.auth_file).expanduser()
        accounts = AccountsFile(
            path, lambda error: print(words("access.kept", job.lang, detail=error.text(job.lang)), flush=True)
        )
    else:
        account, password = account_for_one_start()
        accounts = {account.name: account}
        print(words("access.made", job.lang, name=account.name, password=password), flush=True)
    return Sharing(accounts, Sessions(SESSIONS.absolute(), accounts), job.lang)

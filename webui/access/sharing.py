"""A page that others can reach: its addresses, who is connected, what stands before its routes; and how it ends."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from starlette.middleware import Middleware

from engine.catalog.accounts import Account
from engine.errors import UserError
from webui.access.door import Door
from webui.access.limits import Limited, Limits
from webui.access.sessions import Sessions
from webui.access.tunnel import close_tunnels, open_tunnel
from webui.access.viewers import allowed


class Sharing:
    """Args: accounts: who there is, by name; sessions: who has signed in; language: where a browser names none."""

    def __init__(self, accounts: Mapping[str, Account], sessions: Sessions, language: str) -> None:
        self._accounts, self._sessions, self._language = accounts, sessions, language
        self.limits = Limits()
        self.addresses: list[str] = []
        self.fault: UserError | None = None
        self.is_over = False

    def middleware(self, events: Mapping[int, Any]) -> list[Middleware]:
        """What stands before gradio, the outermost first. Args: events: gradio's, by number."""
        door = Middleware(
            Door, accounts=self._accounts, sessions=self._sessions, for_viewers=allowed(events),
            language=self._language, is_over=lambda: self.is_over,
        )  # fmt: skip
        return [Middleware(Limited, limits=self.limits, sessions=self._sessions, language=self._language), door]

    def begin(self, host: str, port: int, has_tunnel: bool) -> None:
        """The page is served now; a tunnel that cannot be opened leaves the rest as it is, and its ``fault``."""
        name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        self.addresses = [f"http://{name}:{port}"]
        if has_tunnel:
            try:
                self.addresses.append(open_tunnel(host, port))
            except UserError as error:
                self.fault = error

    def stop(self, token: str | None) -> None:
        """From now on only this machine is answered. Args: token: of the session that goes on, all others end."""
        self.is_over = True
        self.addresses = self.addresses[:1]
        self._sessions.end_all_but(token)
        close_tunnels()

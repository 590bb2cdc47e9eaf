"""``password``: a line for the accounts file of the page. The password is asked for, never an argument."""

from __future__ import annotations

import getpass
import sys

from engine.catalog.accounts import OWNER, VIEWER, Account, hashed
from engine.errors import UserError
from engine.words import words

LEAST = 8


def password(arguments: list[str], language: str) -> int:
    """Print the line. Returns 0, or 2 where the words make no sense.

    Raises:
        UserError: the password is short, or typed differently the second time.
    """
    usage = words("cli.commands.password", language)
    if "--help" in arguments or "-h" in arguments:
        print(usage)
        return 0
    name, role = [*arguments, OWNER][:2] if arguments else ("", OWNER)
    if not name or ":" in name or name.startswith(("-", "#")) or role not in (OWNER, VIEWER) or len(arguments) > 2:
        print(usage, file=sys.stderr)
        return 2
    chosen = getpass.getpass(words("access.ask", language, name=name))
    if len(chosen) < LEAST:
        raise UserError("access.password_short", least=LEAST)
    if getpass.getpass(words("access.ask_again", language)) != chosen:
        raise UserError("access.passwords_differ")
    print(words("access.line", language), file=sys.stderr)
    account = Account(name, role, hashed(chosen))
    print(f"{account.name}:{account.role}:{account.hash}")
    return 0

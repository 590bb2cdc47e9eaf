"""Secrets taken out of a text, in whatever spelling: values of the environment whose names say so, and known shapes.

It would rather take out too much than too little.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from engine.runs.spelling import View, as_written, joined, letters, readings

REMOVED = "*****"
SHORTEST = 4
"""A shorter value is no secret, and to take it out would leave nothing of the text."""
SURE = 8
"""So many letters and digits in this order are no accident, whatever stands between them."""
MOST_AROUND = 4096
NO_SECRETS = {"true", "false", "none", "null", "auto", "default", "disabled", "enabled"}

_NAMES = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|APIKEY|WEBHOOK|(?:^|_)(?:KEYS?|AUTH|COOKIE|DSN|PASS|PAT)(?:_|$)|_PWD$",
    re.IGNORECASE,
)
_SHAPES = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{10,}", 0),
        (r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{10,}", 0),
        (r"(?<![A-Za-z0-9])(?:gh[opsur]_|npm_|wandb_v\d_)[A-Za-z0-9_]{10,}", 0),
        (r"(?<![A-Za-z0-9])(?:github_pat_|glpat-|xox[a-z]-|pypi-|r8_|nvapi-)[A-Za-z0-9_-]{10,}", 0),
        (r"(?<![A-Za-z0-9])(?:AKIA|ASIA)[0-9A-Z]{16}|(?<![A-Za-z0-9])AIza[0-9A-Za-z_-]{30,}", 0),
        (r"(?<![0-9A-Fa-f])[0-9a-f]{40}(?![0-9A-Fa-f])", 0),  # wandb's keys; a commit looks the same
        (r"(?<![A-Za-z0-9])ms-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", 0),
        (r"(?<![A-Za-z0-9])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?", 0),
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        (r"(?:hooks\.slack\.com/services|discord(?:app)?\.com/api/webhooks)/([\w/-]{8,})", 0),
        (r"://[^\s/:@\"']*:([^\s/@\"']+)@", 0),
        (r"\b(?:bearer|basic)\s+([A-Za-z0-9._~+/=-]{8,})", re.IGNORECASE),
        (r"(?:(?:hub|auth|access|api|bearer|session|refresh|user|github|gh|gitlab|hf|wandb|slack|bot)[_-]?token"
         r"|(?:api|access|secret|private|auth|signing|encryption)[_-]?key|client[_-]?secret|passw(?:or)?d|passphrase)"
         r"[\"']?\s*[:=]\s*[\"']?([^\s\"',;&{}()]{6,})", re.IGNORECASE),
    )
)  # fmt: skip
"""Where there is a group, the secret is what it holds."""
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/_-]{14,}(?:\r?\n[ \t]*)?)+={0,2}")
_HEX = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}){14,}(?![0-9A-Fa-f])")
_AROUND = re.compile(r"[A-Za-z0-9+/=_-]*")


class Redactor:
    """Takes the same secrets out of many texts.

    Args:
        secrets: values that are secret.
        spared: texts of a secret's shape that are known to be none, commits for example.
    """

    def __init__(self, secrets: Iterable[str] = (), spared: Iterable[str] = ()) -> None:
        self._spared = frozenset(spared)
        self._secrets: set[str] = set()
        self._exact: set[str] = set()
        self._sure: set[str] = set()
        for secret in secrets:
            self._add(secret)

    def learn(self, text: str) -> None:
        """Take up the secrets that a text holds by their shape, so that other spellings of them are found too."""
        for view in _pieces(text):
            for begin, end in self._shapes(view.text):
                self._add(view.text[begin:end])

    def redact(self, text: str) -> str:
        """The text without its secrets."""
        places = sorted(self._places(text))
        parts, done = [], 0
        for begin, end in places:
            if end <= done:
                continue
            if begin > done or not parts:
                parts += [text[done:begin], REMOVED]
            done = end
        return "".join(parts) + text[done:]

    def holds_secret(self, text: str) -> bool:
        return self.redact(text) != text

    def _add(self, secret: str) -> None:
        for value in {secret, secret.strip(), *(line.strip() for line in secret.splitlines() if len(line) >= 16)}:
            if len(value) >= SHORTEST and value.lower() not in NO_SECRETS and value not in self._secrets:
                self._secrets.add(value)
                found = {form for form in _forms(value) if len(form) >= SHORTEST}
                self._exact |= found
                self._sure |= {only for form in found if len(only := letters(as_written(form)).text) >= SURE}

    def _places(self, text: str) -> Iterator[tuple[int, int]]:
        for view in readings(text):
            for each in (view, *joined(view)):
                yield from (each.place(*found) for found in self._shapes(each.text))
                yield from (self._around(text, each.place(*found)) for found in _occurrences(self._exact, each.text))
                yield from (each.place(*found) for found in self._hidden(each.text))
            only = letters(view)
            yield from (self._around(text, only.place(*found)) for found in _occurrences(self._sure, only.text))

    def _shapes(self, text: str) -> Iterator[tuple[int, int]]:
        for shape in _SHAPES:
            for found in shape.finditer(text):
                group = 1 if shape.groups else 0
                if found.group(group) not in self._spared and found.group(group) != REMOVED:
                    yield found.span(group)

    def _hidden(self, text: str) -> Iterator[tuple[int, int]]:
        """Base64 and hexadecimal digits that hold something of a secret's shape."""
        for pattern, decode in ((_BASE64, _from_base64), (_HEX, _from_hex)):
            for found in pattern.finditer(text):
                if any(any(True for _ in self._shapes(said)) for said in decode(found[0])):
                    yield found.span()

    def _around(self, text: str, place: tuple[int, int]) -> tuple[int, int]:
        """Where a secret stands in base64, its first and last letters are mixed with what stands beside it."""
        begin, end = place
        if not _AROUND.fullmatch(text[begin:end]) or text[begin:end] in self._secrets:
            return place
        before = text[max(0, begin - MOST_AROUND) : begin][::-1]
        return begin - len(_AROUND.match(before)[0]), _AROUND.match(text, end).end()


def secrets_of(environment: Mapping[str, str] = os.environ) -> set[str]:
    """Values of variables whose names say that they are secret, and passwords inside addresses."""
    found = {value for name, value in environment.items() if _NAMES.search(name)}
    for value in environment.values():
        found |= set(re.findall(r"://[^\s/:@]*:([^\s/@]+)@", value))
    return found


def _pieces(text: str) -> Iterator[View]:
    for view in readings(text):
        yield view
        yield from joined(view)


def _forms(secret: str) -> Iterator[str]:
    """A secret as it may be written, but for what ``readings`` undoes."""
    for view in readings(secret):
        yield view.text
        yield from (each.text for each in joined(view))
    escaped = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1]}
    yield quote_plus(secret)
    inner = [core for form in escaped for core in _cores(form.encode("utf-8", "surrogatepass"))]
    twice = [core for once in _cores(secret.encode("utf-8", "surrogatepass")) for core in _cores(once.encode())]
    for core in (*inner, *twice):
        yield core
        yield core.replace("+", "-").replace("/", "_")
    yield secret.encode("utf-8", "surrogatepass").hex()
    yield secret.encode("utf-8", "surrogatepass").hex().upper()


def _cores(data: bytes) -> Iterator[str]:
    """What stands in base64 wherever these bytes stand in what was encoded: it depends on the place modulo 3."""
    for before in range(3):
        written = base64.b64encode(bytes(before) + data).decode()
        yield written[(before * 8 + 5) // 6 : (before + len(data)) * 8 // 6]


def _occurrences(needles: Iterable[str], text: str) -> Iterator[tuple[int, int]]:
    for needle in needles:
        begin = text.find(needle)
        while begin >= 0:
            yield begin, begin + len(needle)
            begin = text.find(needle, begin + 1)


def _from_base64(written: str) -> Iterator[str]:
    plain = re.sub(r"\s", "", written).rstrip("=").replace("-", "+").replace("_", "/")
    for skipped in range(4):
        part = plain[skipped:]
        try:
            yield base64.b64decode(part[: len(part) // 4 * 4] + _filled(part)).decode("latin-1")
        except (binascii.Error, ValueError):
            continue


def _filled(part: str) -> str:
    """The last, incomplete group of four, filled up; of one letter alone nothing can be told."""
    rest = part[len(part) // 4 * 4 :]
    return rest + "=" * (4 - len(rest)) if len(rest) > 1 else ""


def _from_hex(written: str) -> Iterator[str]:
    yield bytes.fromhex(written).decode("latin-1")


def redacted(value: Any, redactor: Redactor) -> Any:
    """Texts within mappings and lists without their secrets, names included."""
    if isinstance(value, str):
        return redactor.redact(value)
    if isinstance(value, dict):
        return {redactor.redact(str(name)): redacted(each, redactor) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(each, redactor) for each in value]
    return value

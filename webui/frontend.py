"""Two functions of gradio 6.31's browser part, replaced on their way to the browser: most of what a click cost.

For every component that an event changes, asks or tells that it has begun, the browser looks for it through the whole
page, some 1,700 parts that Svelte watches, each time from the first. Here it goes straight to where it found it last.
And it copies all that the component holds, choices and all, to read one value of it. Here it copies what is read.
In another gradio, whose functions read otherwise, nothing is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import Headers
from starlette.responses import Response

ASSETS = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
WALK = re.compile(
    r"function (?P<name>\w+)\((?P<part>\w),(?P<id>\w)\)\{if\((?P=part)\.id===(?P=id)\)return (?P=part);"
    r"if\((?P=part)\.children\)for\(let (?P<child>\w) of (?P=part)\.children\)"
    r"\{let (?P=part)=(?P=name)\((?P=child),(?P=id)\);if\((?P=part)\)return (?P=part)\}return null\}"
)
"""The search, as gradio's build writes it."""
STRAIGHT = """\
const latheWays=new Map;\
function NAME(root,id){\
let part=root;\
for(const each of latheWays.get(id)??[-1])if(!(part=part.children?.[each]))break;\
if(part?.id===id)return part;\
const way=[],search=(within)=>{\
if(within.id===id)return within;\
const parts=within.children??[];\
for(let each=0;each<parts.length;each++){\
way.push(each);const found=search(parts[each]);if(found)return found;way.pop()}\
return null};\
const found=search(root);\
if(found)latheWays.set(id,way);\
return found}"""
"""The way to a part is a number for each level. A part that has moved is searched for as before."""
ASKED = re.compile(r"async get_data\(\)\{return (?P<name>\w+)\(this\.props\)\}")
"""What a component holds, copied to the depth by the function of that name."""
SPARSE = """\
async get_data(){\
const latheHeld={...this.props};\
return new Proxy(latheHeld,{get:(held,each)=>NAME(held[each])})}"""
"""Each property is copied when it is read."""


@cache
def etag(path: str) -> str:
    return f'"{sha256(replaced()[path]).hexdigest()}"'


@cache
def replaced() -> dict[str, bytes]:
    """By the name of a file: what the browser gets instead."""
    found = {}
    for files, theirs, ours in (("core-*.js", WALK, STRAIGHT), ("src-*.js", ASKED, SPARSE)):
        for path in ASSETS.glob(files):
            text, count = theirs.subn(_ours(ours), path.read_text(encoding="utf-8"))
            if count == 1:
                found[f"/assets/{path.name}"] = text.encode()
    return found


def _ours(text: str) -> Callable[[re.Match[str]], str]:
    return lambda found: text.replace("NAME", found["name"])


class Replaced:
    """ASGI middleware: hands out what is replaced, and leaves all else to gradio."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable[..., Awaitable[None]]) -> None:
        content = replaced().get(scope["path"]) if scope["type"] == "http" and scope["method"] == "GET" else None
        if content is None:
            await self._app(scope, receive, send)
            return
        headers = {"cache-control": "no-cache", "etag": etag(scope["path"])}
        if Headers(scope=scope).get("if-none-match") == headers["etag"]:
            answer = Response(status_code=304, headers=headers)
        else:
            answer = Response(content, media_type="text/javascript", headers=headers)
        await answer(scope, receive, send)

"""Puts the tabs together into one page, and serves it."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from engine.errors import UserError
from engine.options.serve import Serve
from engine.runs.delete import finish_deletions
from engine.runs.queue import keep
from engine.words import words
from webui.access.allowed import allow, allowed_by, secret_files
from webui.access.banner import Banner
from webui.access.door import role_of
from webui.access.seal import Seal
from webui.access.sharing import Sharing
from webui.access.start import needs_door, sharing_of
from webui.access.tunnel import close_tunnels
from webui.access.viewers import may_see
from webui.empty import OPENS
from webui.frame import FREE, QUICK, Frame, Panel, Seen
from webui.frontend import Replaced
from webui.gathering import Page
from webui.kept import Kept
from webui.language import Texts, escaped, glossary
from webui.lean import calm, without_an_app
from webui.notify import tell_of_ends
from webui.tab_chat import ChatTab
from webui.tab_data import DataTab
from webui.tab_evaluate import EvaluateTab
from webui.tab_export import ExportTab
from webui.tab_gguf import GgufTab
from webui.tab_runs import RunsTab
from webui.tab_train import TrainTab
from webui.theme import CSS, head, theme
from webui.topbar import TopBar
from webui.visit import KEEP, InItsLanguage

TICK_S = 1.5
QUEUE_S = 10.0
HOUR_S, DAY_S = 3600, 86400
"""What was uploaded or made to be downloaded is looked at every hour, and goes after a day."""
TABS = ("data", "train", "runs", "eval", "chat", "export", "gguf")
FIRST_TAB = "train"
LARGEST_UPLOAD = "2gb"
Numbered = list[tuple[int, Panel]]


def serve(job: Serve) -> int:
    """Serve the page until it is interrupted. Returns the exit code.

    Raises:
        UserError: another program already listens on the port, the file of accounts cannot be used, or what the page
            may read and run is not right.
    """
    allowed = allowed_by(job, needs_door(job))
    _refuse_taken_port(job.host, job.port)
    allow(allowed)
    _reach_localhost_without_proxy()
    sharing = sharing_of(job)
    page = build_page(job.lang, sharing)
    calm(page)
    guard = sharing.middleware(page.fns) if sharing else ()
    stands_before = [
        Middleware(Seal, has_door=needs_door(job), language=job.lang), *guard,
        Middleware(InItsLanguage, default=job.lang), Middleware(Replaced),
    ]  # fmt: skip
    page.launch(
        server_name=job.host, server_port=job.port, share=False, inbrowser=job.inbrowser, theme=theme(),
        css_paths=[CSS], head=head(), footer_links=[], run_history=False, enable_monitoring=False, mcp_server=False,
        ssr_mode=False, strict_cors=True, show_error=False, quiet=True, prevent_thread_lock=True,
        max_file_size=LARGEST_UPLOAD, app_kwargs={"middleware": stands_before},
        allowed_paths=[], blocked_paths=[str(path) for path in secret_files(job)],
        _frontend=False,  # gradio 6.31 else gives up when its own page takes over 3 s to answer, as on a busy machine
    )  # fmt: skip
    threading.Thread(target=_mind_the_queue, daemon=True).start()
    print(words("page.served", job.lang, address=f"http://{job.host}:{job.port}"), flush=True)
    try:
        if sharing:
            sharing.begin(job.host, job.port, has_tunnel=job.share)
            _tell_of_tunnel(sharing, job)
        page.block_thread()
    finally:
        close_tunnels()
        page.close()
    return 0


def _tell_of_tunnel(sharing: Sharing, job: Serve) -> None:
    for address in sharing.addresses[1:]:
        print(words("page.served", job.lang, address=address), flush=True)
    if sharing.fault:
        print(sharing.fault.text(job.lang), flush=True)


def build_page(language: str = "en", sharing: Sharing | None = None) -> Page:
    """The whole page.

    Args:
        language: until a browser says which it reads.
        sharing: where others can reach the page: visitors have signed in, and can sign out.
    """
    texts = Texts(language)
    settings = {"analytics_enabled": False, "fill_width": True, "delete_cache": (HOUR_S, DAY_S)}
    with without_an_app(), Page(title="Lathe", **settings) as page:
        dataset = gr.BrowserState({"name": ""}, storage_key="lathe-data", secret="lathe")
        guide = gr.BrowserState({"is_away": None}, storage_key="lathe-guide", secret="lathe")
        talk = gr.BrowserState({"name": ""}, storage_key="lathe-talk", secret="lathe")  # in a tab it is read too late
        texts.make(gr.HTML, {"value": glossary}, elem_id="glossary", js_on_load=None)
        banner = Banner(sharing) if sharing else None
        top = TopBar(texts, sharing is not None)
        tab, shown, seen = gr.State(FIRST_TAB), gr.State(None), gr.State(Seen())
        with gr.Tabs(elem_id="tabs", selected=FIRST_TAB, overflow_behavior="wrap") as tabs:
            frame = Frame(texts, top, tabs, tab)
            made: dict[str, Any] = {}
            makers: dict[str, Callable[[], Any]] = {
                "data": lambda: DataTab(frame),
                "train": lambda: TrainTab(frame, shown, guide),
                "runs": lambda: RunsTab(frame, made["train"], shown),
                "eval": lambda: EvaluateTab(frame),
                "chat": lambda: ChatTab(frame, talk),
                "export": lambda: ExportTab(frame),
                "gguf": lambda: GgufTab(frame),
            }
            for name in TABS:
                with texts.make(gr.Tab, {"label": f"page.tabs.{name}"}, id=name, elem_id=f"tab-{name}") as opened:
                    texts.make(
                        gr.HTML, {"value": partial(_heading, name)}, elem_classes="out-of-sight", js_on_load=None
                    )
                    made[name] = makers[name]()
                # In gradio 6.31 a state's change is noticed in the browser only when a queued event has changed it.
                opened.select(lambda name=name: name, None, tab, **FREE)
        top.connect()
        if banner:
            top.tells_who(page.load)
            banner.connect(page.load, top.language, top.spoken)
        made["data"].leads_to(made["train"])
        made["train"].opens(made["chat"])
        made["runs"].opens(made["chat"], made["export"])
        made["export"].opens(made["chat"], made["gguf"])
        made["gguf"].opens(made["chat"])
        for each in made.values():
            each.connect()
        made["data"].remembers(page.load, dataset)
        made["chat"].room.remembers(page.load)
        Kept(frame).connect(page.load)
        tell_of_ends(frame, shown)
        _watch_folders(page, frame, seen)
        _speak(page, frame, shown)
        _spare_the_browser(page)
        page.gather()
    return page


def _heading(tab: str, language: str) -> str:
    """A tab's name, for who goes through the page by its headings."""
    return f"<h2>{escaped(words(f'page.tabs.{tab}', language))}</h2>"


def _spare_the_browser(page: gr.Blocks) -> None:
    """Let no event that shows nothing while it runs tell its outputs that it has begun and that it has ended.

    The browser's part of gradio 6.31 writes that into every component that ever was an output of any event, twice with
    each event, a tick included: most of a browser's work on this page, and seconds on a slow machine.
    """
    nowhere = gr.State()
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [nowhere]


def _mind_the_queue() -> None:
    """See to it that something starts what waits: whoever did may have been killed, or the machine restarted.

    What a killed process had begun to delete goes first.
    """
    try:
        finish_deletions()
    except OSError:
        traceback.print_exc()
    while True:
        try:
            keep()
        except OSError:
            traceback.print_exc()  # a full disk, say; it may be better later
        time.sleep(QUEUE_S)


def _watch_folders(page: gr.Blocks, frame: Frame, seen: Any) -> None:
    """What the open tab shows of run folders, and only what has changed; a timer for each tab, of which one runs."""
    panels = list(enumerate(frame.panels))  # a tab may hold several
    tabs = list(dict.fromkeys(panel.tab for _, panel in panels))
    timers = [gr.Timer(TICK_S, active=name == FIRST_TAB) for name in tabs]

    received = gr.Number(0, precision=0, visible=False)  # kept by the browser: what has come there is not known here

    def look(
        request: gr.Request, tab: str, among: Numbered, language: str, seen: Seen, received: int | None, values: list
    ) -> list[Any]:
        rest, updates, renders = values, [], {}
        is_shown = may_see(role_of(request), tab)
        for number, panel in among:
            own, rest = rest[: len(panel.inputs)], rest[len(panel.inputs) :]
            if panel.tab == tab and is_shown:
                renders[number] = partial(panel.render, language, *own)
        news, sent = seen.news(received, renders)
        for number, panel in among:
            updates += news.get(number, [gr.skip()] * len(panel.outputs))
        return [*updates, sent]

    def arrive(
        request: gr.Request, tab: str, language: str, seen: Seen, received: int | None, *values: Any
    ) -> list[Any]:
        return [*awake(tab), *look(request, tab, panels, language, seen, received, list(values))]

    def awake(tab: str) -> list[Any]:
        return [gr.Timer(active=name == tab) for name in tabs]

    def staying(own_tab: str, among: Numbered) -> Callable[..., list[Any]]:
        def stay(
            request: gr.Request, tab: str, language: str, seen: Seen, received: int | None, *values: Any
        ) -> list[Any]:
            if tab != own_tab:  # answers overtook one another, and the wrong timer has stayed awake
                return [*awake(tab), *[gr.skip() for _, panel in among for _ in panel.outputs], gr.skip()]
            return [*[gr.skip()] * len(timers), *look(request, tab, among, language, seen, received, list(values))]

        return stay

    told = [frame.tab, frame.language, seen, received]
    for name, timer in zip(tabs, timers, strict=True):
        own = [(number, panel) for number, panel in panels if panel.tab == name]
        inputs = [each for _, panel in own for each in panel.inputs]
        outputs = [*timers, *(each for _, panel in own for each in panel.outputs), received]
        stay = staying(name, own)
        timer.tick(stay, [*told, *inputs], outputs, **QUICK)
        if inputs:
            changes = [each.change for each in dict.fromkeys(inputs)]  # several panels may take one input
            gr.on(changes, stay, [*told, *inputs], outputs, trigger_mode="multiple", **QUICK)
    gr.on(
        [page.load, frame.tab.change, frame.spoken.change], arrive,
        [*told, *(each for _, panel in panels for each in panel.inputs)],
        [*timers, *(each for _, panel in panels for each in panel.outputs), received], trigger_mode="multiple", **QUICK,
    )  # fmt: skip


def _speak(page: Page, frame: Frame, shown: Any) -> None:
    """The page is served in the language of the visit; a person may choose another. And the run of its address."""
    texts, language, notices = frame.texts, frame.language, frame.notices
    page.speak(texts, language)

    places, switched_in = [_place_of(component) for component in texts.components], gr.State(FIRST_TAB)

    def in_sight(tab: str) -> list[bool]:
        return [each in ((None, True), (tab, True)) for each in places]

    def switch(tab: str, chosen: str) -> list[Any]:
        """What is in sight; the other tabs and what is folded follow, so that nobody waits for them."""
        return [tab, *[""] * len(notices), *texts.updates(chosen, in_sight(tab))]

    def follow(switched_in: str, chosen: str) -> list[Any]:
        """All else, whichever tab has been opened meanwhile."""
        return [*texts.updates(chosen, [not is_seen for is_seen in in_sight(switched_in)]), chosen]

    def greet(request: gr.Request) -> str | None:
        return request.query_params.get("run")

    page.load(greet, None, shown, **QUICK)
    language.change(switch, [frame.tab, language], [switched_in, *notices, *texts.components], js=KEEP, **QUICK).then(
        follow, [switched_in, language], [*texts.components, frame.spoken], trigger_mode="always_last", **QUICK
    )  # fmt: skip
    page.load(None, None, None, js=OPENS)


def _place_of(component: Any) -> tuple[str | None, bool]:
    """Where a component stands when the page is opened.

    Returns:
        The tab; None: above them, or a tab itself. And whether it is in sight there: nothing around it is folded or
        hidden.
    """
    above, is_in_sight = component.parent, True
    while above is not None and not (isinstance(above, gr.Tab) and above.id in TABS):
        is_in_sight = is_in_sight and above.visible is True and getattr(above, "open", True)
        above = above.parent
    return (above.id if above is not None else None), is_in_sight


def _reach_localhost_without_proxy() -> None:
    """Gradio asks its own server whether it has started: a proxy of the user's environment cannot answer that."""
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))


def _refuse_taken_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError("port_taken", port=port, host=host, detail=error.strerror) from error

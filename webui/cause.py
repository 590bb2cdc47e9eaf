"""Why a run ended before its time, as HTML: kind of cause, sentence, what to do, and the end of the log to unfold."""

from __future__ import annotations

from engine.runs.cause import cause_of, last_lines
from engine.runs.folder import Folder
from engine.words import words
from webui.language import escaped, marked


def cause_notice(folder: Folder, language: str) -> str:
    """What a run's card says of its failure; empty where it has not failed, or was deleted meanwhile."""
    try:
        cause = cause_of(folder)
    except (FileNotFoundError, KeyError, ValueError):
        return ""
    if cause is None:
        return ""
    label = escaped(words("causes.is", language, label=cause.label(language)))
    advice = cause.advice(language)
    to_do = f"<p><b>{escaped(words('causes.to_do', language))}:</b> {marked(advice)}</p>" if advice else ""
    end = last_lines(folder)
    summary = escaped(words("causes.log_end", language))
    log = f'<details><summary>{summary}</summary><pre tabindex="0">{escaped(end)}</pre></details>' if end else ""
    said = f'<p class="cause-kind"><b>{label}</b></p><p>{marked(cause.sentence(language))}</p>'
    return f'<div class="notice error cause" role="alert" data-cause="{cause.kind}">{said}{to_do}{log}</div>'

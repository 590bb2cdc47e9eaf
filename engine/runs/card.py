"""A run's card: what was done, with what, and what came out, as Markdown made from its folder alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from engine.catalog.devices import memory_text
from engine.errors import UserError
from engine.options.base import Options
from engine.options.command import as_text, preview
from engine.options.yaml_text import write_yaml
from engine.runs.facts import Facts, read_facts
from engine.runs.folder import Folder
from engine.runs.notes import read_notes
from engine.runs.progress import watch
from engine.runs.read import State, read_job, read_language, read_state
from engine.runs.record import write_text
from engine.runs.times import clock
from engine.runs.votes import tallies
from engine.words import has_words, words

OF_AN_ATTEMPT = ("output_dir", "overwrite_output_dir", "resume_from_checkpoint")
"""Options that differ between the attempts at one and the same training."""


def card(folder: Folder, language: str = "en", state: State | None = None) -> str:
    """The whole card.

    Args:
        state: where the run stands, if its folder does not say so yet.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    state = state or read_state(folder)
    facts = read_facts(folder)
    try:
        job = read_job(folder)
    except (UserError, OSError):
        job = None  # of another version; what was written down still counts
    parts = [*_heading(folder), *_ending(state, language), *_results(folder, state, facts, language)]
    parts += [*_votes(folder, language), *_made_with(facts, job, language)]
    if job is not None:
        parts += _asked(job, {"output_dir": str(folder.path)} if state.kind == "train" else {}, language)
    return "\n\n".join(part for part in parts if part) + "\n"


def renew_card(folder: Folder) -> None:
    """Write RUN.md anew, where a training has left one: people have said something of it since."""
    if folder.card.is_file():
        write_text(folder.card, card(folder, read_language(folder)))


def _heading(folder: Folder) -> list[str]:
    """Its title, if somebody gave it one, else its name; and what somebody noted."""
    notes = read_notes(folder)
    quoted = "\n".join(f"> {line}".rstrip() for line in notes.note.splitlines())
    return [f"# {notes.title}", f"`{folder.name}`", quoted] if notes.title else [f"# {folder.name}", quoted]


def section_of(folder: Folder, step: int | None = None) -> str:
    """What a merged model's own card says of the run that made its adapter: the same facts, in English, without places.

    Args:
        step: of the checkpoint that was merged, if it was not the run's last step.

    Raises:
        FileNotFoundError: there is no run in the folder.
    """
    state, facts = read_state(folder), read_facts(folder)
    parts = [words("card.checkpoint", "en", step=step)] if step is not None else []
    parts += [*_ending(state, "en", is_public=True), *_results(folder, state, facts, "en")]
    try:
        job = read_job(folder)
    except (UserError, OSError):
        job = None
    parts += _made_with(facts, job, "en", is_public=True)
    parts += _asked(without_places(job), {}, "en") if job is not None else []
    title = f"## {words('card.trained', 'en', name=folder.path.name)}"
    below = [f"#{part}" if part.startswith("#") else part for part in parts if part]
    return "\n\n".join([title, *below]) + "\n"


def without_places(job: Options) -> Options:
    """The job with files and folders by their last names only; ids on a hub stay whole. It is for reading."""
    values = {name: getattr(job, name) for name in type(job).model_fields}
    return job.model_copy(update={name: _placeless(value) for name, value in values.items()})


def _ending(state: State, language: str, is_public: bool = False) -> list[str]:
    said = [f"**{words(f'page.status.{state.status}', language)}**"]
    if state.started_at:
        said.append(words("card.started", language, time=_moment(state.started_at)))
    if state.finished_at:
        said.append(words("card.finished", language, time=_moment(state.finished_at)))
    if state.started_at and state.finished_at:
        said.append(words("card.took", language, time=clock(state.finished_at - state.started_at)))
    parts = [" · ".join(said)]
    if state.error and not is_public:  # its facts name places
        key, facts = f"errors.{state.error['key']}", state.error.get("facts") or {}
        parts.append("> " + (words(key, language, **facts) if has_words(key) else state.error["key"]))
    return parts


def _results(folder: Folder, state: State, facts: Facts, language: str) -> list[str]:
    progress = watch(folder)
    rows: list[tuple[str, Any]] = []
    if progress.total_steps:
        rows.append((words("card.steps", language), f"{progress.step} / {progress.total_steps}"))
    losses, evaluated = (progress.curves.get(name) for name in ("loss", "eval_loss"))
    told = {"loss_first": losses and losses.first, "loss_last": losses and losses.last}
    told["eval_best"] = evaluated and evaluated.least
    rows += [(words(f"card.{key}", language), f"{at[1]:.6g} ({at[0]:.0f})") for key, at in told.items() if at]
    result = state.result or {}
    rows += [(f"`{name}`", _figure(value)) for name, value in sorted((result.get("metrics") or {}).items())]
    others = {
        name: value for name, value in result.items() if name not in ("metrics", "rows", "saved_at", "output_dir")
    }
    rows += [(f"`{name}`", _figure(value)) for name, value in sorted(others.items()) if not isinstance(value, dict)]
    if parameters := facts.others.get("parameters"):
        shown = f"{parameters['trained']:,} / {parameters['all']:,}"
        rows.append((words("card.parameters", language), shown))
    if precision := facts.others.get("precision"):
        shown = f"{precision['weights']}, {precision['trained']}, {precision['autocast']}"
        rows.append((words("card.precision", language), shown))
    return [f"## {words('card.results', language)}", _table(rows)] if rows else []


def _votes(folder: Folder, language: str) -> list[str]:
    """How often people found its answers better than others', side by side."""
    rows = [(f"`{each.own}`", f"`{each.other}`", each.wins, each.losses, each.ties, each.both_bad)
            for each in tallies(folder)]  # fmt: skip
    if not rows:
        return []
    head = tuple(words(f"votes.{name}", language) for name in ("own", "other", "wins", "losses", "ties", "both_bad"))
    return [f"## {words('votes.title', language)}", _table(rows, head)]


def _made_with(facts: Facts, job: Options | None, language: str, is_public: bool = False) -> list[str]:
    parts = []
    if facts.models:
        rows = [
            (f"`{role}`", _named(each, is_public), each.get("revision") or "–", each["bytes"], f"`{each['sha256']}`")
            for role, each in facts.models.items()
        ]
        head = ("", words("card.name", language), words("card.revision", language), words("card.bytes", language))
        parts += [f"## {words('card.models', language)}", _table(rows, (*head, "SHA-256"))]
    if facts.datasets:
        rows = [_dataset_row(name, each) for name, each in facts.datasets.items()]
        head = [words(f"card.{name}", language) for name in ("name", "rows", "learned_tokens", "files", "bytes")]
        parts += [f"## {words('card.datasets', language)}", _table(rows, (*head, "SHA-256"))]
    if not facts.attempts:
        return parts
    last = facts.attempts[-1]
    rows = [(name, shown) for name, shown in last["versions"].items()]
    parts += [f"## {words('card.versions', language)}", _table(rows), _git(last.get("git"), language)]
    rows = [(each["address"], each["name"], memory_text(each["memory_bytes"]), each["cores"] or "–")
            for each in last["machine"]]  # fmt: skip
    head = ("", words("card.name", language), words("card.memory", language), words("card.cores", language))
    parts += [f"## {words('card.machine', language)}", _table(rows, head)]
    if "threads" in last:
        parts.append(words("card.threads", language, count=last["threads"], device=facts.others.get("device", "?")))
    if job is not None and hasattr(job, "seed"):
        parts.append(words("card.seed", language, seed=job.seed))
    if len(facts.attempts) > 1:
        lines = [_attempt(number, facts.attempts, language, is_public) for number in range(len(facts.attempts))]
        parts += [f"## {words('card.attempts', language)}", "\n".join(lines)]
    return parts


def _asked(job: Options, decided: dict[str, Any], language: str) -> list[str]:
    """The command as it was given, and all options with what was decided about them since."""
    options = write_yaml(job.values() | decided, sort_keys=False).strip()
    return [
        f"## {words('card.command', language)}", f"```sh\n{preview(job)}\n```",
        f"## {words('card.options', language)}", f"```yaml\n{options}\n```",
    ]  # fmt: skip


def changes(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The options in which two attempts at a training differ, but for those that say where it is and goes on."""
    names = dict.fromkeys((*before, *after))
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if name not in OF_AN_ATTEMPT and before.get(name) != after.get(name)
    }


def _attempt(number: int, attempts: list[dict[str, Any]], language: str, is_public: bool) -> str:
    """One line: when it began, from which step, and what was other than in the one before."""
    each = attempts[number]
    text = words("card.attempt", language, time=_moment(each.get("time")), step=each.get("from_step", 0))
    if number:
        earlier = attempts[number - 1]
        differing = changes(earlier["options"], each["options"]) | changes(earlier["versions"], each["versions"])
        for name, (old, new) in differing.items():
            shown = (_placeless(old), _placeless(new)) if is_public else (old, new)
            text += f"; {name}: {' → '.join(map(as_text, shown))}"
    return f"{number + 1}. {text}"


def _dataset_row(name: str, facts: dict[str, Any]) -> tuple[Any, ...]:
    digest = f"`{facts['sha256']}`" if facts.get("sha256") else "–"
    shown = Path(name).name if Path(name).is_absolute() else name
    return (
        shown, facts.get("rows", "–"), facts.get("learned_tokens", "–"), facts.get("files", "–"),
        facts.get("bytes", "–"), digest,
    )  # fmt: skip


def _named(model: dict[str, Any], is_public: bool) -> str:
    return _placeless(model["name"]) if is_public else model["name"]


def _git(state: dict[str, Any] | None, language: str) -> str:
    if state is None:
        return words("card.no_git", language)
    if not state["changed"]:
        return words("card.git_clean", language, commit=state["commit"])
    return words("card.git_changed", language, commit=state["commit"], files=", ".join(state["changed"]))


def _figure(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _moment(time_s: float | None) -> str:
    """With the difference from UTC: a card is read elsewhere too."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(time_s)) if time_s else "–"


def _table(rows: list[tuple[Any, ...]], head: tuple[str, ...] | None = None) -> str:
    head = head or ("",) * len(rows[0])
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _placeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _placeless(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_placeless(each) for each in value)
    if not isinstance(value, str) or not _is_place(value):
        return value
    return Path(value).name if "," not in value else ",".join(map(_placeless, value.split(",")))


def _is_place(text: str) -> bool:
    """Whether a text is a path; a hub's id has one slash, and no folder here has its name."""
    if "\n" in text or "/" not in text or "://" in text or len(text) > 4096:
        return False
    return text.startswith(("/", "~", ".")) or text.count("/") > 1 or Path(text).exists()

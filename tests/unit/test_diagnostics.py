"""The zip for others holds what they need and no planted secret, in whatever spelling it stands in the run's folder."""

from __future__ import annotations

import base64
import codecs
import html
import json
import re
import string
import zipfile
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import UserError
from engine.options.jobs import GgufJob, TrainJob
from engine.runs.diagnostics import LOG_LINES, diagnose, file_name
from engine.runs.folder import SAVES, Folder
from engine.runs.record import Recorder, update_state, write_job
from engine.runs.redact import REMOVED, Redactor, redacted, secrets_of
from terminal.runs import runs

ALPHABET = string.ascii_letters + string.digits
SHAPED = {
    "hf": "hf_" + "aZ9kQ2" * 6,
    "openai": "sk-proj-" + "b8Yt_w-4" * 4,
    "github": "ghp_" + "Jx30pL" * 6,
    "wandb": "0123456789abcdef" * 2 + "01234567",
    "modelscope": "ms-01234567-89ab-cdef-0123-456789abcdef",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
}


NAMED = (*SHAPED.values(), "pa$$/wörd+ \"x\\y'&<%41>", "hunter2!", "short", "----\nline one of a key\nline two of it\n")


def utf16(text: str) -> list[int]:
    """The numbers that JSON writes for letters; two for one beyond 16 bits."""
    written = text.encode("utf-16-le")
    return [int.from_bytes(written[place : place + 2], "little") for place in range(0, len(written), 2)]


def cut_by_quotes(secret: str) -> str:
    third = max(1, len(secret) // 3)
    return f'\'{secret[:third]}\'"{secret[third : 2 * third]}" + "{secret[2 * third :]}"'


SPELLINGS = {
    "plain": lambda secret: secret,
    "in a URL": lambda secret: quote(secret, safe=""),
    "in a form": quote_plus,
    "every byte in a URL": lambda secret: "".join(f"%{byte:02x}" for byte in secret.encode()),
    "in a URL in a URL": lambda secret: quote(quote(secret, safe=""), safe=""),
    "in JSON": lambda secret: json.dumps({"value": secret}),
    "in JSON, letters as they are": lambda secret: json.dumps(secret, ensure_ascii=False).replace("/", "\\/"),
    "in JSON, every letter": lambda secret: "".join(f"\\u{number:04x}" for number in utf16(secret)),
    "in JSON in JSON": lambda secret: json.dumps(json.dumps(secret)),
    "as Python writes it": repr,
    "as bytes": lambda secret: repr(secret.encode()),
    "in HTML": lambda secret: html.escape(secret).replace("/", "&#x2F;").replace("_", "&#95;"),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 within others": lambda secret: base64.b64encode(f"a user:{secret}@x".encode()).decode(),
    "base64 one further": lambda secret: base64.b64encode(f"user:{secret}.".encode()).decode(),
    "base64 two further": lambda secret: base64.b64encode(f"users:{secret}, and more".encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(f"?{secret}".encode()).decode().rstrip("="),
    "base64 in lines": lambda secret: codecs.encode((f"{secret} " * 4).encode(), "base64").decode(),
    "base64 of a URL": lambda secret: base64.b64encode(f"x={quote(secret, safe='')}".encode()).decode(),
    "base64 in base64": lambda secret: base64.b64encode(base64.b64encode(f"u:{secret}".encode())).decode(),
    "base64 in a URL": lambda secret: quote(base64.b64encode(f"u:{secret}".encode()).decode(), safe=""),
    "hexadecimal": lambda secret: secret.encode().hex(),
    "cut by quotes": cut_by_quotes,
    "cut by quotes in JSON": lambda secret: json.dumps(cut_by_quotes(secret)),
    "over two lines": lambda secret: secret[:7] + "\\\n    " + secret[7:],
}
NOT_BY_SHAPE = {"base64 in base64", "in HTML"}
"""Spellings of a token that nobody has named, which are not looked for: it stands in the environment, or it is lost."""


def readings(text: str) -> set[str]:
    """All that a reader may make of a text: an independent, slow way to undo what ``SPELLINGS`` does."""

    def undone(text: str) -> set[str]:
        unescaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
        unescaped = unescaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        unescaped = re.sub(r"\\x([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), unescaped)
        found = {unquote(text), unquote_plus(text), html.unescape(text), unescaped, re.sub(r"\\(.)", r"\1", unescaped)}
        found.add(re.sub(r"\\\n\s*", "", text))
        found.add(re.sub(r"""['"](?:\s*\+?\s*['"])*""", "", text.replace('\\"', '"')))
        for run in re.findall(r"[A-Za-z0-9+/_\-=\n]{8,}", text):
            plain = re.sub(r"[\n=]", "", run).replace("-", "+").replace("_", "/")
            for skipped in range(4):
                part = plain[skipped:]
                part = part[: len(part) // 4 * 4] if len(part) % 4 == 1 else part + "=" * (-len(part) % 4)
                found.add(base64.b64decode(part).decode("utf-8", "replace"))
        found |= {bytes.fromhex(run).decode("latin-1") for run in re.findall(r"(?:[0-9a-f]{2}){4,}", text)}
        return found

    seen, fresh = {text}, {text}
    for _ in range(2):
        fresh = {each for one in fresh for each in undone(one)} - seen
        seen |= fresh
    return seen


def assert_gone(secret: str, text: str) -> None:
    assert not [each for each in readings(text) if secret in each], text


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def a_run(log: str = "", **options) -> Folder:
    folder = Folder(SAVES / "m" / "lora" / "one")
    folder.path.mkdir(parents=True, exist_ok=True)
    values = {"dataset": "identity", "model_name_or_path": "owner/m", **options}
    write_job(folder, TrainJob.from_values(values), "en")
    error = {"key": "unexpected", "facts": {"detail": log[-200:]}}
    update_state(folder, kind="train", status="failed", started_at=1.0, finished_at=2.0, error=error)
    folder.log.write_text(log, encoding="utf-8")
    Recorder(folder).event(warning="disk_full", facts={"detail": log[:200]})
    Recorder(folder).event(current_steps=3, total_steps=9, loss=1.5)
    return folder


def contents(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode("utf-8") for name in archive.namelist()}


# What is in it


def test_it_holds_what_is_needed(capsys):
    folder = a_run("".join(f"line {number}\n" for number in range(2000)), lora_rank=5)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    assert runs(["diagnose", "one", "out.zip"], "en") == 0
    assert "out.zip" in capsys.readouterr().out
    found = contents(Path("out.zip"))
    assert found["log.txt"].splitlines() == [f"line {number}" for number in range(2000 - LOG_LINES, 2000)]
    assert "lora_rank: 5" in found["options.yaml"] and '"failed"' in found["state.json"]
    assert '"torch"' in found["versions.json"] and '"cpu"' in found["devices.json"]
    assert "bug: unexpected" in found["cause.txt"] and found["card.md"].startswith("# m/lora/one")
    assert "owner/m" in found["preflight.txt"] and '"current_steps": 3' in found["events.jsonl"]
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before, "a reader writes nothing"
    assert sorted(path.name for path in Path().iterdir()) == ["out.zip", "saves"]


def test_a_broken_folder_is_told_as_far_as_it_can_be_read():
    folder = a_run("the end\n")
    folder.job.write_text("kind: [")
    found = contents(diagnose(folder, Path("out.zip")))
    assert "the end" in found["log.txt"] and "could not be found out" in found["preflight.txt"]


def test_a_run_of_another_kind(capsys):
    folder = Folder(SAVES / "m" / "gguf" / "two")
    folder.path.mkdir(parents=True)
    write_job(folder, GgufJob(model_name_or_path="m", outfile="x.gguf"), "en")
    update_state(folder, kind="gguf", status="done")
    assert runs(["diagnose", "two"], "en") == 0
    assert "x.gguf" in contents(Path("diagnostics-m_gguf_two.zip"))["options.yaml"]


def test_where_nothing_may_be_written_that_is_said():
    Path("file").write_text("")
    with pytest.raises(UserError) as refused:
        diagnose(a_run(), Path("file/out.zip"))
    assert refused.value.key == "file_not_written"


# What is not


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("secret", NAMED)
def test_a_value_of_the_environment_is_gone_in_every_spelling(secret, spelling):
    written = SPELLINGS[spelling](secret)
    redactor = Redactor(secrets_of({"MY_SERVICE_PASSWORD": secret, "PATH": "/usr/bin"}))
    for text in (written, f"before {written} after", f'{{"a": ["{written}"], "b": 2}}\nnext line'):
        left = redactor.redact(text)
        assert REMOVED in left
        for part in {secret.strip(), *(line for line in secret.splitlines() if len(line) >= 16)}:
            assert_gone(part, left)


@pytest.mark.parametrize("spelling", sorted(set(SPELLINGS) - NOT_BY_SHAPE))
@pytest.mark.parametrize("kind", SHAPED)
def test_a_token_that_nobody_has_named_is_known_by_its_shape(kind, spelling):
    written = SPELLINGS[spelling](SHAPED[kind])
    for text in (f"before {written} after", f'{{"a": ["{written}"], "b": 2}}\nnext line'):
        assert_gone(SHAPED[kind], Redactor().redact(text))


@pytest.mark.parametrize("between", [" ", ", ", "', '", " - ", "\n", "|"])
@pytest.mark.parametrize("secret", [*SHAPED.values(), "correct horse battery staple"])
def test_a_named_secret_is_gone_also_in_pieces(secret, between):
    pieces = between.join(secret[place : place + 5] for place in range(0, len(secret), 5))
    left = Redactor([secret]).redact(f"['{pieces}'] and more")
    assert REMOVED in left and "and more" in left
    assert not [piece for piece in pieces.split(between) if piece in left]


secrets = st.one_of(
    st.text(ALPHABET, min_size=4, max_size=60),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=4, max_size=30),
    st.text(string.printable.strip(), min_size=4, max_size=40),
).filter(lambda text: len(text.strip()) >= 6 and text.strip() not in REMOVED)
around = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=300, deadline=None)
@given(secret=secrets, spelling=st.sampled_from(sorted(SPELLINGS)), before=around, after=around)
def test_whatever_the_secret_is_and_whatever_stands_around_it(secret, spelling, before, after):
    secret = secret.strip()
    if secret.lower() in ("default", "disabled", "enabled") or secret in before + after:
        return
    left = Redactor([secret]).redact(f"{before} {SPELLINGS[spelling](secret)} {after}")
    assert_gone(secret, left)


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=300))
def test_a_text_without_secrets_stays_as_it_is(text):
    if "://" not in text:
        assert Redactor(["no such secret anywhere 8f3k"]).redact(text) == text


def test_every_planted_token_is_gone_from_the_whole_zip(monkeypatch):
    named = {
        "SOME_API_KEY": "k3y/with+signs=&",
        "DB_PASSWORD": "correct horse battery",
        "HTTPS_PROXY": "http://u:proxypass@h:1",
    }
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    planted = [*SHAPED.values(), "k3y/with+signs=&", "correct horse battery", "proxypass"]
    lines = [f"{spelling}: {write(secret)}" for secret in planted for spelling, write in SPELLINGS.items()]
    folder = a_run("\n".join(lines[:490]) + "\n", swanlab_workspace=SHAPED["hf"], report_to="none")
    found = contents(diagnose(folder, Path("out.zip")))
    for name, text in found.items():
        for secret in planted:
            assert secret not in text, name
    for line in found["log.txt"].splitlines():
        for secret in planted:
            assert_gone(secret, line)
    assert REMOVED in found["options.yaml"] and REMOVED in found["log.txt"]


def test_the_zips_name_holds_none_either():
    assert "hf_" not in file_name(Folder(SAVES / SHAPED["hf"]))


def test_commits_and_digests_are_no_keys():
    commit, digest = "0123456789" * 4, "ab" * 32
    assert Redactor(spared={commit}).redact(f"{commit} {digest}") == f"{commit} {digest}"
    folder = a_run()
    Recorder(folder).event(model={"role": "m", "name": "m", "bytes": 1, "revision": commit, "sha256": digest})
    assert commit in contents(diagnose(folder, Path("out.zip")))["card.md"]


@pytest.mark.parametrize(
    "text",
    [
        "include_num_input_tokens_seen: non_padding", "pad_token: <|endoftext|>", "pip install hf_transfer",
        "/usr/lib/python3.11/site-packages/transformers/models/llama/modeling_llama.py", "task-something-long-here",
        "max_new_tokens=128", "model.layers.0.self_attn.q_proj.lora_A.weight", "https://huggingface.co/owner/model",
        "2026-11-28 22:09:37,123 INFO engine.work: loading", "tokenizer_config.json special_tokens_map.json",
    ],
)  # fmt: skip
def test_what_a_log_is_full_of_stays(text):
    assert Redactor().redact(text) == text


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("HF_TOKEN", True), ("WANDB_API_KEY", True), ("AWS_SECRET_ACCESS_KEY", True), ("PGPASSWORD", True),
        ("DB_PWD", True), ("SLACK_WEBHOOK_URL", True), ("SENTRY_DSN", True), ("my_secret", True), ("APIKEY", True),
        ("PWD", False), ("OLDPWD", False), ("PATH", False), ("KEYBOARD", False), ("TOKENIZERS_PARALLELISM", True),
    ],
)  # fmt: skip
def test_names_that_say_secret(name, is_secret):
    assert bool(secrets_of({name: "some value"})) == is_secret


def test_true_and_false_are_no_secrets():
    assert Redactor(secrets_of({"TOKENIZERS_PARALLELISM": "false"})).redact("is false") == "is false"


def test_within_mappings_names_are_cleaned_too():
    secret = "s3cr3t-v4lue"
    assert redacted({secret: [secret, 1, {"x": secret}], "n": None}, Redactor([secret])) == {
        REMOVED: [REMOVED, 1, {"x": REMOVED}], "n": None,
    }  # fmt: skip

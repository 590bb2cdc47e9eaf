"""All languages say the same: same keys, same placeholders; nothing empty, nothing untranslated, nothing left over."""

from __future__ import annotations

import re

import pytest
import yaml

from engine.errors import UserError
from engine.options.jobs import JOBS
from engine.words import LANGUAGES, LOCALES, all_words, nearest_language, words
from tests.unit.house import PROJECT, code_files
from tests.unit.test_house import placeholders

TRANSLATIONS = [language for language in LANGUAGES if language != "en"]
SCRIPTS = {
    "zh": r"[\u4e00-\u9fff]",
    "ru": r"[\u0400-\u04ff]",
    "ko": r"[\uac00-\ud7af]",
    "ja": r"[\u3040-\u30ff\u4e00-\u9fff]",
}
NAMES = {
    "Adam", "AdamW", "API", "CPU", "DoRA", "EOS", "Face", "FlashAttention", "GB", "GGUF", "GPU", "Hugging", "ID",
    "JSON", "kB", "Lathe", "LoRA", "MB", "ModelScope", "NEFTune", "Ollama", "SDPA", "URL", "YAML", "bf16", "bfloat16",
    "f16", "float16", "float32", "fp16", "fp32", "h", "k", "min", "p", "s", "top", "Top-k", "Top-p",
    "cpp", "KTO", "llama", "PPO", "top-p",
    "Adam-mini", "APOLLO", "BAdam", "BNPO", "DAPO", "DPO", "Dr", "FP4", "GaLore", "GRPO", "Hinge", "IPO", "Llama",
    "LLaMA", "Muon", "NF4", "OFT", "ORPO", "PiSSA", "Pro", "ROUGE-1", "ROUGE-2", "ROUGE-L",
    "Sigmoid", "SimPO", "SwanLab", "YaRN",
}  # fmt: skip
"""What a translation may leave as it is: a text of these words alone, and of signs and figures."""


def test_every_language_is_there():
    assert sorted(path.stem for path in LOCALES.glob("*.yaml")) == sorted(LANGUAGES)


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_same_keys(language):
    english, other = set(all_words("en")), set(all_words(language))
    assert sorted(english - other) == [], "missing"
    assert sorted(other - english) == [], "left over"


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_same_placeholders(language):
    english = all_words("en")
    different = [
        key for key, text in all_words(language).items() if placeholders(text) != placeholders(english.get(key, text))
    ]
    assert different == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_empty(language):
    assert [key for key, text in all_words(language).items() if not text.strip() or text == "None"] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_can_be_filled(language):
    """No stray brace, no positional ``{}``, no format that a text value could not take."""
    for key, text in all_words(language).items():
        names = placeholders(text)
        assert all(re.fullmatch(r"\w+", name) and not name.isdigit() for name in names), key
        if names:
            words(key, language, **dict.fromkeys(names, 1))
        else:
            assert text.format_map({}) and "{}" not in text, key


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_every_text_is_translated(language):
    english = all_words("en")
    same = [
        f"{key}: {text}"
        for key, text in all_words(language).items()
        if text == english.get(key) and not _is_made_of_names(text)
    ]
    assert same == []


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_long_texts_are_in_the_language_itself(language):
    foreign = [
        f"{key}: {text}"
        for key, text in all_words(language).items()
        if len(re.sub(r"\{[^}]*\}|`[^`]*`", "", text)) > 40 and not re.search(SCRIPTS[language], text)
    ]
    assert foreign == []


def test_korean_particles_fit_whatever_is_filled_in():
    """They follow the last sound of the word before: after a fact both are written, or a noun stands between."""
    sizes = {"asked", "free", "merged", "needed", "size", "used"}  # end in GB or MB, so always in a vowel
    found = [
        f"{key}: {text}"
        for key, text in all_words("ko").items()
        for fact in re.findall(r"\{(\w+)\}[`\"”]?(?:을|를|은|는|과|와|이|가|로|으로)(?=[ ,.:]|$)", text)
        if fact not in sizes
    ]
    assert found == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_key_is_written_twice(language):
    """YAML keeps the last of two equal keys without a word."""
    count = len(all_words(language))
    text = (LOCALES / f"{language}.yaml").read_text(encoding="utf-8")
    keys = list(_keys(yaml.compose(text, Loader=yaml.SafeLoader)))
    assert sorted({key for key in keys if keys.count(key) > 1}) == []
    assert len(keys) == count


def test_every_option_has_a_label_and_a_help_and_no_other_has():
    declared = {name for job in JOBS.values() for name in job.model_fields} - {"training_arguments"}
    spoken = {key.split(".")[1] for key in all_words("en") if key.startswith("options.")}
    assert declared - spoken == set()
    assert spoken - declared == set()
    missing = [
        f"options.{name}.{part}"
        for name in declared
        for part in ("label", "help")
        if f"options.{name}.{part}" not in all_words("en")
    ]
    assert missing == []


def test_every_command_and_group_has_words():
    needed = [f"cli.commands.{kind}" for kind in JOBS]
    needed += [f"groups.{group.__name__.lower()}.label" for job in JOBS.values() for group in job.groups()]
    assert [key for key in needed if key not in all_words("en")] == []


NAMED_WHOLE = ("errors.", "phases.", "errors.reference.", "errors.command_missing.")
"""Below these the rest of a key stands somewhere as it is."""


def test_no_key_is_left_over():
    """Every text is looked up somewhere: its key, or the last part of it, stands in the code as a literal."""
    code = "\n".join((PROJECT / path).read_text(encoding="utf-8") for path in code_files())
    literals = set(re.findall(r"""["']([\w.\-]+)["']""", code))
    prefixes = tuple(re.findall(r"""f["']([\w.]+\.)\{""", code))
    below_errors = tuple(f"errors.{each}" for each in re.findall(r"""(?:Problem|UserError)\(f["']([\w.]+\.)\{""", code))
    reasons = yaml.safe_load((PROJECT / "engine" / "options" / "reference_options.yaml").read_text("utf-8"))
    literals |= {reason.partition(".")[0] for reason in reasons}
    unused = []
    for key in all_words("en"):
        if key in literals or key.startswith(("options.", "groups.", "cli.commands.")):
            continue
        prefix = next((each for each in (*below_errors, *prefixes) if key.startswith(each)), None)
        rest = key.removeprefix(prefix) if prefix else None
        if rest is None or (prefix in NAMED_WHOLE and rest not in literals):
            unused.append(key)
    assert unused == []


def test_help_does_not_repeat_the_label():
    labels = {key: text for key, text in all_words("en").items() if key.endswith(".label")}
    assert [key for key, text in labels.items() if all_words("en").get(key.replace(".label", ".help")) == text] == []


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-TW", "zh"),
        ("fr-FR,ko;q=0.5", "ko"),
        ("ko-KR,en", "ko"),
        ("fr", "en"),
        ("", "en"),
        (None, "en"),
        ("JA", "ja"),
    ],
)
def test_a_browser_is_met_in_its_language(header, language):
    assert nearest_language(header) == language


def test_a_fact_may_be_called_anything():
    assert "xyz" in UserError("unknown_language", language="xyz", known="en").text("en")
    assert UserError("unknown_option", key="a", self="b", option="xyz").text("en")


def test_a_fact_that_is_not_given_is_our_slip():
    key = next(key for key, text in all_words("en").items() if placeholders(text))
    with pytest.raises(KeyError):
        words(key, unrelated=1)


def _is_made_of_names(text: str) -> bool:
    found = re.findall(r"[^\W\d_][\w-]*", re.sub(r"\{[^}]*\}|`[^`]*`", "", text))
    return all(word in NAMES for word in found)


def _keys(node, prefix: str = ""):
    for key, value in node.value:
        if isinstance(value, yaml.MappingNode):
            yield from _keys(value, f"{prefix}{key.value}.")
        else:
            yield f"{prefix}{key.value}"

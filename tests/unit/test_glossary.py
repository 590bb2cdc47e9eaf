"""Words that explain themselves are found as each language writes them, marked so that Gradio shows them, and told."""

from __future__ import annotations

import html
import re
from html.parser import HTMLParser

import gradio as gr
import pytest

from engine.errors import Problem
from engine.options.jobs import JOBS
from engine.words import LANGUAGES, all_words, words
from webui.controls import control
from webui.form import Form
from webui.glossary import as_markdown, pieces, terms
from webui.language import Texts, explained, glossary, in_red
from webui.page import build_page

OPTIONS = {
    name: field for job in JOBS.values() for name, field in job.model_fields.items() if name != "training_arguments"
}


def as_gradio_shows(info: str) -> str:
    """The line below a field as the browser's part of gradio 6.31 makes HTML of it (``oe`` in its Info component)."""
    text = info.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    text = re.sub(r"\[([^\]]+)\]\(([^)]+)\)", _link, text)
    for pattern, tag in ((r"\*\*(.+?)\*\*", "strong"), (r"__(.+?)__", "strong"), (r"\*(.+?)\*", "em"),
                         (r"(?<!\w)_(.+?)_(?!\w)", "em")):  # fmt: skip
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text, flags=re.ASCII)
    return text


def _link(found: re.Match) -> str:
    assert not re.match(r"\w+:", found[2], re.ASCII)
    return f'<a href="{found[2]}" target="_blank" rel="noopener noreferrer">{found[1]}</a>'


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags, self.points_to, self.inside = "", [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside.append(tag)
        if tag == "a":
            assert "code" not in self.inside
            self.points_to.append(dict(attrs)["href"].removeprefix("#gloss-"))

    def handle_endtag(self, tag):
        assert self.inside.pop() == tag

    def handle_data(self, data):
        self.text += data


def texts_of(language: str) -> list[str]:
    """What is marked: help lines, headings, and what stands at the head of a tab."""
    found = all_words(language)
    return [
        text for key, text in found.items() if re.fullmatch(r"options\.\w+\.help|groups\.\w+\.label|.+\.intro", key)
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_of_the_glossary_stands_in_the_texts_of_each_language(language):
    found = {term for text in texts_of(language) for _, term in pieces(text, language)}
    assert set(terms(language)) - found == set()
    told = Read(glossary(language)).text
    assert told == "".join(words(f"glossary.{term}.says", language) for term in terms("en"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_spelling_belongs_to_two_words(language):
    spelled = [
        each.strip().lower()
        for term in terms(language)
        for each in words(f"glossary.{term}.spelled", language).split(",")
    ]
    assert "" not in spelled
    assert sorted({each for each in spelled if spelled.count(each) > 1}) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_gradio_shows_a_help_line_with_links_and_code_and_loses_no_letter(language):
    with gr.Blocks():
        texts = Texts(language)
        for name, field in OPTIONS.items():
            info = control(name, field, texts).info
            read = Read(as_gradio_shows(info))
            said = words(f"options.{name}.help", language).replace("`", "")
            assert read.text == f"{said} --{name}"
            assert set(read.tags) <= {"a", "code"}, info
            assert set(read.points_to) <= set(terms(language))
            assert len(read.points_to) == len(set(read.points_to)), "once in a text"


@pytest.mark.parametrize("language", LANGUAGES)
def test_html_says_the_same_and_nothing_in_it_is_a_tag(language):
    for text in [*texts_of(language), 'LoRA <img src=x onerror="y"> ${a} {{b}} & GGUF']:
        read = Read(html_of := explained(text, language))
        assert read.text == text
        assert set(read.tags) <= {"a"}
        assert not re.search(r"[${}]", html_of)
    assert read.points_to == ["lora", "gguf"]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Adapters and an adapter", ["Adapters"]),
        ("en", "gradient checkpointing keeps a checkpoint", ["gradient checkpointing", "checkpoint"]),
        ("en", "`LoRA rank` is code, and an adapter is not", ["adapter"]),
        ("en", "LoRA+, QLoRA, dr_lora, checkpoint-N, a.gguf, lora.py and mergers", []),
        ("en", "the effective batch size, as LoRA's rank.", ["effective batch size", "LoRA", "rank"]),
        ("zh", "先把检查点合并进模型，梯度检查点不算", ["检查点", "合并", "梯度检查点"]),
        ("zh", "LoRA适配器的学习率", ["LoRA", "适配器", "学习率"]),
        ("ru", "Без адаптеров; токенизатор делит на токены", ["адаптеров", "токенизатор", "токены"]),
        ("ru", "переадаптер и рангом", ["рангом"]),
        ("ko", "어댑터를 병합하면 LoRA는 학습률을", ["어댑터", "병합", "LoRA", "학습률"]),
        ("ko", "재시드와 시드", ["시드"]),
        ("ja", "マージンを見る", []),
        ("ja", "チャットテンプレートとランクとクランク", ["チャットテンプレート", "ランク"]),
        ("ja", "スマージとLoRAアダプターの損失", ["LoRA", "アダプター", "損失"]),
    ],
)  # fmt: skip
def test_words_are_found_as_their_language_writes_them(language, text, expected):
    assert [piece for piece, term in pieces(text, language) if term] == expected
    assert "".join(piece for piece, _ in pieces(text, language)) == text


def test_every_control_of_an_option_on_the_page_ends_with_its_name():
    page = build_page()
    shown = {}
    for each in page.blocks.values():
        info, elem_id = getattr(each, "info", None), getattr(each, "elem_id", None) or ""
        name = re.sub("^(eval|chat|export|gguf|data|ollama)-", "", elem_id)
        if name in OPTIONS and info is not None:
            shown[elem_id] = info.endswith(f" `--{name}`")
    assert [elem_id for elem_id, is_named in shown.items() if not is_named] == []
    assert {"lora_rank", "template", "chat-ollama", "eval-dataset", "gguf-model_name_or_path", "data-dataset"} <= set(
        shown
    )


def test_a_problem_is_bold_and_the_name_stays_beside_it():
    with gr.Blocks():
        form = Form(JOBS["train"], Texts("ko"))
        form.add("learning_rate")
        form.add("seed")
        form.add_further()
        problem = Problem("dataset_missing", "learning_rate")
        told = [each["info"] for each in form.notes([problem], "ko")]
    read = Read(as_gradio_shows(told[0]))
    assert read.tags[0] == "strong" and read.text.endswith(" --learning_rate")
    assert told[1] == form.controls["seed"].info, "what has not changed is not sent again"
    assert "--" not in in_red("text")


def test_a_mark_is_made_of_what_the_text_says():
    assert as_markdown("An Adapter.", "en") == "An [Adapter](#gloss-adapter)."
    assert html.unescape(explained("An Adapter.", "en")) == 'An <a href="#gloss-adapter">Adapter</a>.'

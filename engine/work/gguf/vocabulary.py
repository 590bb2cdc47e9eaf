"""The tokenizer as llama.cpp wants it: tokens with their types, merges or scores, special tokens, chat template.

Everything is taken from the tokenizer as transformers runs it, so that both cut a text the same way; ``verify.py``
then checks that they do.
"""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from engine.errors import UserError

PRETOKENIZERS = Path(__file__).with_name("pretokenizers.yaml")
SPACE = "\u2581"
"""SentencePiece writes a space as this letter."""


def add_vocabulary(writer, tokenizer, folder: Path, vocabulary_size: int) -> None:
    """Write a tokenizer into the file's metadata.

    Args:
        writer: a ``gguf.GGUFWriter`` whose metadata are not written yet.
        tokenizer: a fast tokenizer of transformers; its ``chat_template`` is the one that is written.
        folder: where it lies; ids of special tokens and merges are read there.
        vocabulary_size: rows of the embedding; ids without a token are filled up with unused ones.

    Raises:
        UserError: the kind of tokenizer, or its pre-tokenizer, is not one that llama.cpp is known to have; or the
            tokenizer has more tokens than the model.
    """
    import gguf

    model = _backend(tokenizer)["model"]
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocabulary_size:
        raise UserError("gguf.vocabulary_too_large", tokens=largest + 1, rows=vocabulary_size)
    tokens, types = _tokens(tokenizer, vocabulary_size, model)
    is_sentencepiece = bool(model.get("byte_fallback"))
    writer.add_tokenizer_model("llama" if is_sentencepiece else "gpt2")
    writer.add_tokenizer_pre("default" if is_sentencepiece else pretokenizer_of(tokenizer))
    writer.add_token_list(tokens)
    if is_sentencepiece:
        writer.add_token_scores(_scores(tokens, types, model))
    writer.add_token_types(types)
    if is_sentencepiece:
        writer.add_add_space_prefix(tokenizer.tokenize("a")[0].startswith(SPACE))

    special = gguf.SpecialVocab(folder, load_merges=not is_sentencepiece, n_vocab=vocabulary_size)
    special.add_special_token = _adds(tokenizer)
    template = tokenizer.chat_template
    several = isinstance(template, dict)  # one for plain talk, one for tools: the file has a key for each
    special.chat_template = (
        [{"name": each, "template": text} for each, text in template.items()] if several else template
    )
    for kind in ("bos", "eos", "unk", "pad"):
        if getattr(tokenizer, f"{kind}_token_id") is not None:
            special.special_token_ids[kind] = getattr(tokenizer, f"{kind}_token_id")
    special.add_to_gguf(writer, quiet=True)


def known_text() -> str:
    """A text of odd spaces, numbers, scripts and signs, which hardly two kinds of tokenizer cut the same way."""
    return _known_pretokenizers()[0]


def pretokenizer_of(tokenizer) -> str:
    """llama.cpp's name for the way a BPE tokenizer cuts text into words, by the ids it gives to one fixed text.

    Raises:
        UserError: no tokenizer with these ids is known; a guess would make a model that misreads its prompts.
    """
    text, names = _known_pretokenizers()
    digest = sha256(str(tokenizer.encode(text)).encode()).hexdigest()
    if digest not in names:
        raise UserError("gguf.pretokenizer_unknown", digest=digest)
    return names[digest]


@lru_cache(maxsize=1)
def _known_pretokenizers() -> tuple[str, dict[str, str]]:
    content = yaml.safe_load(PRETOKENIZERS.read_text(encoding="utf-8"))
    return content["text"], {digest: name for name, digests in content["names"].items() for digest in digests}


def _backend(tokenizer) -> dict[str, Any]:
    if not tokenizer.is_fast:
        raise UserError("gguf.tokenizer_unknown", kind=type(tokenizer).__name__)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE":
        raise UserError("gguf.tokenizer_unknown", kind=backend["model"]["type"])
    return backend


def _tokens(tokenizer, vocabulary_size: int, model: dict[str, Any]) -> tuple[list[str], list[int]]:
    """The text and llama.cpp's type of every id."""
    from gguf import TokenType

    by_id = {id_: token for token, id_ in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    tokens, types = [], []
    for id_ in range(vocabulary_size):
        token, kind = by_id.get(id_, f"[PAD{id_}]"), TokenType.NORMAL
        if id_ not in by_id:
            kind = TokenType.UNUSED
        elif id_ in added and token == model.get("unk_token") and model.get("byte_fallback"):
            kind = TokenType.UNKNOWN
        elif id_ in added:
            if not added[id_].normalized:  # llama.cpp looks for these in the text as it is
                token = tokenizer.decode(tokenizer.encode(token, add_special_tokens=False))
            is_control = added[id_].special or _looks_special(token)
            kind = TokenType.CONTROL if is_control else TokenType.USER_DEFINED
            token = token if is_control else token.replace(SPACE, " ")
        elif model.get("byte_fallback") and len(token) == 6 and token.startswith("<0x"):
            kind = TokenType.BYTE
        tokens.append(token)
        types.append(int(kind))
    return tokens, types


def _looks_special(token: str) -> bool:
    """Some models forget to mark tokens as special that are; the list is the reference converter's."""
    pairs = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))
    named = token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
    return named or any(token.startswith(left) and token.endswith(right) for left, right in pairs)


def _scores(tokens: list[str], types: list[int], model: dict[str, Any]) -> list[float]:
    """A score for each token: llama.cpp merges the pair whose result has the highest, so the earliest merge is 0."""
    from gguf import TokenType

    order: dict[str, int] = {}
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        order.setdefault(left + right, len(order))
    never = float(-len(order) - 1)
    special = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE)
    return [
        0.0 if kind in special else -float(order[token]) if token in order else never
        for token, kind in zip(tokens, types, strict=True)
    ]


def _adds(tokenizer) -> dict[str, bool]:
    """Whether the tokenizer puts its beginning and end tokens around a text, seen by letting it do so."""
    ids = tokenizer.encode("a")
    bare = tokenizer.encode("a", add_special_tokens=False)
    return {
        "bos": ids != bare and ids[0] == tokenizer.bos_token_id,
        "eos": ids != bare and ids[-1] == tokenizer.eos_token_id,
    }

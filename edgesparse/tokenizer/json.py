"""`tokenizer.json` of a Hugging Face folder, through the `tokenizers` library."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from edgesparse.checkpoint.strict_json import parse_json
from edgesparse.errors import ModelFormatError, TokenizerError
from edgesparse.tokenizer.bytelevel import piece_bytes
from edgesparse.tokenizer.metadata import MAX_TOKEN_CHARS, MAX_TOKENS
from edgesparse.tokenizer.pretokenizers import KNOWN_PATTERNS
from edgesparse.tokenizer.split import SpecialSplitter
from edgesparse.tokenizer.vocabulary import (
    CONTROL,
    NORMAL,
    USER_DEFINED,
    build_vocabulary,
    looks_control,
)

__all__ = ["JsonBackend"]

_MAX_BYTES = 64 << 20
_MAX_CONTAINERS = 1 << 22
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class JsonBackend:
    """Encoder and vocabulary of a ``tokenizer.json``.

    Parameters
    ----------
    data : bytes
        The file, at most 64 MiB.
    warnings : list[str]
        Receives a sentence per repair.

    Attributes
    ----------
    vocabulary : Vocabulary
        Tokens and roles.
    prefix : list[int]
        Ids that the file's post-processor puts before a text: BOS, or nothing.

    Raises
    ------
    TokenizerError
        If the file is not such JSON, holds a regular expression that is not in the table of known
        pre-tokenizers, or decodes in a way that is not supported.
    """

    def __init__(self, data: bytes, warnings: list[str]) -> None:
        from tokenizers import Tokenizer

        if len(data) > _MAX_BYTES:
            raise TokenizerError(f"tokenizer.json: {len(data)} bytes, at most {_MAX_BYTES}.")
        try:
            tree = parse_json(
                data, "tokenizer.json", "tokenizer.json", max_containers=_MAX_CONTAINERS
            )
        except ModelFormatError as error:
            raise TokenizerError(str(error)) from error
        for pattern in _patterns({key: tree[key] for key in tree if key != "model"}):
            if pattern not in KNOWN_PATTERNS:
                raise TokenizerError(
                    f"tokenizer.json: the pattern {pattern[:80]!r} is not a known pre-tokenizer.",
                    advice="Convert the model to GGUF and name the rule with tokenizer.ggml.pre.",
                )
        self._byte_level, self.space_prefix = _decoding(tree)
        added = tree.get("added_tokens")
        added = added if isinstance(added, list) else []
        for entry in added:
            if isinstance(entry, dict) and looks_control(str(entry.get("content"))):
                entry["special"] = True
        for key in ("truncation", "padding"):
            tree[key] = None
        try:
            self._tokenizer = Tokenizer.from_str(json.dumps(tree))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"tokenizer.json is refused: {str(error)[:200]}.") from error
        self._tokenizer.encode_special_tokens = True
        special = {
            str(entry.get("content")): bool(entry.get("special"))
            for entry in added
            if isinstance(entry, dict)
        }
        tokens = _tokens(self._tokenizer.get_vocab(with_added_tokens=True))
        types = np.full(len(tokens), NORMAL, np.int64)
        for i, token in enumerate(tokens):
            if token in special:
                types[i] = CONTROL if special[token] else USER_DEFINED
        self.vocabulary = build_vocabulary(tokens, types, warnings)
        self._control = SpecialSplitter(self.vocabulary.control)
        self._forbidden = frozenset(self.vocabulary.control.values())
        plain = self._tokenizer.encode("a", add_special_tokens=False).ids
        full = self._tokenizer.encode("a", add_special_tokens=True).ids
        self.prefix: list[int] = full[: full.index(plain[0])] if plain and plain[0] in full else []

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; control literals in it are text."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if self._forbidden.isdisjoint(ids):
            return ids
        # A model without word boundaries may find a control literal as a whole piece: cut there.
        parts = self._control.disarm(text, "\0").split("\0") if "\0" not in text else [text]
        return [
            i
            for part in parts
            for i in self._tokenizer.encode(part, add_special_tokens=False).ids
            if len(parts) > 1 or i not in self._forbidden
        ]

    def piece(self, token: int) -> bytes:
        """Bytes of an ordinary token."""
        literal = self.vocabulary.tokens[token]
        if literal in self.vocabulary.user_defined:
            return literal.encode("utf-8", "replace")
        if self._byte_level:
            return piece_bytes(literal)
        match = _BYTE_PIECE.fullmatch(literal)
        if match is not None:
            return bytes.fromhex(match.group(1))
        return literal.replace("\u2581", " ").encode("utf-8", "replace")


def _tokens(vocab: dict[str, int]) -> list[str]:
    size = max(vocab.values(), default=-1) + 1
    if not 1 <= size <= MAX_TOKENS:
        raise TokenizerError(f"tokenizer.json: {size} tokens, expected 1 to {MAX_TOKENS}.")
    if max(map(len, vocab)) > MAX_TOKEN_CHARS:
        raise TokenizerError(f"tokenizer.json: a token exceeds {MAX_TOKEN_CHARS} characters.")
    tokens = [f"\ue000unusable-{i}\ue000" for i in range(size)]
    for token, i in vocab.items():
        tokens[i] = token
    return tokens


def _patterns(value: Any) -> Iterator[str]:
    """Every regular expression below `value`."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("Regex"), str):
                yield item["Regex"]
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _decoding(tree: dict[str, Any]) -> tuple[bool, bool]:
    """Whether pieces are in the byte-level alphabet, and whether a leading space is dropped."""
    decoder = tree.get("decoder")
    parts = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    kinds = {part.get("type"): part for part in parts if isinstance(part, dict)}
    if "ByteLevel" in kinds:
        return True, False
    if "Metaspace" in kinds:
        metaspace = kinds["Metaspace"]
        scheme = metaspace.get("prepend_scheme", "always")
        return False, scheme != "never" and metaspace.get("add_prefix_space") is not False
    if "Replace" in kinds:
        return False, "Strip" in kinds
    raise TokenizerError(
        f"tokenizer.json: decoding with {sorted(map(str, kinds)) or 'nothing'} is not supported.",
        advice="Supported are ByteLevel and the SentencePiece styles.",
    )

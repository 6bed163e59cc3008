"""Byte-level BPE (`tokenizer.ggml.model` = ``gpt2``) through the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer.bytelevel import piece_bytes
from edgesparse.tokenizer.metadata import Metadata
from edgesparse.tokenizer.pretokenizers import (
    PRE_RULES,
    PreRule,
    build_pre_tokenizer,
    guess_pre,
)
from edgesparse.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HfTokenizer

__all__ = ["BpeBackend", "choose_pre"]


class BpeBackend:
    """Encoder of plain text and bytes of pieces.

    Parameters
    ----------
    vocabulary : Vocabulary
        Tokens and roles.
    merges : iterable of str
        Merge rules, best first, each split at its first space.
    rule : PreRule
        Pre-tokenizer rule.

    Raises
    ------
    TokenizerError
        If a merge does not name two pieces whose join is in the vocabulary.
    """

    space_prefix = False

    def __init__(self, vocabulary: Vocabulary, merges: Iterable[str], rule: PreRule) -> None:
        self._tokenizer = _build(vocabulary, merges, rule)
        self.vocabulary = vocabulary.compacted()

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: control literals in it are text, user-defined ones are tokens."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def piece(self, token: int) -> bytes:
        """Bytes of an ordinary token."""
        literal = self.vocabulary.tokens[token]
        if literal in self.vocabulary.user_defined:
            return literal.encode("utf-8", "replace")
        return piece_bytes(literal)


def choose_pre(meta: Metadata, vocabulary: Vocabulary) -> str:
    """Name of the pre-tokenizer rule, repaired loudly when the file does not give a usable one."""
    key = "tokenizer.ggml.pre"
    name = meta.string(key)
    if name is not None and name in PRE_RULES:
        return name
    guess = guess_pre(len(vocabulary), frozenset(vocabulary.control))
    if name is None or name == "default":
        problem = f"{key} is missing" if name is None else f'{key} says only "default"'
    else:
        problem = f'{key} "{name[:64]}" is not known'
    meta.warnings.append(
        f"{problem}; using the rules of {guess}, judging by the vocabulary of {len(vocabulary)} "
        f"tokens. If answers are poor, override it: {key}=str:NAME"
    )
    return guess


def _pairs(vocabulary: Vocabulary, merges: Iterable[str]) -> list[tuple[str, str]]:
    """Split merges into their pieces, sharing the vocabulary's strings: a third of the memory."""
    own = {token: token for token in vocabulary.tokens}
    pairs = []
    for merge in merges:
        left, right = merge.split(" ", 1)
        pairs.append((own.get(left, left), own.get(right, right)))
    return pairs


def _build(vocabulary: Vocabulary, merges: Iterable[str], rule: PreRule) -> HfTokenizer:
    from tokenizers import AddedToken, Tokenizer, models, normalizers

    # Control tokens are left out: no text can become one, not even as a whole word.
    vocab = vocabulary.ids
    if vocabulary.control:
        vocab = dict(vocab)
        for literal in vocabulary.control:
            del vocab[literal]
    try:
        pairs = _pairs(vocabulary, merges)
    except ValueError:
        raise TokenizerError(
            "tokenizer.ggml.merges: a merge is not two pieces and a space."
        ) from None
    try:
        model = models.BPE(vocab=vocab, merges=pairs, ignore_merges=rule.ignore_merges)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(
            f"tokenizer.ggml.merges does not fit tokenizer.ggml.tokens: {str(error)[:200]}."
        ) from error
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = build_pre_tokenizer(rule)
    if rule.nfc:
        tokenizer.normalizer = normalizers.NFC()
    if vocabulary.user_defined:
        tokenizer.add_tokens(
            [AddedToken(literal, normalized=False) for literal in vocabulary.user_defined]
        )
    return tokenizer

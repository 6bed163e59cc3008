"""The token list with the roles of its special tokens: control, user-defined, end of generation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from edgesparse.checkpoint.strings import StringArray
from edgesparse.tokenizer.metadata import Metadata

__all__ = [
    "BYTE",
    "CONTROL",
    "NORMAL",
    "UNKNOWN",
    "UNUSED",
    "USER_DEFINED",
    "SpecialIds",
    "Vocabulary",
    "build_vocabulary",
    "looks_control",
    "special_ids",
]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

# Files mark chat markers as user-defined or even normal; by these names they are control tokens.
_CONTROL_NAME = re.compile(r"<[|｜][^|｜<>\s]{1,80}[|｜]>")
_END_NAMES = (
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|EOT|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
)
_OTHER_CONTROL = frozenset(
    {"<start_of_turn>", "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "[INST]", "[/INST]"}
)
_MAX_END_IDS = 64


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in id order and the roles that differ from plain text.

    Attributes
    ----------
    tokens : sequence of str
        Piece of each id, as the file spells it.
    ids : dict[str, int]
        Id of each piece; of equal pieces the first. Empty once compacted.
    control : dict[str, int]
        Literals that text can contain only as text unless special tokens are parsed.
    user_defined : dict[str, int]
        Literals that are always one token.
    control_ids : frozenset[int]
        Ids that carry no text.
    """

    tokens: Sequence[str]
    ids: dict[str, int]
    control: dict[str, int]
    user_defined: dict[str, int]
    control_ids: frozenset[int] = field(default_factory=frozenset)

    def __len__(self) -> int:
        return len(self.tokens)

    def compacted(self) -> Vocabulary:
        """Return the same vocabulary without a Python object per token; `ids` is given up."""
        return replace(self, tokens=StringArray.pack(self.tokens), ids={})


@dataclass(frozen=True)
class SpecialIds:
    """Ids with a job at the edges of a text; ``None`` where the model has none."""

    bos: int | None
    eos: int | None
    end_of_generation: frozenset[int]


def looks_control(literal: str) -> bool:
    """Whether a token's name says that it is a control token."""
    return (
        literal in _END_NAMES
        or literal in _OTHER_CONTROL
        or _CONTROL_NAME.fullmatch(literal) is not None
    )


def build_vocabulary(
    tokens: list[str], types: NDArray[np.int64] | None, warnings: list[str]
) -> Vocabulary:
    """Sort tokens into roles by type and, where files are known to err, by name.

    Parameters
    ----------
    tokens : list[str]
        Pieces in id order.
    types : ndarray of int64, shape (len(tokens),), or None
        GGUF token types; ``None`` decides by name alone.
    warnings : list[str]
        Receives a sentence per repair.
    """
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        warnings.append(
            f"{len(tokens) - len(ids)} tokens of the vocabulary are repeated; the first id is used"
        )
        ids = dict(zip(reversed(tokens), range(len(tokens) - 1, -1, -1), strict=True))
    if types is None:
        control_ids = {i for i, token in enumerate(tokens) if looks_control(token)}
        user_ids: set[int] = set()
    else:
        control_ids = {int(i) for i in np.flatnonzero((types == CONTROL) | (types == UNKNOWN))}
        user_ids = {int(i) for i in np.flatnonzero(types == USER_DEFINED)}
        named = {i for i in user_ids if looks_control(tokens[i])}
        for name in _END_NAMES:
            i = ids.get(name)
            if i is not None and types[i] == NORMAL:
                warnings.append(f"token {name} is marked as plain text; treated as control token")
                named.add(i)
        control_ids |= named
        user_ids -= named
    return Vocabulary(
        tokens,
        ids,
        _literals(tokens, ids, control_ids),
        _literals(tokens, ids, user_ids),
        frozenset(control_ids),
    )


def special_ids(meta: Metadata, vocabulary: Vocabulary) -> SpecialIds:
    """Ids of beginning and end; the end is a set because files lie about ``eos``."""
    n = len(vocabulary)
    bos = meta.token_id("tokenizer.ggml.bos_token_id", n)
    eos = meta.token_id("tokenizer.ggml.eos_token_id", n)
    ends = set(meta.token_ids("tokenizer.ggml.eos_token_ids", n))
    for name in ("eot", "eom"):
        i = meta.token_id(f"tokenizer.ggml.{name}_token_id", n)
        if i is not None:
            ends.add(i)
    ends.update(i for name in _END_NAMES if (i := vocabulary.control.get(name)) is not None)
    if eos is not None:
        ends.add(eos)
    return SpecialIds(bos, eos, frozenset(sorted(ends)[:_MAX_END_IDS]))


def _literals(tokens: list[str], ids: Mapping[str, int], chosen: set[int]) -> dict[str, int]:
    # A one-character literal could not be told from the same character in a message.
    return {tokens[i]: i for i in sorted(chosen) if len(tokens[i]) > 1 and ids[tokens[i]] == i}

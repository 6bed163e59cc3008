"""SentencePiece BPE (`tokenizer.ggml.model` = ``llama``) through the `sentencepiece` library.

A GGUF file holds pieces, scores and types but not SentencePiece's own file. The few protobuf
fields that the library needs are written here by hand, so that it never reads foreign bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
)

__all__ = ["SpmBackend", "infer_types", "model_proto"]

_SPACE = "\u2581"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_TRAINER_BPE = 2


class SpmBackend:
    """Encoder of plain text and bytes of pieces.

    Parameters
    ----------
    vocabulary : Vocabulary
        Tokens and roles.
    scores : ndarray of float32, shape (n_vocab,)
        Merge priority of each piece.
    types : ndarray of int64, shape (n_vocab,)
        GGUF token types.
    space_prefix : bool
        Whether a space is put before the text (SentencePiece's dummy prefix).
    remove_extra_whitespaces : bool
        Whether runs of spaces collapse and outer spaces vanish.

    Raises
    ------
    TokenizerError
        On byte pieces that are misspelt, repeated or incomplete, and when the library refuses.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        scores: NDArray[np.float32],
        types: NDArray[np.int64],
        *,
        space_prefix: bool,
        remove_extra_whitespaces: bool = False,
    ) -> None:
        from sentencepiece import SentencePieceProcessor

        self.space_prefix = space_prefix
        self._tokens = vocabulary.tokens
        self._bytes = byte_pieces(vocabulary.tokens, types)
        proto = model_proto(
            vocabulary,
            scores,
            types,
            space_prefix=space_prefix,
            remove_extra_whitespaces=remove_extra_whitespaces,
        )
        try:
            self._processor: Any = SentencePieceProcessor(model_proto=proto)
        except Exception as error:  # the library raises RuntimeError, OSError or its own
            raise TokenizerError(
                f"the SentencePiece vocabulary is refused: {str(error)[:200]}."
            ) from error

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; control literals in it are text."""
        ids: list[int] = self._processor.encode(text, out_type=int)
        return ids

    def piece(self, token: int) -> bytes:
        """Bytes of an ordinary token."""
        byte = self._bytes.get(token)
        if byte is not None:
            return byte
        return self._tokens[token].replace(_SPACE, " ").encode("utf-8", "replace")


def infer_types(tokens: list[str]) -> NDArray[np.int64]:
    """Types of a vocabulary that gives none: ``<unk>`` unknown, ``<0xHH>`` bytes, rest by name."""
    types = np.full(len(tokens), NORMAL, np.int64)
    for i, token in enumerate(tokens):
        if token == "<unk>":
            types[i] = UNKNOWN
        elif token in ("<s>", "</s>"):
            types[i] = CONTROL
        elif _BYTE_PIECE.fullmatch(token):
            types[i] = BYTE
    return types


def byte_pieces(tokens: Sequence[str], types: NDArray[np.int64]) -> dict[int, bytes]:
    """Find the byte of each byte piece: none, or all 256 exactly once."""
    found: dict[int, bytes] = {}
    for i in map(int, np.flatnonzero(types == BYTE)):
        match = _BYTE_PIECE.fullmatch(tokens[i])
        if match is None:
            raise TokenizerError(f"token {i}: {tokens[i][:16]!r} is not a byte piece <0xHH>.")
        found[i] = bytes.fromhex(match.group(1))
    if found and (len(found) != 256 or len(set(found.values())) != 256):
        raise TokenizerError(
            f"byte pieces: {len(set(found.values()))} different bytes in {len(found)} pieces, "
            "expected all 256 once or none."
        )
    return found


def model_proto(
    vocabulary: Vocabulary,
    scores: NDArray[np.float32],
    types: NDArray[np.int64],
    *,
    space_prefix: bool,
    remove_extra_whitespaces: bool,
) -> bytes:
    """SentencePiece's ``ModelProto`` in protobuf wire format.

    Fields: 1 pieces {1 piece, 2 score, 3 type} · 2 trainer {3 model_type, 35 byte_fallback,
    40 unk_id, 41 bos_id, 42 eos_id, 43 pad_id} · 3 normalizer {1 name, 3 add_dummy_prefix,
    4 remove_extra_whitespaces, 5 escape_whitespaces}.
    """
    kinds = types.copy()
    kinds[list(vocabulary.control_ids)] = CONTROL
    unknown = np.flatnonzero(types == UNKNOWN)
    unk = int(unknown[0]) if unknown.size else vocabulary.ids.get("<unk>", 0)
    kinds[unk] = UNKNOWN
    spelling = list(vocabulary.tokens)
    repeated = (i for i, token in enumerate(spelling) if vocabulary.ids[token] != i)
    for i in (*repeated, *([vocabulary.ids[""]] if "" in vocabulary.ids else [])):
        # The library wants distinct, non-empty pieces; an unusable one only has to keep its id.
        spelling[i] = f"\ue000unusable-{i}\ue000"
        kinds[i] = UNUSED if kinds[i] in (NORMAL, USER_DEFINED) else kinds[i]
    if np.count_nonzero(kinds == BYTE) not in (0, 256):
        raise TokenizerError("a byte piece is repeated or has another role.")
    tails = np.empty(len(spelling), dtype=[("tag", "u1"), ("score", "<f4"), ("kind", "u1", 2)])
    tails["tag"], tails["score"] = 0x15, scores
    tails["kind"][:, 0], tails["kind"][:, 1] = 0x18, kinds
    tail = tails.tobytes()
    parts: list[bytes] = []
    for i, token in enumerate(spelling):
        data = token.encode("utf-8", "replace")
        body = b"\x0a" + _varint(len(data)) + data + tail[7 * i : 7 * i + 7]
        parts.append(b"\x0a" + _varint(len(body)) + body)
    trainer = b"".join(
        (
            _field(3, _TRAINER_BPE),
            _field(35, int(bool((kinds == BYTE).any()))),
            _field(40, unk),
            *(_field(number, -1) for number in (41, 42, 43)),
        )
    )
    normalizer = b"".join(
        (
            b"\x0a\x08identity",
            _field(3, int(space_prefix)),
            _field(4, int(remove_extra_whitespaces)),
            _field(5, 1),
        )
    )
    parts.append(b"\x12" + _varint(len(trainer)) + trainer)
    parts.append(b"\x1a" + _varint(len(normalizer)) + normalizer)
    return b"".join(parts)


def _field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value & (1 << 64) - 1)


def _varint(value: int) -> bytes:
    if value < 0x80:
        return struct.pack("B", value)
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)

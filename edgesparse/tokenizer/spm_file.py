"""Read a SentencePiece ``tokenizer.model``: the few protobuf fields that matter, bounds-checked."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer.metadata import MAX_TOKEN_CHARS, MAX_TOKENS

__all__ = ["SpmFile", "read_spm_file"]

_MAX_BYTES = 32 << 20
_BPE = 2


@dataclass(frozen=True)
class SpmFile:
    """Contents of a ``tokenizer.model``.

    Attributes
    ----------
    tokens : list[str]
        Pieces in id order.
    scores : ndarray of float32, shape (n_vocab,)
        Merge priorities.
    types : ndarray of int64, shape (n_vocab,)
        Piece types, numbered as in GGUF.
    space_prefix, remove_extra_whitespaces : bool
        Normaliser settings.
    """

    tokens: list[str]
    scores: NDArray[np.float32]
    types: NDArray[np.int64]
    space_prefix: bool
    remove_extra_whitespaces: bool


def read_spm_file(data: bytes) -> SpmFile:
    """Parse a BPE ``ModelProto``.

    Raises
    ------
    TokenizerError
        On a malformed file, a model other than BPE, or a normaliser that rewrites characters.
    """
    if len(data) > _MAX_BYTES:
        raise TokenizerError(f"tokenizer.model: {len(data)} bytes, at most {_MAX_BYTES}.")
    tokens: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    model_type, space_prefix, squeeze = 1, True, True
    for number, value in _fields(data):
        if number == 1:
            fields = dict(_fields(_message(value)))
            piece, score, kind = fields.get(1, b""), fields.get(2, b"\0\0\0\0"), fields.get(3, 1)
            if not isinstance(piece, bytes) or not isinstance(score, bytes) or len(score) != 4:
                raise _malformed("a piece")
            if not isinstance(kind, int) or not 1 <= kind <= 6:
                raise _malformed("a piece type")
            if len(tokens) >= MAX_TOKENS or len(piece) > MAX_TOKEN_CHARS:
                raise _malformed("the size of the vocabulary or of a piece")
            try:
                tokens.append(piece.decode("utf-8"))
            except UnicodeDecodeError:
                raise _malformed("a piece that is not UTF-8") from None
            scores.append(struct.unpack("<f", score)[0])
            types.append(kind)
        elif number == 2:
            kind = dict(_fields(_message(value))).get(3, 1)
            model_type = kind if isinstance(kind, int) else 0
        elif number == 3:
            settings = dict(_fields(_message(value)))
            space_prefix = bool(settings.get(3, 1))
            squeeze = bool(settings.get(4, 1))
            if settings.get(2):
                raise TokenizerError(
                    "tokenizer.model rewrites characters (a normalisation rule), "
                    "which is not supported.",
                    advice="Use the model's tokenizer.json.",
                )
    if model_type != _BPE:
        raise TokenizerError(
            f"tokenizer.model is of type {model_type}; only BPE (2) is supported.",
            advice="Use the model's tokenizer.json.",
        )
    score_array = np.asarray(scores, np.float32)
    if not tokens or not bool(np.isfinite(score_array).all()):
        raise _malformed("the vocabulary")
    return SpmFile(tokens, score_array, np.asarray(types, np.int64), space_prefix, squeeze)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Fields of one message: varints as `int`, everything else as `bytes`."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise _malformed(f"wire type {wire}")
        if size > len(data) - at:
            raise _malformed("a field that runs past the end")
        yield number, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _malformed("a number")


def _message(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise _malformed("a nested message")
    return value


def _malformed(what: str) -> TokenizerError:
    return TokenizerError(f"tokenizer.model is malformed: {what}.")

"""What a tokenizer is built from, and typed access to it: nothing here trusts the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgesparse.errors import TokenizerError

__all__ = ["MAX_TOKENS", "MAX_TOKEN_CHARS", "Metadata", "TokenizerSource"]

MAX_TOKENS = 1 << 20
MAX_TOKEN_CHARS = 4096
MAX_MERGES = 1 << 21


class TokenizerSource(Protocol):
    """The part of a checkpoint that a tokenizer needs."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """GGUF-style keys; arrays are numpy arrays, lists or lazy sequences of `str`."""

    @property
    def tokenizer_json(self) -> bytes | None:
        """Contents of ``tokenizer.json`` for a folder checkpoint, else ``None``."""

    @property
    def tokenizer_model(self) -> bytes | None:
        """Contents of ``tokenizer.model`` for a folder checkpoint, else ``None``."""

    @property
    def kind(self) -> str:
        """Container format, for messages."""

    @property
    def path(self) -> str | Path:
        """File or folder of the checkpoint."""


class Metadata:
    """Typed, range-checked reads of tokenizer metadata.

    Parameters
    ----------
    source : TokenizerSource
        Where the values come from.
    overrides : Mapping[str, object], optional
        Values that win over the source's, by full key.
    """

    def __init__(
        self, source: TokenizerSource, overrides: Mapping[str, object] | None = None
    ) -> None:
        self._values = source.metadata
        self._overrides = dict(overrides or {})
        self.path = Path(source.path)
        self.warnings: list[str] = []

    def get(self, key: str) -> Any:
        """Give the raw value of `key`, or ``None``."""
        if key in self._overrides:
            return self._overrides[key]
        return self._values.get(key)

    def string(self, key: str) -> str | None:
        """Give the string at `key`; ``None`` when absent, `TokenizerError` on another type."""
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise TokenizerError(f"{key}: expected a string, found {type(value).__name__}.")
        return value

    def flag(self, key: str) -> bool | None:
        """Give the boolean at `key`; ``None`` when absent, `TokenizerError` on another type."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        raise TokenizerError(f"{key}: expected true or false, found {type(value).__name__}.")

    def token_id(self, key: str, n_vocab: int) -> int | None:
        """Give the token id at `key`; out of range counts as absent, with a warning."""
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise TokenizerError(f"{key}: expected a token id, found {type(value).__name__}.")
        if 0 <= int(value) < n_vocab:
            return int(value)
        if int(value) not in (-1, 2**32 - 1):  # the usual spellings of "none"
            self.warnings.append(
                f"{key} is {int(value)}, outside the vocabulary of {n_vocab}; ignored"
            )
        return None

    def token_ids(self, key: str, n_vocab: int) -> list[int]:
        """Give the token ids at `key`, one or a list; those out of range are dropped."""
        value = self.get(key)
        if value is None:
            return []
        array = np.atleast_1d(np.asarray(value))
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TokenizerError(f"{key}: expected a list of token ids.")
        return [int(i) for i in array[:64] if 0 <= i < n_vocab]

    def tokens(self) -> list[str]:
        """Give the vocabulary, in id order: 1 to 2^20 strings of at most 4096 characters."""
        key = "tokenizer.ggml.tokens"
        tokens = self._strings(key, MAX_TOKENS)
        if not tokens:
            raise TokenizerError(
                f"{key}: the file has no vocabulary.",
                advice="Use a model file that carries its tokenizer.",
            )
        if max(map(len, tokens)) > MAX_TOKEN_CHARS:
            raise TokenizerError(f"{key}: a token is longer than {MAX_TOKEN_CHARS} characters.")
        return tokens

    def merges(self) -> Iterator[str]:
        """Give the merge rules one after the other, best first, each ``"left right"``."""
        key = "tokenizer.ggml.merges"
        for merge in self._sequence(key, MAX_MERGES):
            if not isinstance(merge, str):
                raise TokenizerError(f"{key}: expected an array of strings.")
            yield merge

    def token_types(self, n_vocab: int) -> NDArray[np.int64] | None:
        """Token types, shape ``(n_vocab,)``: 1 normal … 6 byte; ``None`` when absent."""
        key = "tokenizer.ggml.token_type"
        array = self._numbers(key, n_vocab, "i", "signed integers")
        if array is None:
            return None
        types = array.astype(np.int64)
        if types.min() < 1 or types.max() > 6:
            raise TokenizerError(f"{key}: a type is outside 1..6.")
        return types

    def scores(self, n_vocab: int) -> NDArray[np.float32] | None:
        """Piece scores, shape ``(n_vocab,)``, finite; ``None`` when absent."""
        key = "tokenizer.ggml.scores"
        array = self._numbers(key, n_vocab, "f", "floats")
        if array is None:
            return None
        if not bool(np.isfinite(array).all()):
            raise TokenizerError(f"{key}: a score is not finite.")
        return array.astype(np.float32)

    def _sequence(self, key: str, limit: int) -> Sequence[object]:
        value = self.get(key)
        if value is None:
            return []
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise TokenizerError(f"{key}: expected an array of strings.")
        if len(value) > limit:
            raise TokenizerError(f"{key}: {len(value)} entries, at most {limit} are accepted.")
        return value

    def _strings(self, key: str, limit: int) -> list[str]:
        value = self._sequence(key, limit)
        # A reader's lazy array decodes itself much faster than item by item.
        strings: list[Any] = value.to_list() if hasattr(value, "to_list") else list(value)
        if not set(map(type, strings)) <= {str}:
            raise TokenizerError(f"{key}: expected an array of strings.")
        return strings

    def _numbers(self, key: str, n_vocab: int, kind: str, what: str) -> NDArray[Any] | None:
        value = self.get(key)
        if value is None:
            return None
        array = np.asarray(value)
        if array.dtype.kind != kind or array.ndim != 1:
            raise TokenizerError(f"{key}: expected an array of {what}, found {array.dtype}.")
        if array.size != n_vocab:
            raise TokenizerError(
                f"{key}: {array.size} entries for a vocabulary of {n_vocab} tokens."
            )
        return array

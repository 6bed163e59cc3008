"""Token ids to text as they arrive: never half a character, and equal to decoding at once."""

from __future__ import annotations

import codecs
from collections.abc import Callable

__all__ = ["StreamDecoder"]


class StreamDecoder:
    """Incremental detokeniser of one text.

    Parameters
    ----------
    piece : callable
        Bytes of an id; empty for ids that carry no text.
    strip_space : bool
        Drop one leading space of the whole text (the SentencePiece dummy prefix).

    Notes
    -----
    Invalid UTF-8 becomes U+FFFD, one per maximal invalid part, as in ``bytes.decode`` with
    ``"replace"``; an incomplete character is held back until it is complete, proven invalid, or
    `flush`.
    """

    def __init__(self, piece: Callable[[int], bytes], *, strip_space: bool = False) -> None:
        self._piece = piece
        self._strip_space = strip_space
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Text that `token` completes; may be empty."""
        data = self._piece(token)
        if self._strip_space and data:
            self._strip_space = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Give what is still held back, ending the text."""
        return self._decoder.decode(b"", final=True)

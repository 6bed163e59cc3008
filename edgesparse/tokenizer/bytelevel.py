"""The printable alphabet of byte-level BPE: one character for each of the 256 bytes (GPT-2)."""

from __future__ import annotations

__all__ = ["BYTE_OF_CHAR", "piece_bytes"]


def _alphabet() -> dict[str, int]:
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    table = {chr(byte): byte for byte in visible}
    table.update({chr(256 + i): byte for i, byte in enumerate(hidden)})
    return table


BYTE_OF_CHAR = _alphabet()


def piece_bytes(piece: str) -> bytes:
    """Bytes of a byte-level piece; a piece with other characters stands for its own UTF-8."""
    try:
        return bytes(map(BYTE_OF_CHAR.__getitem__, piece))
    except KeyError:
        return piece.encode("utf-8", "replace")

"""Sources of tokenizer metadata for the tests, and random text."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgesparse.checkpoint import open_checkpoint
from edgesparse.tokenizer import Tokenizer, load_tokenizer
from edgesparse.tokenizer.bytelevel import BYTE_OF_CHAR

MODEL = Path(__file__).parents[2] / "models" / "smolbit-190m"


@dataclass
class Source:
    """A checkpoint reduced to what a tokenizer reads."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_json: bytes | None = None
    tokenizer_model: bytes | None = None
    kind: str = "gguf"
    path: str = "fake.gguf"


@functools.cache
def smolbit_metadata() -> dict[str, Any]:
    file = next(MODEL.glob("*.gguf"))
    metadata = dict(open_checkpoint(file).metadata)
    return {key: value for key, value in metadata.items() if key.split(".")[0] != "general"}


@functools.cache
def smolbit() -> Tokenizer:
    return load_tokenizer(Source(smolbit_metadata()))


# A vocabulary of the 256 bytes, a few merges, and the special tokens of a chat model.
CHAT_TOKENS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def byte_vocabulary(
    merges: list[str] | None = None,
    specials: list[str] | None = None,
    **extra: Any,
) -> dict[str, Any]:
    merges = merges or []
    specials = CHAT_TOKENS if specials is None else specials
    tokens = [*BYTE_OF_CHAR, *(merge.replace(" ", "", 1) for merge in merges), *specials]
    types = [1] * (len(tokens) - len(specials)) + [3] * len(specials)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
    }
    metadata.update({f"tokenizer.{key}": value for key, value in extra.items()})
    return metadata


ALPHABETS = (
    "abcdefghij ABC  ",
    "0123456789.,- ",
    " \t\n\r\u00a0\u3000",
    "!?#$%&'()*+/<>[]{}|~`^_=",
    "éèüßñçøåÆŒ",
    "абвгдежзЖЮЯ",
    "你好世界漢字かなカナ한국어",
    "שלוםمرحبا",
    "नमस्तेไทย",
    "😀👩‍👩‍👧🇩🇪🏳️‍🌈❤️",
    "e\u0301a\u0308\u200d\ufe0f\u200b",
    "\x00\x01\x7f\x1b",
)


def random_texts(count: int, seed: int) -> list[str]:
    """Texts of 0 to 40 characters that mix scripts, spaces, digits, emoji and control bytes."""
    rng = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(6)):
            alphabet = rng.choice(ALPHABETS)
            parts.append("".join(rng.choice(alphabet) for _ in range(rng.randrange(9))))
        texts.append("".join(parts))
    return texts

"""Streaming equals decoding at once, whatever the bytes and wherever they are cut."""

from __future__ import annotations

import random

import pytest
from tokenizer_sources import Source, byte_vocabulary, random_texts, smolbit

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer import load_tokenizer
from edgesparse.tokenizer.stream import StreamDecoder


def test_every_byte_sequence_streams_as_it_decodes() -> None:
    tokenizer = load_tokenizer(Source(byte_vocabulary()))
    id_of_byte = {tokenizer.piece(i)[0]: i for i in range(256)}
    assert sorted(id_of_byte) == list(range(256))
    rng = random.Random(4)
    # Lead and continuation bytes, surrogates and overlong forms are far likelier than by chance.
    pool = [0x41, 0x80, 0xA0, 0xBF, 0xC0, 0xC3, 0xE0, 0xE2, 0xED, 0xEF, 0xF0, 0xF4, 0xF5, 0xFF]
    checked = 0
    for _ in range(3000):
        data = bytes(rng.choice(pool) for _ in range(rng.randrange(9)))
        expected = data.decode("utf-8", "replace")
        ids = [id_of_byte[byte] for byte in data]
        stream = tokenizer.stream()
        parts = [stream.push(i) for i in ids]
        assert "".join(parts) + stream.flush() == expected
        assert tokenizer.decode(ids) == expected
        checked += 1
    assert checked == 3000


def test_every_split_of_an_emoji_sequence() -> None:
    data = "né 👩‍👩‍👧 🇩🇪".encode()
    checked = 0
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            pieces = [data[:first], data[first:second], data[second:]]
            stream = StreamDecoder(pieces.__getitem__)
            parts = [stream.push(i) for i in range(3)]
            assert "\ufffd" not in "".join(parts)
            assert "".join(parts) + stream.flush() == data.decode()
            checked += 1
    assert checked == (len(data) + 1) * (len(data) + 2) // 2


def test_real_vocabulary_streams_as_it_decodes() -> None:
    tokenizer = smolbit()
    rng = random.Random(5)
    checked = 0
    for text in random_texts(500, seed=6):
        ids = tokenizer.encode(text) + [rng.randrange(tokenizer.n_vocab) for _ in range(5)]
        for skip_special in (True, False):
            stream = tokenizer.stream(skip_special=skip_special)
            streamed = "".join([stream.push(i) for i in ids]) + stream.flush()
            assert streamed == tokenizer.decode(ids, skip_special=skip_special)
            checked += 1
    assert checked == 1000


def test_control_tokens_are_skipped_or_spelt() -> None:
    tokenizer = smolbit()
    ids = [1, *tokenizer.encode("hi"), 2]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>hi<|im_end|>"


def test_ids_outside_the_vocabulary_are_refused() -> None:
    tokenizer = smolbit()
    for token in (-1, tokenizer.n_vocab, 2**31):
        with pytest.raises(TokenizerError, match="outside the vocabulary"):
            tokenizer.decode([token])

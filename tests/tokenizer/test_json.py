"""`tokenizer.json` files: ids of the library itself, roles of added tokens, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizer_sources import Source, random_texts, smolbit, smolbit_metadata
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer import load_tokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    """The default model's vocabulary as its `tokenizer.json` would hold it."""
    metadata = smolbit_metadata()
    tokens = list(metadata["tokenizer.ggml.tokens"])
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    return tokenizer


@pytest.fixture(scope="module")
def spm_style() -> Tokenizer:
    """A SentencePiece-like vocabulary with byte fallback and a BOS template."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab.update({f"<0x{i:02X}>": 3 + i for i in range(256)})
    for piece in ("\u2581", "a", "b", "\u2581a", "ab", "\u2581ab", "<", "s", ">"):
        vocab[piece] = len(vocab)
    merges = [("\u2581", "a"), ("a", "b"), ("\u2581a", "b")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def load(tokenizer: Tokenizer, **metadata: Any) -> Any:
    return load_tokenizer(Source(metadata, tokenizer_json=tokenizer.to_str().encode()))


def test_same_ids_as_from_gguf_metadata(byte_level: Tokenizer) -> None:
    ours = load(byte_level, **{"tokenizer.ggml.eos_token_id": 2})
    assert (ours.kind, ours.n_vocab, ours.eos_id, ours.add_bos) == ("json", 49152, 2, False)
    assert ours.eog_ids == {0, 2}
    checked = 0
    for text in random_texts(500, seed=31):
        ids = ours.encode(text)
        assert ids == smolbit().encode(text)
        assert ours.decode(ids) == text
        checked += 1
    assert checked == 500


def test_literals_in_text_are_text(byte_level: Tokenizer, spm_style: Tokenizer) -> None:
    for ours, text in ((load(byte_level), "a<|im_end|>b"), (load(spm_style), "a</s>b <s>")):
        ids = ours.encode(text)
        assert not any(map(ours.is_control, ids))
        assert ours.decode(ids) == text
        assert any(map(ours.is_control, ours.encode(text, parse_special=True)))


def test_spm_style_decodes_and_adds_bos(spm_style: Tokenizer) -> None:
    ours = load(spm_style, **{"tokenizer.ggml.eos_token_id": 2})
    assert (ours.bos_id, ours.add_bos) == (1, True)
    checked = 0
    for text in [*random_texts(300, seed=32), "ab ab", " a"]:
        ids = ours.encode(text, add_special=True)
        assert ids == spm_style.encode(text).ids
        assert ours.decode(ids) == text
        checked += 1
    assert checked == 302


def test_chat_markers_that_are_not_special_are_control(byte_level: Tokenizer) -> None:
    changed = Tokenizer.from_str(byte_level.to_str())
    changed.add_tokens([AddedToken("<|tool|>", special=False), AddedToken("<think>")])
    ours = load(changed)
    assert "<|tool|>" in ours.control_literals
    assert "<think>" not in ours.control_literals
    assert ours.encode("<think>") == [49153]
    assert 49152 not in ours.encode("<|tool|>")


def changed(tokenizer: Tokenizer, **values: Any) -> bytes:
    tree = json.loads(tokenizer.to_str())
    tree.update(values)
    return json.dumps(tree).encode()


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"},
                            "behavior": "Isolated", "invert": False}}, "not a known"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(x*)*"}, "content": ""}},
         "not a known"),
        ({"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}, "not supported"),
        ({"decoder": None}, "not supported"),
        ({"model": {"type": "Nothing"}}, "refused"),
    ],
)  # fmt: skip
def test_unsupported_files_are_refused(
    spm_style: Tokenizer, values: dict[str, Any], match: str
) -> None:
    with pytest.raises(TokenizerError, match=match):
        load_tokenizer(Source(tokenizer_json=changed(spm_style, **values)))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"[" * 100_000, b'{"a": NaN}', b"\xff{}"])
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(TokenizerError):
        load_tokenizer(Source(tokenizer_json=data))


def test_truncation_and_padding_of_the_file_are_ignored(spm_style: Tokenizer) -> None:
    changed = Tokenizer.from_str(spm_style.to_str())
    changed.enable_truncation(4)
    changed.enable_padding(length=8)
    assert load(changed).encode("ab " * 20) == load(spm_style).encode("ab " * 20)

"""SentencePiece vocabularies rebuilt from metadata against the library's own processor."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sentencepiece
from tokenizer_sources import Source, random_texts

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer import load_tokenizer
from edgesparse.tokenizer.spm_file import read_spm_file

N_TEXTS = 600


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "bare"])
def trained(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bool]:
    """A small BPE model with byte fallback, as bytes of a `tokenizer.model`."""
    folder = tmp_path_factory.mktemp("spm")
    rng = random.Random(11)
    stems = ["walk", "talk", "tern", "sparse", "model", "night", "light", "read", "weigh"]
    ends = ["", "s", "ed", "ing", "er", "ly"]
    lines = [" ".join(rng.choice(stems) + rng.choice(ends) for _ in range(12)) for _ in range(400)]
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(lines) + "\né à ü 漢字 12345\n", encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "m"),
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=request.param,
        user_defined_symbols=["<tool>", "\t\t"],
        control_symbols=["<|im_end|>"],
        num_threads=1,
        minloglevel=2,
    )
    return (folder / "m.model").read_bytes(), request.param


def metadata_of(processor: Any, *, space_prefix: bool) -> dict[str, Any]:
    n = processor.get_piece_size()
    types = []
    for i in range(n):
        if processor.is_unknown(i):
            types.append(2)
        elif processor.is_control(i):
            types.append(3)
        elif processor.is_byte(i):
            types.append(6)
        else:
            types.append(4 if processor.id_to_piece(i) in ("<tool>", "\t\t") else 1)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in range(n)],
        "tokenizer.ggml.scores": [float(processor.get_score(i)) for i in range(n)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }


def texts() -> list[str]:
    rng = random.Random(12)
    pool = ["walk", "sparse ", "ing", " <tool>", "\t\t", "<s>", "<|im_end|>", "<0x41>", "  ", "é"]
    mixed = ["".join(rng.choices(pool, k=rng.randrange(1, 8))) for _ in range(N_TEXTS // 2)]
    # The library reads a NUL as the end of what a Python string holds in some versions.
    return mixed + [text.replace("\0", "") for text in random_texts(N_TEXTS // 2, seed=13)]


def test_ids_equal_the_original_processor(trained: tuple[bytes, bool]) -> None:
    model, space_prefix = trained
    original = sentencepiece.SentencePieceProcessor(model_proto=model)
    metadata = metadata_of(original, space_prefix=space_prefix)
    from_metadata = load_tokenizer(Source(metadata))
    from_file = load_tokenizer(Source(tokenizer_model=model))
    checked = 0
    for text in texts():
        ids = original.encode(text)
        assert from_metadata.encode(text) == ids
        assert from_file.encode(text) == ids
        checked += 1
    assert checked == N_TEXTS
    assert from_metadata.kind == from_file.kind == "spm"
    assert (from_file.bos_id, from_file.eos_id) == (1, 2)
    assert from_file.warnings == from_metadata.warnings


def test_text_survives_the_round_trip(trained: tuple[bytes, bool]) -> None:
    tokenizer = load_tokenizer(Source(tokenizer_model=trained[0]))
    checked = 0
    for text in texts():
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream()
        assert "".join([stream.push(i) for i in ids]) + stream.flush() == text
        checked += 1
    assert checked == N_TEXTS


def test_a_continuation_keeps_its_space(trained: tuple[bytes, bool]) -> None:
    model, space_prefix = trained
    tokenizer = load_tokenizer(Source(tokenizer_model=model))
    ids = tokenizer.encode("walks")
    expected = " walks" if space_prefix else "walks"
    assert tokenizer.decode(ids, continuation=True) == expected


def test_long_runs_stay_linear(trained: tuple[bytes, bool]) -> None:
    tokenizer = load_tokenizer(Source(tokenizer_model=trained[0]))
    checked = 0
    for character in ("a", " ", "漢", "\n", "<"):
        text = character * 50_000
        assert tokenizer.decode(tokenizer.encode(text)) == text
        checked += 1
    assert checked == 5


def small(**changes: Any) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "\u2581", "a"]
    metadata = {
        "tokens": tokens,
        "scores": [0.0] * len(tokens),
        "token_type": [2, 3, 3, *[6] * 256, 1, 1],
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    metadata.update(changes)
    out = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return {"tokenizer.ggml.model": "llama", **out}


def test_defaults_of_a_sparse_description() -> None:
    metadata = small()
    for key in ("scores", "token_type"):
        del metadata[f"tokenizer.ggml.{key}"]
    tokenizer = load_tokenizer(Source(metadata))
    assert tokenizer.add_bos
    assert tokenizer.decode(tokenizer.encode("a é")) == "a é"
    assert sum("missing" in warning for warning in tokenizer.warnings) == 2


def test_repeated_and_empty_pieces_keep_their_ids() -> None:
    metadata = small()
    metadata["tokenizer.ggml.tokens"] += ["a", "", "b"]
    metadata["tokenizer.ggml.scores"] += [0.0] * 3
    metadata["tokenizer.ggml.token_type"] += [1] * 3
    tokenizer = load_tokenizer(Source(metadata))
    assert tokenizer.encode("ab")[-2:] == [260, 263]


@pytest.mark.parametrize(
    ("spelling", "match"),
    [
        ("<0x-1>", "not a byte piece"),
        ("<0xZZ>", "not a byte piece"),
        ("<0x1>", "not a byte piece"),
        ("<0xff>", "not a byte piece"),
        ("<0x02>", "all 256"),
    ],
)
def test_misspelt_byte_pieces_are_refused(spelling: str, match: str) -> None:
    metadata = small()
    metadata["tokenizer.ggml.tokens"][4] = spelling
    with pytest.raises(TokenizerError, match=match):
        load_tokenizer(Source(metadata))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"scores": [float("nan")] * 261}, "not finite"),
        ({"scores": [1] * 261}, "array of floats"),
        ({"scores": [0.0]}, "1 entries"),
    ],
)
def test_broken_scores_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(TokenizerError, match=match):
        load_tokenizer(Source(small(**changes)))


def test_a_cut_or_changed_file_is_refused_or_harmless(trained: tuple[bytes, bool]) -> None:
    model, _ = trained
    rng = random.Random(14)
    outcomes = {True: 0, False: 0}
    for case in range(400):
        data = bytearray(model[: rng.randrange(len(model))] if case % 2 else model)
        for _ in range(3):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read_spm_file(bytes(data))
            outcomes[True] += 1
        except TokenizerError:
            outcomes[False] += 1
    assert sum(outcomes.values()) == 400
    assert outcomes[False] > 50


def test_other_model_types_are_refused() -> None:
    with pytest.raises(TokenizerError, match="only BPE"):
        read_spm_file(b"\x0a\x03\x0a\x01a")
    with pytest.raises(TokenizerError, match="runs past"):
        read_spm_file(b"\x0a\x09\x0a")

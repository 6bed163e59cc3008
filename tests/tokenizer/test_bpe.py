"""Pre-tokenizer rules, repairs, and refusals of broken byte-level vocabularies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizer_sources import Source, byte_vocabulary

from edgesparse.errors import TokenizerError
from edgesparse.tokenizer import load_tokenizer
from edgesparse.tokenizer.bytelevel import BYTE_OF_CHAR
from edgesparse.tokenizer.pretokenizers import PRE_RULES, build_pre_tokenizer, guess_pre

# Words of each rule on one sentence, worked out from the published patterns.
SENTENCE = "I'Ll pay 12345€ to x_y:\n\n  now!!\n"
EXPECTED = {
    "gpt-2": ["I", "'", "Ll", " pay", " 12345", "€", " to", " x", "_", "y", ":", "\n\n ", " now",
              "!!", "\n"],
    "smollm": ["I", "'", "Ll", " pay", " ", "1", "2", "3", "4", "5", "€", " to", " x", "_", "y",
               ":", "\n\n ", " now", "!!", "\n"],
    "llama-bpe": ["I", "'Ll", " pay", " ", "123", "45", "€", " to", " x", "_y", ":\n\n", " ",
                  " now", "!!\n"],
    "qwen2": ["I", "'Ll", " pay", " ", "1", "2", "3", "4", "5", "€", " to", " x", "_y", ":\n\n",
              " ", " now", "!!\n"],
    "tekken": ["I", "'Ll", " pay", " ", "1", "2", "3", "4", "5", "€", " to", " x", "_y", ":\n\n",
               " ", " now", "!!\n"],
    "gpt-4o": ["I'Ll", " pay", " ", "123", "45", "€", " to", " x", "_y", ":\n\n", " ", " now",
               "!!\n"],
    "falcon": ["I", "'", "Ll", " pay", " ", "123", "45", "€", " to", " x", "_", "y", ":", "\n\n ",
               " now", "!!", "\n"],
    "deepseek-coder": ["I", "'", "Ll", " pay", " ", "1", "2", "3", "4", "5", "€", " to", " x", "_",
                       "y", ":", "\n", "\n", " ", " now", "!!", "\n"],
    "deepseek-v3": ["I", "'Ll", " pay", " ", "123", "45", "€", " to", " x", "_y", ":\n\n", " ",
                    " now", "!!\n"],
}  # fmt: skip


def words(pre: str, text: str) -> list[bytes]:
    pieces = build_pre_tokenizer(PRE_RULES[pre]).pre_tokenize_str(text)
    return [bytes(map(BYTE_OF_CHAR.__getitem__, piece)) for piece, _ in pieces]


@pytest.mark.parametrize("pre", sorted(EXPECTED))
def test_words_of_each_rule(pre: str) -> None:
    assert [word.decode() for word in words(pre, SENTENCE)] == EXPECTED[pre]


def test_every_rule_builds_and_loses_nothing() -> None:
    text = SENTENCE + "你好 e\u0301 ١٢"
    built = 0
    for pre in PRE_RULES:
        assert b"".join(words(pre, text)) == text.encode()
        built += 1
    assert built >= 25


def test_ignore_merges_takes_whole_words() -> None:
    # "abc" is a piece, but the merges alone lead to "a" + "bc".
    metadata = byte_vocabulary(merges=["b c", "ab c", "a b"], specials=["<|x|>"])
    plain = load_tokenizer(Source(metadata))
    whole = load_tokenizer(Source(metadata | {"tokenizer.ggml.pre": "llama-bpe"}))
    abc = metadata["tokenizer.ggml.tokens"].index("abc")
    assert plain.encode("abc") != [abc]
    assert whole.encode("abc") == [abc]


def test_merges_split_at_the_first_space_only() -> None:
    metadata = byte_vocabulary(merges=["a b", "ab c"])
    tokenizer = load_tokenizer(Source(metadata))
    assert len(tokenizer.encode("abc")) == 1


def test_qwen2_composes_characters() -> None:
    metadata = byte_vocabulary() | {"tokenizer.ggml.pre": "qwen2"}
    assert (
        load_tokenizer(Source(metadata)).decode(load_tokenizer(Source(metadata)).encode("e\u0301"))
        == "é"
    )


@pytest.mark.parametrize("pre", [None, "default", "no-such-rule"])
def test_unusable_rule_is_repaired_loudly(pre: str | None) -> None:
    metadata = byte_vocabulary(specials=["<|begin_of_text|>", "<|eot_id|>"])
    metadata["tokenizer.ggml.bos_token_id"] = 256
    del metadata["tokenizer.ggml.pre"]
    if pre is not None:
        metadata["tokenizer.ggml.pre"] = pre
    tokenizer = load_tokenizer(Source(metadata))
    assert tokenizer.pre == "llama-bpe"
    assert tokenizer.add_bos
    assert any("tokenizer.ggml.pre" in warning for warning in tokenizer.warnings)
    fixed = load_tokenizer(Source(metadata), overrides={"tokenizer.ggml.pre": "gpt-2"})
    assert fixed.pre == "gpt-2"
    assert not any("tokenizer.ggml.pre" in warning for warning in fixed.warnings)


@pytest.mark.parametrize(
    ("n_vocab", "control", "pre"),
    [
        (128_256, (), "llama-bpe"),
        (151_936, ("<|im_start|>",), "qwen2"),
        (49_152, (), "smollm"),
        (131_072, ("[INST]",), "tekken"),
        (131_072, (), "falcon3"),
        (65_024, (), "falcon"),
        (129_280, (), "deepseek-v3"),
        (50_257, (), "gpt-2"),
    ],
)
def test_guess_by_vocabulary(n_vocab: int, control: tuple[str, ...], pre: str) -> None:
    assert guess_pre(n_vocab, frozenset(control)) == pre


def broken(**changes: Any) -> dict[str, Any]:
    metadata = byte_vocabulary(merges=["a b"])
    metadata.update({f"tokenizer.ggml.{key}": value for key, value in changes.items()})
    return metadata


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tokens": []}, "no vocabulary"),
        ({"tokens": "abc"}, "array of strings"),
        ({"tokens": [b"a"] * 260}, "array of strings"),
        ({"tokens": ["a" * 5000]}, "longer than"),
        ({"token_type": [1] * 3}, "3 entries"),
        ({"token_type": np.ones(260, np.uint8)}, "signed integers"),
        ({"token_type": [7] * 260}, "outside 1..6"),
        ({"merges": ["ab"]}, "two pieces"),
        ({"merges": ["a nothing"]}, "does not fit"),
        ({"merges": [1]}, "array of strings"),
        ({"model": "bert"}, "not supported"),
        ({"model": 3}, "expected a string"),
        ({"pre": 3}, "expected a string"),
        ({"bos_token_id": "x"}, "expected a token id"),
        ({"eos_token_ids": "x"}, "list of token ids"),
        ({"add_bos_token": 1}, "expected true or false"),
    ],
)
def test_broken_vocabularies_are_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(TokenizerError, match=match):
        load_tokenizer(Source(broken(**changes)))


def test_ids_out_of_range_are_disabled_with_a_warning() -> None:
    metadata = broken(bos_token_id=2**31 - 1, eos_token_id=260, add_bos_token=True)
    tokenizer = load_tokenizer(Source(metadata))
    assert tokenizer.bos_id is None
    assert tokenizer.eos_id is None
    assert not tokenizer.add_bos
    assert sum("outside the vocabulary" in w for w in tokenizer.warnings) == 2


def test_repeated_tokens_use_the_first_id() -> None:
    metadata = byte_vocabulary(specials=["<|im_end|>", "a"])
    metadata["tokenizer.ggml.token_type"] = [1] * 256 + [3, 1]
    tokenizer = load_tokenizer(Source(metadata))
    assert tokenizer.encode("a") == [metadata["tokenizer.ggml.tokens"].index("a")]
    assert any("repeated" in warning for warning in tokenizer.warnings)


def test_nothing_to_build_from_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no tokenizer found"):
        load_tokenizer(Source())


def test_lone_surrogates_become_replacement_characters() -> None:
    tokenizer = load_tokenizer(Source(byte_vocabulary()))
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"
    assert tokenizer.encode("") == []

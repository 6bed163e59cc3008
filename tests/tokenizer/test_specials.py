"""Control tokens come from the template or not at all."""

from __future__ import annotations

import random

import pytest
from tokenizer_sources import Source, byte_vocabulary, random_texts, smolbit

from edgesparse.tokenizer import load_tokenizer
from edgesparse.tokenizer.split import SpecialSplitter

LITERALS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")


def test_plain_encoding_never_yields_control_ids() -> None:
    tokenizer = smolbit()
    checked = 0
    for text in random_texts(200, seed=7):
        for literal in LITERALS:
            full = f"{text}{literal}{text}"
            ids = tokenizer.encode(full)
            assert not any(map(tokenizer.is_control, ids))
            assert tokenizer.decode(ids) == full
            checked += 1
    assert checked == 600


def test_parsing_specials_on_request() -> None:
    tokenizer = smolbit()
    ids = tokenizer.encode("<|im_start|>user<|im_end|>", parse_special=True)
    assert ids == [1, *tokenizer.encode("user"), 2]


def test_messages_cannot_inject_control_tokens() -> None:
    tokenizer = smolbit()
    rng = random.Random(8)
    structure = [1, 2, 1, 2, 1, 2, 1]  # markers of system, user, assistant and the prompt
    fragments = [*LITERALS, "<|im_", "end|>", "<", "|>", "<|", "im_start", "\n", "assistant", ">"]
    checked = 0
    for _ in range(1500):
        texts = ["".join(rng.choices(fragments, k=rng.randrange(7))) for _ in range(3)]
        roles = ("system", "user", "assistant")
        messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
        ids = tokenizer.encode_chat(messages)
        assert [i for i in ids if tokenizer.is_control(i)] == structure
        assert tokenizer.decode(ids, skip_special=False) == tokenizer.render_chat(messages)
        checked += 1
    assert checked == 1500


def test_a_role_cannot_inject_either() -> None:
    tokenizer = smolbit()
    ids = tokenizer.encode_chat([{"role": "user<|im_end|>", "content": "x"}])
    assert ids.count(2) == 2


def test_content_that_meets_template_text_makes_no_token() -> None:
    template = "{{ messages[0].content }}|im_end|>{{ messages[1].content }}"
    metadata = byte_vocabulary(chat_template=template)
    tokenizer = load_tokenizer(Source(metadata))
    messages = [{"role": "a", "content": "<"}, {"role": "a", "content": "<|im_end|"}]
    ids = tokenizer.encode_chat(messages)
    assert not any(map(tokenizer.is_control, ids))
    assert tokenizer.decode(ids) == "<|im_end|><|im_end|"


def test_private_use_characters_of_the_user_survive() -> None:
    tokenizer = smolbit()
    text = "".join(map(chr, range(0xE000, 0xE010))) + "<|im_end|>"
    ids = tokenizer.encode_chat([{"role": "user", "content": text}])
    assert text in tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("template", "add_bos", "expected"),
    [
        ("{{ bos_token }}{{ messages[0].content }}", True, 1),
        ("{{ messages[0].content }}", True, 1),
        ("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}", True, 1),
        ("{{ bos_token }}{{ messages[0].content }}", False, 1),
        ("{{ messages[0].content }}", False, 0),
    ],
)
def test_exactly_one_bos(template: str, add_bos: bool, expected: int) -> None:
    metadata = byte_vocabulary(
        specials=["<s>", "</s>"],
        chat_template=template,
        **{"ggml.bos_token_id": 256, "ggml.eos_token_id": 257, "ggml.add_bos_token": add_bos},
    )
    tokenizer = load_tokenizer(Source(metadata))
    ids = tokenizer.encode_chat([{"role": "user", "content": "<s>hi"}])
    assert ids.count(256) == expected
    assert ids[:1] == [256] or not expected
    raw = tokenizer.encode("hi", add_special=True)
    assert raw.count(256) == int(add_bos)


def test_chat_markers_typed_user_defined_are_control() -> None:
    metadata = byte_vocabulary(specials=["<|user|>", "<|end|>", "<think>"])
    metadata["tokenizer.ggml.token_type"] = [1] * 256 + [4, 4, 4]
    tokenizer = load_tokenizer(Source(metadata))
    assert tokenizer.control_literals == {"<|user|>": 256, "<|end|>": 257}
    assert tokenizer.eog_ids == {257}
    assert tokenizer.encode("<think>") == [258]
    assert 256 not in tokenizer.encode("<|user|>")


def test_longest_literal_wins() -> None:
    splitter = SpecialSplitter({"<a>": 1, "<a><b>": 2, "<b>": 3})
    assert list(splitter.split("x<a><b><a>y<b>")) == ["x", 2, 1, "y", 3]
    assert list(SpecialSplitter({}).split("<a>")) == ["<a>"]


def test_disarming_breaks_overlapping_literals() -> None:
    splitter = SpecialSplitter({"<ab>": 1, "b><c>": 2, ">>": 3})
    for text in ("<ab><c>", "<ab>>", ">>>>", "<<ab>"):
        marked = splitter.disarm(text, "\ue000")
        assert [part for part in splitter.split(marked) if isinstance(part, int)] == []
        assert marked.replace("\ue000", "") == text

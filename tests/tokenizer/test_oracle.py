"""The default model's tokenizer against ids from an independent program."""

from __future__ import annotations

import json

from tokenizer_sources import MODEL, Source, random_texts, smolbit, smolbit_metadata

from edgesparse.tokenizer import load_tokenizer

CASES = json.loads((MODEL / "oracle.json").read_text())["cases"]


def test_prompt_ids_equal_the_oracle() -> None:
    tokenizer = smolbit()
    checked = 0
    for case in CASES:
        if case["kind"] == "chat":
            ids = tokenizer.encode_chat([{"role": "user", "content": case["text"]}])
        else:
            ids = tokenizer.encode(case["text"], add_special=True)
        assert ids == case["prompt_ids"]
        assert tokenizer.decode(case["greedy_ids"]) == case["greedy_text"]
        checked += 1
    assert checked == 7


def test_attributes() -> None:
    tokenizer = smolbit()
    assert (tokenizer.kind, tokenizer.pre, tokenizer.n_vocab) == ("bpe", "smollm", 49152)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (1, 2, False)
    assert tokenizer.eog_ids == {0, 2}
    assert tokenizer.warnings == []
    assert tokenizer.template_source == "model"
    assert tokenizer.is_control(1)
    assert not tokenizer.is_control(504)


def test_round_trip_of_random_text() -> None:
    tokenizer = smolbit()
    checked = 0
    for text in random_texts(2000, seed=1):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        checked += 1
    assert checked == 2000


def test_pieces_are_the_bytes_of_the_text() -> None:
    tokenizer = smolbit()
    checked = 0
    for text in random_texts(300, seed=2):
        pieces = b"".join(map(tokenizer.piece, tokenizer.encode(text)))
        assert pieces == text.encode()
        checked += 1
    assert checked == 300


def test_long_runs_of_one_character() -> None:
    tokenizer = smolbit()
    checked = 0
    for character in ("a", " ", "7", "\n", "!", "é", "中", "\t", "\u0301"):
        text = character * 20_000
        assert tokenizer.decode(tokenizer.encode(text)) == text
        checked += 1
    assert checked == 9


def test_earlier_turns_are_a_prefix_of_later_ones() -> None:
    tokenizer = smolbit()
    messages = [{"role": "system", "content": "Be brief."}]
    previous: list[int] = []
    checked = 0
    for text in random_texts(60, seed=3):
        messages.append({"role": "user", "content": text})
        prompt = tokenizer.encode_chat(messages)
        assert prompt[: len(previous)] == previous
        # White space at the head of an answer would merge with the line break before it.
        messages.append({"role": "assistant", "content": text[::-1].lstrip()})
        previous = tokenizer.encode_chat(messages, add_generation_prompt=False)
        assert previous[: len(prompt)] == prompt
        checked += 1
    assert checked == 60


def test_override_of_the_template() -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    tokenizer = load_tokenizer(
        Source(smolbit_metadata()), overrides={"tokenizer.chat_template": template}
    )
    assert tokenizer.render_chat([{"role": "user", "content": "a"}]) == "[a]"

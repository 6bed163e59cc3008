from __future__ import annotations

import json
import threading

import pytest

from edgesparse.cancel import CancelToken
from edgesparse.chat import Session
from edgesparse.errors import ContextOverflow, UsageError
from edgesparse.stopping import LoopGuard
from tests.generate.fakes import (
    ASSISTANT,
    IM_END,
    N_CONTROL,
    ByteTokenizer,
    FakeEngine,
    speak,
)


def talk(rule=None, *, system=None, tokenizer=None, **options):
    engine = FakeEngine(rule or speak(b"Paris."), **options)
    return Session(engine, tokenizer or ByteTokenizer(), system, temperature=0), engine


def test_a_turn_is_remembered_with_its_system_prompt():
    session, _ = talk(system="Be brief.")
    result = session.send("Capital of France?")
    assert str(result) == "Paris."
    assert session.history == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Capital of France?"},
        {"role": "assistant", "content": "Paris."},
    ]


def test_a_second_turn_computes_only_what_is_new():
    session, engine = talk()
    session.send("one")
    before = session.cached_tokens
    engine.steps.clear()
    result = session.send("two!")
    # What follows the held tokens: <im_end> <user> t w o ! <im_end> <assistant>
    assert result.stats.reused_tokens == before
    assert engine.steps[0] == (before, 8)
    assert result.stats.prompt_tokens == before + 8


class MergingTokenizer(ByteTokenizer):
    """Encodes "ab" as one token, which the model never chooses."""

    AB = N_CONTROL + 0x7F

    def encode(self, text, *, add_special=False, parse_special=False):
        parts = text.split("ab")
        ids = super().encode(parts[0])
        for part in parts[1:]:
            ids += [self.AB, *super().encode(part)]
        return ids

    def piece(self, token):
        return b"ab" if token == self.AB else super().piece(token)


def test_the_chosen_tokens_are_kept_not_those_of_the_text():
    tokenizer = MergingTokenizer()
    session, engine = talk(speak(b"cab"), tokenizer=tokenizer)
    first = session.send("x")
    assert tokenizer.encode(first.text) != list(first.ids[:-1])
    for turn in range(3):
        before = session.cached_tokens
        engine.steps.clear()
        result = session.send("y")
        assert result.stats.reused_tokens == before, turn
        assert engine.steps[0][1] == 5


def test_an_answer_cut_by_a_stop_string_is_written_anew():
    session, engine = talk(speak(b"yes STOP no"))
    assert session.send("x", stop="STOP").text == "yes "
    engine.steps.clear()
    session.send("y")
    assert session.history[1]["content"] == "yes "
    # <bos><user>x<end><assistant>"yes " is reused; " STOP" is gone.
    assert engine.steps[0][0] == 5 + 4


def test_options_of_one_answer_and_of_the_session():
    session, _ = talk()
    assert session.send("x", max_tokens=3).text == "Par"
    session.options = session.options.updated(max_tokens=2)
    assert session.send("x").text == "Pa"
    with pytest.raises(UsageError, match="top_p"):
        session.stream("x", top_p=7)
    assert len(session.history) == 4


def test_reset_undo_and_a_new_system_prompt():
    session, engine = talk(system="S")
    session.send("one")
    session.send("two")
    assert session.undo() is True
    assert [m["content"] for m in session.history] == ["S", "one", "Paris."]
    session.system = "T"
    assert session.history[0]["content"] == "T"
    assert session.send("three").text == "Paris."
    session.reset()
    assert session.history == [{"role": "system", "content": "T"}]
    assert session.undo() is False
    engine.steps.clear()
    assert session.send("one").text == "Paris."
    assert engine.steps[0][0] > 0  # the system prompt is still held


def test_regenerate_replaces_the_answer():
    session, _ = talk()
    with pytest.raises(UsageError):
        session.regenerate()
    session.send("one")
    assert "".join(chunk.text for chunk in session.regenerate(max_tokens=3)) == "Par"
    assert [m["content"] for m in session.history] == ["one", "Par"]
    token = CancelToken()
    token.cancel()
    list(session.regenerate(cancel=token))
    assert [m["content"] for m in session.history] == ["one", "Par"]


def test_a_cancelled_answer_keeps_what_it_has():
    session, _ = talk(speak(b"abcdefghij"))
    token = CancelToken()
    texts = []
    for chunk in session.stream("one", cancel=token):
        texts.append(chunk.text)
        if len(texts) == 4:
            token.cancel()
    assert chunk.finish_reason == "cancelled"
    assert session.history[-1]["content"] == "".join(texts) == "abcd"
    assert session.send("go on").text == "abcdefghij"


def test_a_closed_stream_counts_as_cancelled():
    session, _ = talk(speak(b"abcdefghij"))
    stream = session.stream("one")
    for _ in range(3):
        next(stream)
    with pytest.raises(UsageError, match="already making an answer"):
        session.send("two")
    with pytest.raises(UsageError, match="already making an answer"):
        session.reset()
    stream.close()
    assert session.history[-1]["content"] == "abc"
    assert session.send("two").finish_reason == "stop"


def test_cancelled_in_the_prompt_leaves_the_conversation_as_it_was():
    session, engine = talk(n_ctx=4000, token_s=0.004)
    engine.token_s = 0
    session.send("one")
    before = session.history
    engine.token_s = 0.004
    token = CancelToken()
    threading.Timer(0.1, token.cancel).start()
    result = session.send("x" * 2000, cancel=token)
    assert (result.finish_reason, result.text) == ("cancelled", "")
    assert session.history == before
    engine.token_s = 0
    assert session.send("two").text == "Paris."


def test_overflow_leaves_the_conversation_as_it_was():
    session, _ = talk(n_ctx=40)
    session.send("one")
    before = session.history
    with pytest.raises(ContextOverflow):
        session.send("x" * 40)
    assert session.history == before
    assert session.send("two").text == "Paris."


def test_save_and_load(tmp_path):
    path = tmp_path / "talk.json"
    tokenizer = MergingTokenizer()
    session, _ = talk(speak(b"cab"), system="S", tokenizer=tokenizer)
    session.send("one")
    session.send("two")
    session.save(path)
    assert [item.name for item in tmp_path.iterdir()] == ["talk.json"]
    other = Session(FakeEngine(speak(b"cab")), tokenizer, load=path, temperature=0)
    assert other.history == session.history
    ours, theirs = session.send("three"), other.send("three")
    assert ours.stats.prompt_tokens == theirs.stats.prompt_tokens
    assert theirs.stats.reused_tokens == 0
    with pytest.raises(UsageError, match="cannot be written"):
        session.save(tmp_path / "absent" / "talk.json")


GOOD = {"format": "edgesparse-conversation", "version": 1, "system": None, "turns": []}
TURN = {"user": "a", "answer": "b", "tokens": [1]}
BAD_FILES = [
    b"",
    b"[]",
    b"\xff\xfe",
    b"[" * 100_000,
    *(
        json.dumps({**GOOD, **change}).encode()
        for change in (
            {"format": "x"},
            {"version": 2},
            {"system": 3},
            {"turns": {}},
            {"turns": [3]},
            {"turns": [{**TURN, "user": 1}]},
            {"turns": [{**TURN, "answer": None}]},
            {"turns": [{**TURN, "tokens": [-1]}]},
            {"turns": [{**TURN, "tokens": [True]}]},
            {"turns": [{**TURN, "tokens": "12"}]},
        )
    ),
]


@pytest.mark.parametrize("data", BAD_FILES)
def test_bad_saved_files_are_refused_and_change_nothing(tmp_path, data):
    path = tmp_path / "talk.json"
    path.write_bytes(data)
    session, _ = talk()
    session.send("one")
    before = session.history
    with pytest.raises(UsageError, match="not a saved conversation"):
        session.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        session.load(tmp_path / "absent")
    assert session.history == before


def test_tokens_of_another_model_are_dropped(tmp_path):
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({**GOOD, "turns": [{**TURN, "tokens": [10**9]}]}))
    session, _ = talk()
    session.load(path)
    assert session.send("x").text == "Paris."


def test_the_end_of_an_answer_is_no_part_of_the_next_prompt():
    seen = []
    rule = speak(b"hi")

    def watching(history, n_vocab):
        seen.append(list(history))
        return rule(history, n_vocab)

    session, _ = talk(watching)
    session.send("a")
    session.send("b")
    last = max(seen, key=len)
    assert last.count(IM_END) == 3
    assert last.count(ASSISTANT) == 2
    assert LoopGuard.SPAN > len(last) > 0

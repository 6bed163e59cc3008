from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from edgesparse.answer import GenerationOptions
from edgesparse.cancel import CancelToken
from edgesparse.errors import ContextOverflow, ModelFormatError, UsageError
from edgesparse.generate import generate, stream, stream_tokens
from edgesparse.session import CachedSequence
from tests.generate.fakes import (
    ASSISTANT,
    IM_END,
    N_CONTROL,
    N_VOCAB,
    ByteTokenizer,
    FakeEngine,
    speak,
)

TOKENIZER = ByteTokenizer()
EMOJI = "né 🙂 日本"


def say(text, **options):
    data = text if isinstance(text, bytes) else text.encode()
    engine = FakeEngine(speak(data), n_ctx=options.pop("n_ctx", 256))
    return generate(engine, TOKENIZER, [9, ASSISTANT], temperature=0, **options)


def test_an_answer_ends_with_the_model():
    result = say("hello")
    assert (result.text, result.finish_reason) == ("hello", "stop")
    assert result.ids == (*TOKENIZER.encode("hello"), IM_END)
    assert str(result) == "hello"
    assert (result.stats.prompt_tokens, result.stats.generation_tokens) == (2, 6)


def test_padding_rows_are_never_chosen():
    result = generate(FakeEngine(), TOKENIZER, "abc", max_tokens=50, seed=1)
    assert len(result.ids) == 50
    assert max(result.ids) < N_VOCAB


def test_seeds_reproduce_a_text_and_are_reported():
    engine = FakeEngine()
    first = generate(engine, TOKENIZER, "abc", max_tokens=40)
    again = generate(engine, TOKENIZER, "abc", max_tokens=40, seed=first.stats.seed)
    other = generate(engine, TOKENIZER, "abc", max_tokens=40, seed=first.stats.seed + 1)
    assert first.ids == again.ids != other.ids


@pytest.mark.parametrize("max_tokens", range(1, 14))
def test_half_characters_are_never_emitted(max_tokens):
    items = list(
        stream(
            FakeEngine(speak(EMOJI.encode())),
            TOKENIZER,
            [ASSISTANT],
            temperature=0,
            max_tokens=max_tokens,
        )
    )
    text = "".join(item.text for item in items)
    assert EMOJI.startswith(text)
    assert "\ufffd" not in text
    assert text == EMOJI.encode()[:max_tokens].decode(errors="ignore")
    assert [item.token for item in items].count(None) == 1
    assert items[-1].finish_reason == "length"


def test_stop_strings_end_the_answer_without_leaking():
    items = list(
        stream(
            FakeEngine(speak(b"one STO two STOP three")),
            TOKENIZER,
            [ASSISTANT],
            temperature=0,
            stop=["STOP"],
        )
    )
    shown = ""
    for item in items:
        shown += item.text
        assert "one STO two ".startswith(shown)
    assert (shown, items[-1].finish_reason) == ("one STO two ", "stop")
    assert say("abcST", stop="STOP").text == "abcST"
    assert say("abcST", stop=("STOP",), max_tokens=5).text == "abcST"


def test_limits():
    assert say("abcdef", max_tokens=3).text == "abc"
    assert say("abcdef", max_tokens=3).finish_reason == "length"
    assert say("abcdef", max_tokens=-1).text == "abcdef"
    nothing = say("abc", max_tokens=0)
    assert (nothing.text, nothing.ids, nothing.finish_reason) == ("", (), "length")


def test_the_context_bounds_an_answer():
    result = say("x" * 50, n_ctx=12)
    assert (result.text, result.finish_reason) == ("x" * 10, "length")
    for n in (12, 13, 100):
        with pytest.raises(ContextOverflow, match=f"{n} tokens") as caught:
            generate(FakeEngine(n_ctx=12), TOKENIZER, [9] * n)
        assert (caught.value.n_prompt, caught.value.n_ctx) == (n, 12)
    assert (ContextOverflow("m", advice="a").n_prompt, str(ContextOverflow("m"))) == (None, "m")
    assert len(generate(FakeEngine(n_ctx=12), TOKENIZER, [9] * 11).ids) == 1


def test_loops_are_ended_unless_allowed():
    looping = say("ab" * 100)
    assert looping.finish_reason == "repetition"
    assert len(looping.ids) == 66
    assert say("ab" * 100, loop_guard=False).finish_reason == "stop"


def test_ignore_eog_and_logprobs_and_processors():
    assert say("ab", ignore_eog=True, max_tokens=5).finish_reason == "length"
    result = say("ab", logprobs=2)
    assert len(result.logprobs) == len(result.ids) == 3
    assert all(-1e-3 < value <= 0 for value in result.logprobs)

    def forbid_a(tokens, logits):
        logits = logits.copy()
        logits[N_CONTROL + ord("a")] = -np.inf
        return logits

    assert "a" not in say("aaaa", logits_processors=[forbid_a]).text


def test_broken_logits_are_a_typed_error():
    def rule(history, n_vocab):
        return np.full(n_vocab, np.nan)

    with pytest.raises(ModelFormatError):
        generate(FakeEngine(rule), TOKENIZER, "abc")


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": -2},
        {"max_tokens": 1.5},
        {"stop": [""]},
        {"stop": [3]},
        {"logprobs": -1},
        {"nonsense": 1},
        {"top_p": 2},
    ],
)
def test_bad_options_are_refused_before_anything_runs(options):
    engine = FakeEngine()
    with pytest.raises(UsageError, match=next(iter(options))):
        stream(engine, TOKENIZER, "abc", **options)
    assert engine.steps == []


def test_aliases():
    options = GenerationOptions().updated(temp=0.1, n_predict=5, repetition_penalty=1.2)
    assert options.sampling.temperature == 0.1
    assert (options.max_tokens, options.sampling.repeat_penalty) == (5, 1.2)


def test_an_empty_prompt_is_refused():
    with pytest.raises(UsageError, match="no tokens"):
        generate(FakeEngine(), TOKENIZER, [])


def test_a_prefix_is_computed_once():
    engine = FakeEngine(speak(b"ok"), max_tokens=32)
    sequence = CachedSequence(engine)
    options = GenerationOptions().updated(temperature=0)
    first = [*range(10, 60), ASSISTANT]
    items = list(stream_tokens(sequence, TOKENIZER, first, options))
    assert engine.n_computed == 51 + 2
    assert sequence.tokens == [*first, *TOKENIZER.encode("ok")]
    second = [*sequence.tokens, 70, 71, ASSISTANT]
    engine.steps.clear()
    items = list(stream_tokens(sequence, TOKENIZER, second, options))
    assert items[-1].stats.reused_tokens == 53
    assert engine.steps[0] == (53, 3)
    engine.steps.clear()
    # The same prompt again: one token is computed, for its logits.
    list(stream_tokens(sequence, TOKENIZER, second, options))
    assert engine.steps[0] == (55, 1)
    engine.steps.clear()
    list(stream_tokens(sequence, TOKENIZER, [10, 99, ASSISTANT], options))
    assert engine.steps[0] == (1, 2)


def test_reuse_does_not_change_the_text():
    options = GenerationOptions().updated(seed=5, max_tokens=30)
    sequence = CachedSequence(FakeEngine())
    list(stream_tokens(sequence, TOKENIZER, list(range(10, 40)), options))
    warm = list(stream_tokens(sequence, TOKENIZER, [*range(10, 30), 7], options))
    cold = list(
        stream_tokens(CachedSequence(FakeEngine()), TOKENIZER, [*range(10, 30), 7], options)
    )
    assert warm[0].stats.reused_tokens == 20
    assert [item.token for item in warm] == [item.token for item in cold]


def test_prefill_reports_progress_in_growing_chunks():
    engine = FakeEngine(n_ctx=2000, max_tokens=256)
    seen = []
    list(
        stream(engine, TOKENIZER, [9] * 1000, max_tokens=1, on_prefill=lambda *at: seen.append(at))
    )
    assert seen == [
        (0, 1000),
        (64, 1000),
        (192, 1000),
        (448, 1000),
        (704, 1000),
        (960, 1000),
        (1000, 1000),
    ]


def test_cancel_during_the_answer_from_another_thread():
    engine = FakeEngine(speak(b"x" * 60 + b"yz" * 500), n_ctx=2000, token_s=0.005)
    token = CancelToken()
    threading.Timer(0.15, token.cancel).start()
    begin = time.perf_counter()
    result = generate(engine, TOKENIZER, [ASSISTANT], temperature=0, cancel=token)
    assert time.perf_counter() - begin < 1.0
    assert result.finish_reason == "cancelled"
    assert token.cancelled
    assert 1 < len(result.ids) < 100
    assert len(result.text) == len(result.ids)


def test_cancel_during_the_prompt_from_another_thread():
    engine = FakeEngine(n_ctx=2000, token_s=0.005)
    sequence = CachedSequence(engine)
    token = CancelToken()
    threading.Timer(0.45, token.cancel).start()
    begin = time.perf_counter()
    options = GenerationOptions().updated(seed=1, max_tokens=5)
    items = list(stream_tokens(sequence, TOKENIZER, [9] * 1500, options, cancel=token))
    assert time.perf_counter() - begin < 1.5
    assert [item.finish_reason for item in items] == ["cancelled"]
    # Whole chunks were kept, and the sequence goes on from there.
    assert sequence.tokens == [9] * 64
    engine.token_s = 0
    items = list(stream_tokens(sequence, TOKENIZER, [9] * 1500, options))
    assert items[-1].stats.reused_tokens == 64
    assert len(items) == 6


def test_a_cancelled_token_stops_at_once():
    token = CancelToken()
    token.cancel()
    token.cancel()
    engine = FakeEngine()
    result = generate(engine, TOKENIZER, "abc", cancel=token)
    assert (result.finish_reason, result.text, engine.steps) == ("cancelled", "", [])


def test_one_answer_at_a_time():
    sequence = CachedSequence(FakeEngine())
    options = GenerationOptions().updated(seed=1, max_tokens=5)
    first = stream_tokens(sequence, TOKENIZER, [9, 9], options)
    next(first)
    with pytest.raises(UsageError, match="already making an answer"):
        next(stream_tokens(sequence, TOKENIZER, [9, 9], options))
    first.close()
    assert len(list(stream_tokens(sequence, TOKENIZER, [9, 9], options))) == 6


def test_results_are_plain_data():
    data = say("hi").to_dict()
    assert data["text"] == "hi"
    assert data["finish_reason"] == "stop"
    assert {"prompt_tokens", "generation_tps", "seed"} <= set(data["stats"])


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_nothing_is_computed_that_is_not_used(max_tokens):
    engine = FakeEngine(speak(b"abcdef"))
    generate(engine, TOKENIZER, [ASSISTANT], temperature=0, max_tokens=max_tokens)
    assert len(engine.steps) == max(1, max_tokens)

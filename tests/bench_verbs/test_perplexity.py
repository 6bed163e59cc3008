"""The definition of perplexity, on an engine whose probabilities are known."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from edgesparse.cli import main
from edgesparse.errors import UsageError
from edgesparse.perplexity import candidate_misses, log_probabilities, perplexity, windows
from tests.bench_verbs.real_model import EXECUTOR, TEXT
from tests.executors.running import load_tiny
from tests.models import tiny

N_VOCAB = 5


class CountingEngine:
    """Logits depend on the token alone; remembers what it was asked."""

    n_ctx = 64

    def __init__(self):
        self.calls = []

    def new_cache(self, capacity):
        return SimpleNamespace(capacity=capacity)

    def forward(self, cache, tokens, start, *, outputs, **_):
        self.calls.append((list(tokens), start, outputs))
        assert start + len(tokens) <= cache.capacity
        return row(np.array(tokens)) if outputs == "all" else np.zeros((0, N_VOCAB), np.float32)


def row(tokens):
    """Logits after a token: the token's own number times the target's."""
    return (tokens[:, None] * np.arange(N_VOCAB) / 3).astype(np.float32)


def model(bos=None):
    tokenizer = SimpleNamespace(add_bos=bos is not None, bos_id=bos)
    return SimpleNamespace(engine=CountingEngine(), tokenizer=tokenizer)


def by_hand(ids, n_ctx):
    values = []
    for begin in range(0, len(ids) - n_ctx + 1, n_ctx):
        window = ids[begin : begin + n_ctx]
        for i in range(n_ctx // 2, n_ctx - 1):
            logits = [window[i] * target / 3 for target in range(N_VOCAB)]
            total = math.log(sum(math.exp(value) for value in logits))
            values.append(total - logits[window[i + 1]])
    return values


@pytest.mark.parametrize("n_ctx", [8, 9, 16, 64])
def test_second_halves_of_whole_windows_are_scored(n_ctx):
    ids = list(np.random.default_rng(n_ctx).integers(0, N_VOCAB, 3 * n_ctx + 5))
    found = perplexity(model(), ids, n_ctx)
    values = by_hand(ids, n_ctx)
    assert found.n_scored == len(values) == 3 * (n_ctx - n_ctx // 2 - 1)
    assert found.perplexity == pytest.approx(math.exp(np.mean(values)), rel=1e-6)
    error = np.std(values, ddof=1) / math.sqrt(len(values)) * found.perplexity
    assert found.uncertainty == pytest.approx(error, rel=1e-6)


def test_bos_takes_the_first_place_of_each_window():
    wanting = model(bos=4)
    ids = [1, 2, 3, 0] * 8
    assert perplexity(wanting, ids, 16).n_windows == 2
    starts = [tokens for tokens, start, _ in wanting.engine.calls if start == 0]
    assert [tokens[0] for tokens in starts] == [4, 4]
    assert all(tokens[1:] == [2, 3, 0, 1, 2, 3, 0] for tokens in starts)
    plain = model()
    perplexity(plain, ids, 16)
    assert plain.engine.calls[0][0][0] == 1


def test_windows_can_be_limited_and_stream():
    ids = [1, 2, 3, 0] * 8
    estimates = list(windows(model(), ids, 8, max_windows=3))
    assert [(e.n_windows, e.of_windows) for e in estimates] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("n_tokens", "options", "message"),
    [
        (31, {"n_ctx": 16}, "31 tokens; 32 are needed"),
        (400, {"n_ctx": 128}, "between 8 and 64"),
        (400, {"n_ctx": 4}, "between 8 and 64"),
        (400, {"n_ctx": 16, "max_windows": 0}, "must be positive"),
    ],
)
def test_what_cannot_be_scored_is_refused(n_tokens, options, message):
    with pytest.raises(UsageError, match=message):
        perplexity(model(), [1] * n_tokens, **options)


def test_log_probabilities_survive_large_logits():
    logits = np.array([[1e4, 0, -1e4], [0, 0, 0]], np.float32)
    found = log_probabilities(logits, np.array([0, 2], np.int32))
    np.testing.assert_allclose(found, [0.0, -math.log(3)])


def test_the_verb_prints_llama_cpps_last_line(capsys):
    argv = ["perplexity", "-f", str(TEXT), "-c", "128", "--chunks", "2", "--executor", EXECUTOR]
    assert main(argv) == 0
    plain = capsys.readouterr()
    lines = plain.out.splitlines()
    assert len(lines) == 1
    words = lines[0].split()
    assert words[:4] == ["Final", "estimate:", "PPL", "="]
    assert words[5] == "+/-"
    assert "seconds per pass - ETA" in plain.err
    assert "[1]" in plain.err
    assert f"[2]{words[4]}," in plain.err
    assert main([*argv, "--json", "-q"]) == 0
    quiet = capsys.readouterr()
    data = json.loads(quiet.out)
    assert quiet.err == ""
    assert f"{data['perplexity']:.4f}" == words[4]
    assert (data["n_ctx"], data["n_windows"], data["n_scored"]) == (128, 2, 126)


def test_the_verb_says_what_is_lossy(capsys):
    path = str(tiny.path("bitnet-i2_s.gguf"))
    argv = ["perplexity", path, "-f", str(TEXT), "-c", "64", "--chunks", "1", "-q"]
    for head, said in (
        ("exact", []),
        ("auto", ["Quality: lossy: head F16 rounded to q8"]),
        ("q4", ["Quality: lossy: head F16 rounded to q4"]),
    ):
        assert main([*argv, "--head", head]) == 0
        assert capsys.readouterr().out.splitlines()[1:] == said


def test_misses_of_a_two_stage_head_are_counted(monkeypatch, capsys):
    """With one tile of 8 candidates most of the 40 best are missed; with all tiles none is."""
    from edgesparse import engine

    ids = np.arange(3, 3 + 128, dtype=np.int32)
    with load_tiny("bitnet-tq1_0.gguf", head="two-stage") as model:
        n_vocab = model.engine.n_vocab
        assert n_vocab > 48
        all_tiles = candidate_misses(model, ids, 32)
        assert (all_tiles.best, all_tiles.top, all_tiles.n) == (0, 0, 4 * 15)
        assert candidate_misses(model, ids, 32, max_windows=1).n == 15
        assert candidate_misses(model, ids, 32, max_positions=20).n == 20
        monkeypatch.setattr(engine, "N_TILES", 1)
        one = candidate_misses(model, ids, 32, top_k=40)
        assert 0 <= one.best < one.n == 60
        assert 60 * 32 <= one.top <= 60 * 40
        assert one.top >= one.best
        truth = best_missed(model, ids)
        assert (one.best, one.top) == truth
    monkeypatch.undo()
    path = str(tiny.path("bitnet-tq1_0.gguf"))
    argv = ["perplexity", path, "-f", str(TEXT), "-c", "64", "--chunks", "1", "--head", "two-stage"]
    assert main([*argv, "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Quality: lossy: greedy and top-k sampling choose among candidates")
    assert "at 0 of 31 positions (0.00%), nor were 0 of the 40 best of each" in lines[2]
    assert main([*argv, "--json", "-q"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["candidates_tried"], data["candidate_misses"]) == (31, 0)
    assert (data["candidate_top_k"], data["candidate_top_k_misses"]) == (40, 0)


def best_missed(model, ids):
    """Count misses again, by sorting."""
    best = top = 0
    cache = model.engine.new_cache(32)
    for window in ids.reshape(-1, 32).copy():
        if model.tokenizer.add_bos:
            window[0] = model.tokenizer.bos_id
        model.engine.forward(cache, window[:16], 0, outputs="none")
        for i in range(16, 31):
            logits = model.engine.forward(cache, window[i : i + 1], i)[0]
            kept = np.isfinite(model.engine.forward(cache, window[i : i + 1], i, exact=False)[0])
            order = np.argsort(-logits, kind="stable")
            best += not kept[order[0]]
            top += int((~kept[order[:40]]).sum())
    return best, top


def test_the_verb_wants_a_text(capsys):
    assert main(["perplexity"]) == 2
    assert "-f FILE" in capsys.readouterr().err

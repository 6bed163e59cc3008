"""The sign predictor over a range of alphas: shares, bytes and perplexity belong together."""

import numpy as np
import pytest

from edgesparse.errors import UsageError
from edgesparse.sparsity.alpha_table import compare_alphas
from edgesparse.sparsity.sparseinfer import _Tally, collect_votes, judge_alphas, outcome
from tests.executors.running import load_tiny

ALPHAS = (0, 8_000, 9_500, 10_000, 10_700, 1_000_000)


def ids_of(n: int) -> list[int]:
    return np.random.default_rng(8).integers(0, 300, n).tolist()


@pytest.mark.parametrize("name", ["bitnet-tq2_0.gguf", "llama-relu.gguf"])
def test_counting_on_the_way_is_counting_afterwards(name):
    with load_tiny(name, executor="native", fused=False) as model:
        ids = ids_of(300)
        votes = collect_votes(model, ids, max_tokens=200)
        judged = judge_alphas(model, ids, ALPHAS, max_tokens=200)
        n_cases = 0
        for alpha, (whole, layers) in zip(ALPHAS, judged, strict=True):
            assert list(layers) == list(votes)
            for op, found in layers.items():
                assert found == outcome(votes[op], alpha)
                n_cases += 1
            assert min(x.skipped for x in layers.values()) <= whole.skipped
            assert whole.skipped <= max(x.skipped for x in layers.values())
        assert n_cases == len(ALPHAS) * 2
    whole = [found for found, _ in judged]
    assert [x.dropped for x in whole] == sorted((x.dropped for x in whole), reverse=True)
    assert [x.kept for x in whole] == sorted(x.kept for x in whole)
    assert whole[0].skipped > 0.9
    assert whole[-1].skipped == 0
    assert whole[-1].kept == 1


def test_shares_of_counts():
    """By hand: 9 gates in two tiles, 4 of them live, 4 predicted to be dead, one in error."""
    live = np.array([[1, 0, 0, 0, 1, 1, 0, 0, 1]], bool)
    dead = np.array([[0, 1, 1, 0, 1, 0, 0, 1, 0]], bool)
    tally = _Tally()
    tally.add(dead, live)
    found = tally.outcome()
    assert (found.kept, found.dropped, found.precision) == (3 / 4, 3 / 5, 3 / 4)
    assert (found.skipped, found.skipped_tiles) == (4 / 9, 0)
    tally.add(np.ones_like(dead), np.zeros_like(live))
    found = tally.outcome()
    assert (found.kept, found.dropped, found.precision) == (3 / 4, 12 / 14, 12 / 13)
    assert (found.skipped, found.skipped_tiles) == (13 / 18, 2 / 4)
    nothing = _Tally().outcome()
    assert (nothing.kept, nothing.dropped, nothing.precision, nothing.skipped) == (1, 0, 1, 0)


def test_the_price_is_perplexity_and_bytes():
    with load_tiny("llama-relu.gguf", executor="native", fused=False) as model:
        table = compare_alphas(model, ids_of(256), (0.7, 1.0, 100.0), n_judged=128, n_ctx=512)
        untouched = compare_alphas(model, ids_of(256), (1.0,), n_judged=128, n_ctx=64, scored=False)
    assert table.n_scored == 2 * 63  # two windows of 128, the last token of each unscored
    assert (table.n_judged, untouched.n_scored) == (128, 0)
    assert untouched.rows[0].perplexity is None
    last = table.rows[-1]
    assert last.perplexity == table.dense_perplexity
    assert last.cost.saved_bytes == 0
    assert not last.cost.pays
    assert table.rows[0].perplexity not in (table.dense_perplexity, table.rows[1].perplexity)
    # Q8_0 gates would be stored by rows to be predicted; the other layer's F16 saves whole tiles.
    first = table.rows[0]
    shares = [first.layers["blk.0.gate_up"], first.layers["blk.1.gate_up"]]
    assert 0 < first.cost.saved_bytes < first.cost.gate_bytes
    assert shares[0].skipped > shares[0].skipped_tiles


def test_models_without_a_relu_are_refused():
    with load_tiny("llama-k.gguf", fused=False) as model, pytest.raises(UsageError, match="no zer"):
        compare_alphas(model, ids_of(128), (1.0,), n_judged=64, n_ctx=64)

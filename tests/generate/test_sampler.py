from __future__ import annotations

import math

import numpy as np
import pytest

from edgesparse.errors import ModelFormatError, UsageError
from edgesparse.sampling import SamplingOptions
from edgesparse.sampling.sampler import Sampler, log_probabilities, uniform

OFF = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "temperature": 1.0}


def logits_of(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities)).astype(np.float32)


def drawn_with(logits, tokens=(), **options):
    ids, probabilities = Sampler(SamplingOptions(**{**OFF, **options})).distribution(
        logits, list(tokens)
    )
    return dict(zip(ids.tolist(), probabilities.tolist(), strict=True))


def test_defaults_are_those_of_the_documentation():
    options = SamplingOptions()
    assert (options.temperature, options.top_k, options.top_p, options.min_p) == (
        0.8,
        40,
        0.95,
        0.05,
    )
    assert (options.repeat_penalty, options.repeat_last_n) == (1.0, 64)
    assert (options.presence_penalty, options.frequency_penalty, options.seed) == (0.0, 0.0, None)


BASE = logits_of(0.5, 0.2, 0.15, 0.1, 0.05)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"top_k": 2}, [5 / 7, 2 / 7]),
        ({"top_k": 99}, [0.5, 0.2, 0.15, 0.1, 0.05]),
        ({"top_p": 0.6}, [5 / 7, 2 / 7]),
        ({"top_p": 0.01}, [1.0]),
        ({"min_p": 0.25}, [0.5 / 0.85, 0.2 / 0.85, 0.15 / 0.85]),
        # top-p sees probabilities renormalised by top-k: 0.5/0.85 + 0.2/0.85 = 0.82 ≥ 0.8
        ({"top_k": 3, "top_p": 0.8}, [5 / 7, 2 / 7]),
        # temperature comes last: it cannot change what the filters keep
        ({"top_p": 0.6, "temperature": 2.0}, [2.5**0.5 / (1 + 2.5**0.5), 1 / (1 + 2.5**0.5)]),
        ({"min_p": 0.25, "top_p": 0.6}, [5 / 7, 2 / 7]),
    ],
)
def test_filters_in_order(options, expected):
    found = drawn_with(BASE, **options)
    assert list(found) == list(range(len(expected)))
    assert list(found.values()) == pytest.approx(expected, abs=1e-6)


def test_penalties_come_first_and_follow_their_formula():
    logits = np.array([2.0, -1.0, 0.5, 1.0], np.float32)
    found = drawn_with(
        logits, [0, 0, 1], repeat_penalty=2.0, frequency_penalty=0.25, presence_penalty=0.125
    )
    scores = np.array([2 / 2 - 2 * 0.25 - 0.125, -1 * 2 - 0.25 - 0.125, 0.5, 1.0])
    weights = np.exp(scores) / np.exp(scores).sum()
    assert {i: found[i] for i in range(4)} == pytest.approx(dict(enumerate(weights)), abs=1e-6)
    # Token 0 leads before the penalties and is cut by top-k behind them.
    assert list(drawn_with(logits, [0, 0, 1], repeat_penalty=4.0, top_k=2)) == [3, 0]


def test_penalties_reach_back_as_far_as_asked():
    logits = np.array([1.0, 0.9], np.float32)
    tokens = [0] + [5] * 10
    for last_n, best in ((10, 0), (11, 1), (-1, 1), (0, 0)):
        options = SamplingOptions(temperature=0, repeat_penalty=2.0, repeat_last_n=last_n)
        assert Sampler(options).sample(logits, tokens) == best


def test_greedy_takes_the_first_of_equals_and_top_k_the_lowest_ids():
    logits = np.zeros(1000, np.float32)
    logits[[700, 300]] = 1.0
    assert Sampler(SamplingOptions(temperature=0)).sample(logits, []) == 300
    assert list(drawn_with(logits, top_k=4)) == [300, 700, 0, 1]


def test_seed_and_position_alone_decide():
    logits = np.random.default_rng(1).normal(size=500).astype(np.float32)
    one = [Sampler(SamplingOptions(seed=7)).sample(logits, [0] * n) for n in range(200)]
    sampler = Sampler(SamplingOptions(seed=7))
    two = [sampler.sample(logits, [0] * n) for n in reversed(range(200))][::-1]
    other = [Sampler(SamplingOptions(seed=8)).sample(logits, [0] * n) for n in range(200)]
    assert one == two
    assert one != other
    assert len(set(one)) > 10


def test_a_missing_seed_is_drawn_and_reported():
    seeds = {Sampler(SamplingOptions()).seed for _ in range(20)}
    assert len(seeds) > 15
    assert Sampler(SamplingOptions(seed=-1)).options.seed is not None


def test_uniform_numbers_are_uniform():
    values = np.array([uniform(seed, at) for seed in range(40) for at in range(500)])
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert len(values) == 20000
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-square, 19 degrees of freedom


def test_frequencies_follow_the_probabilities():
    sampler = Sampler(SamplingOptions(**OFF, seed=3))
    counts = np.bincount([sampler.sample(BASE, [0] * n) for n in range(4000)], minlength=5)
    assert counts / 4000 == pytest.approx([0.5, 0.2, 0.15, 0.1, 0.05], abs=0.03)


def test_forbidden_tokens_are_never_drawn():
    logits = np.full(50, -np.inf, np.float32)
    logits[[3, 9]] = 0.0
    assert set(drawn_with(logits)) == set(drawn_with(logits, top_k=10)) == {3, 9}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_scores_are_a_typed_error(bad, temperature):
    logits = np.zeros(10, np.float32)
    logits[4] = bad
    with pytest.raises(ModelFormatError, match="token 4"):
        Sampler(SamplingOptions(temperature=temperature)).sample(logits, [])
    with pytest.raises(ModelFormatError):
        Sampler(SamplingOptions()).sample(np.full(4, -np.inf, np.float32), [])


def test_logits_are_left_alone():
    logits = np.arange(10, dtype=np.float32)
    Sampler(SamplingOptions(repeat_penalty=1.5)).sample(logits, [1, 2, 9])
    assert logits.tolist() == list(range(10))


def test_log_probabilities():
    logprob, top = log_probabilities(BASE, 3, 2)
    assert logprob == pytest.approx(math.log(0.1), abs=1e-6)
    assert top == pytest.approx({0: math.log(0.5), 1: math.log(0.2)}, abs=1e-6)


BAD = [
    {"temperature": math.nan},
    {"temperature": math.inf},
    {"temperature": "hot"},
    {"temperature": True},
    {"top_p": 0.0},
    {"top_p": 1.5},
    {"min_p": -0.1},
    {"min_p": 2},
    {"top_k": 1.5},
    {"top_k": 1 << 40},
    {"repeat_penalty": 0},
    {"repeat_last_n": -2},
    {"presence_penalty": 1000},
    {"frequency_penalty": math.nan},
    {"seed": -2},
    {"seed": 1 << 64},
    {"seed": 1.0},
]


@pytest.mark.parametrize("options", BAD)
def test_bad_options_name_the_option(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        SamplingOptions(**options)


def test_the_bad_options_cover_every_field():
    assert {key for options in BAD for key in options} == set(SamplingOptions.__dataclass_fields__)

from __future__ import annotations

from itertools import product

import pytest

from edgesparse.stopping import LoopGuard, StopMatcher


def cuts(text):
    """Every way to cut `text` into pieces."""
    for mask in product((False, True), repeat=len(text) - 1):
        pieces, piece = [], text[0]
        for cut, char in zip(mask, text[1:], strict=True):
            if cut:
                pieces.append(piece)
                piece = ""
            piece += char
        yield [*pieces, piece]


def run(stops, pieces):
    matcher, out = StopMatcher(stops), []
    for piece in pieces:
        out.append(matcher.push(piece))
        if matcher.stopped:
            break
    return "".join(out) + matcher.flush(), matcher.stopped, out


@pytest.mark.parametrize(
    ("stops", "text", "expected", "stopped"),
    [
        (["END"], "abENDcd", "ab", True),
        (["END"], "abENcd", "abENcd", False),
        (["END"], "abEN", "abEN", False),
        (["aab"], "aaab!", "a", True),
        (["abc", "b"], "xabc!", "xa", True),
        (["b", "ab"], "xxab", "xx", True),
        (["\n\n", "User:"], "hi\nUser:x", "hi\n", True),
        (["abab"], "ababab", "", True),
        (["é🙂"], "xé🙂y", "x", True),
        ([], "plain", "plain", False),
    ],
)
def test_the_result_does_not_depend_on_the_cuts(stops, text, expected, stopped):
    count = 0
    for pieces in cuts(text):
        found, did_stop, out = run(stops, pieces)
        assert (found, did_stop) == (expected, stopped)
        # nothing that was let through had to be taken back
        assert expected.startswith("".join(out))
        count += 1
    assert count == 2 ** (len(text) - 1)


def test_only_what_may_begin_a_stop_string_is_held():
    matcher = StopMatcher(["<|end|>"])
    assert matcher.push("hello <") == "hello "
    assert matcher.push("|e") == ""
    assert matcher.push("x") == "<|ex"


@pytest.mark.parametrize("period", [1, 2, 3, 7, 20, 64])
def test_the_guard_sees_loops_of_every_period(period):
    guard = LoopGuard()
    tokens = [1000 + i for i in range(10)] + [i % period for i in range(400)]
    at = next(i for i, token in enumerate(tokens) if guard.push(token))
    assert at - 10 == max(4 * period, 64 + period) - 1


def test_the_guard_lets_ordinary_repetition_pass():
    guard = LoopGuard()
    ruler = [5] * 60 + [6, 7] * 30 + [8] + list(range(100, 116)) * 3
    numbered = [token for n in range(40) for token in (1, 2, 3, 200 + n)]
    assert not any(guard.push(token) for token in [*ruler, *numbered])

"""Lists and ranges as llama-bench takes them."""

from __future__ import annotations

import pytest

from edgesparse.cli.ranges import number_pairs, whole_numbers
from edgesparse.errors import UsageError


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["1,2,8"], [1, 2, 8]),
        (["1-4"], [1, 2, 3, 4]),
        (["1-8+3"], [1, 4, 7]),
        (["1-4*2"], [1, 2, 4]),
        (["16-1024*4", "0"], [16, 64, 256, 1024, 0]),
        (["4", "2,4", "1-2"], [4, 2, 1]),
        (["5-5"], [5]),
        ([" 3 , 4 ", ""], [3, 4]),
        ([], []),
    ],
)
def test_lists(texts: list[str], numbers: list[int]) -> None:
    assert whole_numbers(texts, "-t") == numbers


@pytest.mark.parametrize(
    "text",
    ["x", "-3", "1.5", "4-1", "1-8+0", "1-8*1", "0-8*2", "1-", "1-2-3", "1-9999", "²", "9" * 10],
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-t"):
        whole_numbers([text], "-t")


def test_least() -> None:
    with pytest.raises(UsageError, match="from 1 on"):
        whole_numbers(["0-2"], "-t", least=1)


def test_pairs() -> None:
    assert number_pairs(["512,128", " 8 , 4 "], "-pg") == [(512, 128), (8, 4)]
    for bad in ("512", "1,2,3", "0,4", "4,x", "4,-1"):
        with pytest.raises(UsageError, match="-pg"):
            number_pairs([bad], "-pg")

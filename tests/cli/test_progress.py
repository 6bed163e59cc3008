"""The bar of long work: what it counts, and when it will be over."""

from __future__ import annotations

import re

import pytest

from edgesparse.cli import progress
from edgesparse.cli.progress import Progress


class Screen:
    """Keeps what a terminal would show."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def progress(self, text: str) -> None:
        self.lines.append(text)


def test_time_left_goes_by_the_latest_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty layers were finished before and pass at once; the others take ten seconds each."""
    now, screen = 0.0, Screen()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(screen, "prune", "layer")  # type: ignore[arg-type]
    for done in range(30):
        shown.show(done, 30)
        now += 0.01 if done < 20 else 10
    assert screen.lines[0] == f"prune {'░' * 20} layer 1 of 30"
    found = re.fullmatch(r"prune (█+)(░+) layer 26 of 30, (\d+):(\d\d) left", screen.lines[25])
    assert found is not None
    assert (len(found[1]), len(found[2])) == (17, 3)
    assert 45 <= 60 * int(found[3]) + int(found[4]) <= 55
    shown.clear()
    assert screen.lines[-1] == ""


def test_a_part_of_a_unit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((0.0, 30.0))
    screen = Screen()
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    shown = Progress(screen, "prune", "layer")  # type: ignore[arg-type]
    shown.show(0, 2)
    shown.show(0.5, 2)
    assert screen.lines[1] == f"prune {'█' * 5}{'░' * 15} layer 1 of 2, 1:30 left"

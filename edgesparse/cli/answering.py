"""Printing an answer while it is made: shared by ``chat`` and ``run``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from edgesparse.cli.interrupt import cancel_on_interrupt
from edgesparse.cli.terminal import Terminal

if TYPE_CHECKING:
    from edgesparse.answer import Chunk, Result, Stats
    from edgesparse.cancel import CancelToken
    from edgesparse.session import OnPrefill

__all__ = ["print_answer", "speed_details", "speed_line"]

StartAnswer = Callable[["CancelToken", "OnPrefill"], Iterator["Chunk"]]


def print_answer(terminal: Terminal, start: StartAnswer, *, silent: bool = False) -> Result:
    """Run an answer to its end, printing text as it comes and stopping it on Ctrl-C.

    Parameters
    ----------
    terminal : Terminal
        Where it goes.
    start : callable
        Makes the stream from a cancel token and a progress callback.
    silent : bool
        Collect only.
    """
    from edgesparse.answer import Result
    from edgesparse.cancel import CancelToken

    token = CancelToken()

    def on_prefill(done: int, total: int) -> None:
        terminal.progress(f"reading {100 * done // total} %" if done < total else "")

    def show(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            if not silent:
                terminal.write(chunk.text)
            yield chunk

    with cancel_on_interrupt(token):
        try:
            return Result.collect(show(start(token, on_prefill)))
        finally:
            terminal.progress("")


def speed_line(stats: Stats) -> str:
    """Give the line behind an answer."""
    return f"[ Prompt: {stats.prompt_tps:.1f} t/s | Generation: {stats.generation_tps:.1f} t/s ]"


def speed_details(stats: Stats, quality: str) -> str:
    """Give counts, times, rates, the seed, and what the speed was bought with, one per line."""
    n_read = stats.prompt_tokens - stats.reused_tokens
    rows = (
        ("total duration", f"{stats.prefill_s + stats.decode_s:.3f} s"),
        ("prompt eval count", f"{n_read} tokens (and {stats.reused_tokens} reused)"),
        ("prompt eval duration", f"{stats.prefill_s:.3f} s"),
        ("prompt eval rate", f"{stats.prompt_tps:.2f} tokens/s"),
        ("eval count", f"{stats.generation_tokens} tokens"),
        ("eval duration", f"{stats.decode_s:.3f} s"),
        ("eval rate", f"{stats.generation_tps:.2f} tokens/s"),
        ("seed", str(stats.seed)),
        ("quality", quality),
    )
    return "\n".join(f"{name + ':':<22}{value}" for name, value in rows)

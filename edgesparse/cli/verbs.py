"""The table of verbs."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["VERBS", "Verb", "find"]


class Verb(NamedTuple):
    """One row: a name, what it does, and the other names it answers to.

    The module is ``edgesparse.cli.<name>``.
    """

    name: str
    summary: str
    aliases: tuple[str, ...] = ()


VERBS = (
    Verb("chat", "talk to a model", ("cli",)),
    Verb("run", "answer one prompt", ("generate", "completion")),
    Verb("inspect", "show what is in a model file and how it is stored", ("info", "show")),
    Verb("plan", "show the ops a model runs, with their bytes and their limit"),
    Verb("verify", "run two executors in lockstep and name the first op that differs"),
    Verb("bench", "measure tokens per second beside the machine's own limit"),
    Verb("tune", "measure which exact way is fastest on this machine, and remember it"),
    Verb("sparsity", "show how many activations are zero, layer by layer, and what that saves"),
    Verb("convert", "pre-pack a model: a file that loads without repacking"),
    Verb("calibrate", "choose thresholds or a predictor for approximate sparsity, from a text"),
    Verb("quantize", "write a model with its matrices in 1 to 8 bits"),
    Verb("prune", "set weights of a dense model to zero, and say what that costs"),
    Verb("perplexity", "measure how well a model predicts a text", ("ppl",)),
    Verb("doctor", "show what this machine and this build can do"),
    Verb("tokenize", "show the tokens of a text, or the text of tokens", ("detokenize",)),
)


def find(name: str) -> Verb | None:
    """Look a verb up by its name or an alias."""
    return next((verb for verb in VERBS if name == verb.name or name in verb.aliases), None)

"""`Sampler`: logits and the tokens before them → the next token, the same on every machine.

All arithmetic behind the logits is float64 over few candidates, ties go to the lower id, and the
random number is a function of (seed, position) alone, so neither threads nor the way a prompt was
cut into chunks can change a text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgesparse.errors import ModelFormatError
from edgesparse.sampling.options import SamplingOptions

__all__ = ["Sampler", "log_probabilities", "uniform"]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def uniform(seed: int, position: int) -> float:
    """Give the random number in [0, 1) that belongs to a seed and a position.

    Counter-based SplitMix64 (Steele, Lea, Flood 2014): nothing is carried from draw to draw.
    """
    state = (_mix(seed + _GOLDEN) + (position + 1) * _GOLDEN) & _MASK
    return float(_mix(state) >> 11) * 2.0**-53


class Sampler:
    """Chooses tokens by one set of options.

    Parameters
    ----------
    options : SamplingOptions
        A missing seed is drawn here; see `seed`.

    Attributes
    ----------
    seed : int
        The seed in use.
    """

    def __init__(self, options: SamplingOptions) -> None:
        self.options = options.seeded()
        self.seed: int = self.options.seed or 0

    def sample(self, logits: Float32, tokens: Sequence[int]) -> int:
        """Choose the token that follows `tokens`.

        Parameters
        ----------
        logits : (n_vocab,) float32
            Scores; −inf forbids a token. Not changed.
        tokens : sequence of int
            Everything before, prompt included.

        Raises
        ------
        ModelFormatError
            ``logits`` when a score is NaN or +inf, or none is finite.
        """
        best = _best(logits)
        options = self.options
        if options.penalises:
            logits = self._penalised(logits, tokens)
            best = _best(logits)
        if options.greedy or options.top_k == 1:
            return best
        ids, probabilities = self._distribution(logits)
        edges = np.cumsum(probabilities)
        at = np.searchsorted(edges, uniform(self.seed, len(tokens)) * edges[-1], side="right")
        return int(ids[min(int(at), len(ids) - 1)])

    def distribution(self, logits: Float32, tokens: Sequence[int]) -> tuple[Ids, Float64]:
        """Give the candidates, most likely first, and the probabilities they are drawn with."""
        best = _best(logits)
        if self.options.penalises:
            logits = self._penalised(logits, tokens)
            best = _best(logits)
        if self.options.greedy:
            return np.array([best]), np.ones(1)
        return self._distribution(logits)

    def _distribution(self, logits: Float32) -> tuple[Ids, Float64]:
        options = self.options
        ids = _top(logits, options.top_k)
        scores = logits[ids].astype(np.float64)
        if options.top_p < 1.0:
            mass = np.cumsum(_softmax(scores))
            keep = int(np.searchsorted(mass, options.top_p, side="left")) + 1
            ids, scores = ids[:keep], scores[:keep]
        if options.min_p > 0.0:
            keep = int(np.count_nonzero(scores >= scores[0] + np.log(options.min_p)))
            ids, scores = ids[:keep], scores[:keep]
        return ids, _softmax(scores / options.temperature)

    def _penalised(self, logits: Float32, tokens: Sequence[int]) -> Float32:
        options = self.options
        n_recent = options.repeat_last_n
        recent = tokens if n_recent < 0 else tokens[max(0, len(tokens) - n_recent) :]
        counts = Counter(token for token in recent if 0 <= token < len(logits))
        if not counts:
            return logits
        ids = np.fromiter(counts.keys(), np.intp, len(counts))
        count = np.fromiter(counts.values(), np.float64, len(counts))
        score = logits[ids].astype(np.float64)
        score = np.where(score > 0, score / options.repeat_penalty, score * options.repeat_penalty)
        score -= count * options.frequency_penalty + options.presence_penalty
        changed = logits.copy()
        changed[ids] = score
        return changed


def log_probabilities(logits: Float32, token: int, n_top: int) -> tuple[float, dict[int, float]]:
    """Give the log-probability of a token, and those of the `n_top` most likely ones.

    They are those of the model: before penalties, filters and temperature.
    """
    scores = logits.astype(np.float64)
    high = scores.max()
    norm = high + np.log(np.exp(scores - high).sum())
    top = _top(logits, n_top) if n_top else np.empty(0, np.intp)
    return float(scores[token] - norm), {int(i): float(scores[i] - norm) for i in top}


def _top(logits: Float32, k: int) -> Ids:
    """Give the k best ids, best first, equal scores by id; −inf never counts."""
    if 0 < k < len(logits):
        # Selection is unstable at the border, so equals there are chosen by id.
        border = np.partition(logits, len(logits) - k)[len(logits) - k]
        above = np.flatnonzero(logits > border)
        ids = np.concatenate([above, np.flatnonzero(logits == border)[: k - len(above)]])
    else:
        ids = np.arange(len(logits))
    ids = ids[logits[ids] != -np.inf]
    order: Ids = ids[np.lexsort((ids, -logits[ids]))]
    return order


def _softmax(scores: Float64) -> Float64:
    weights: Float64 = np.exp(scores - scores[0])
    weights /= weights.sum()
    return weights


def _best(logits: Float32) -> int:
    best = int(np.argmax(logits))  # of a NaN, if there is one
    if not np.isfinite(logits[best]):
        raise ModelFormatError(
            "logits",
            "logits",
            f"the score of token {best} is {float(logits[best])}, expected finite numbers",
            advice="The weights are damaged: check the file, or run 'edgesparse verify'.",
        )
    return best


def _mix(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)

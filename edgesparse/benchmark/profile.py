"""Where the time of a token goes: per kind of op, and what the barriers between ops take.

Each op counts with its median over the steps. Bytes are those of `edgesparse.plan.cost`: weights
and cache, no activations; where dead neurons are skipped, what was really read, on average.
Multiply-adds always count every neuron. On a machine with other work to do, long ops such as the
head are interrupted every time and look slow; weights in a cache read faster than memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesparse import _native
from edgesparse.benchmark.tokens import working_set_bandwidth
from edgesparse.errors import UsageError
from edgesparse.executors.base import NEVER_SPARSE, KVCache, Step
from edgesparse.ops.two_stage import N_TILES
from edgesparse.plan.cost import bytes_per_token, plan_costs

if TYPE_CHECKING:
    from edgesparse.model import Model

__all__ = ["OpKind", "Profile", "barrier_ns", "profile", "profile_decode", "profile_prefill"]

_LAYER = re.compile(r"^blk\.\d+\.")
_SEED = 0
_N_PHASES = 2000
Int32 = npt.NDArray[np.int32]
Times = npt.NDArray[np.float64]


@dataclass
class OpKind:
    """All ops of one kind together.

    Attributes
    ----------
    kind, formats : str
        Op name without its layer; storage formats of its weights.
    n_ops : int
    us : float
        Microseconds per token (decode) or per step (prefill).
    n_bytes, multiply_adds : float
        Work behind `us`; bytes of decoding only.
    """

    kind: str
    formats: str
    n_ops: int = 0
    us: float = 0.0
    n_bytes: float = 0.0
    multiply_adds: float = 0.0

    @property
    def gb_per_s(self) -> float:
        """10⁹ bytes a second; 0 for prompts, which reuse each weight."""
        return self.n_bytes / max(self.us, 1e-3) / 1e3

    @property
    def gmac_per_s(self) -> float:
        """10⁹ multiply-adds a second."""
        return self.multiply_adds / max(self.us, 1e-3) / 1e3


@dataclass(frozen=True)
class Profile:
    """One model on one number of threads.

    Attributes
    ----------
    n_threads, n_prompt : int
    decode, prefill : sequence of OpKind
    read_bandwidth_gb_per_s : float
        Best of the readings around the decoding, over a working set of a token's bytes.
    barrier_ns : float
        What one phase costs when it has no work.
    n_phases : int
        Phases of a decoded token.
    quality : str
        What the model's speed was bought with.
    """

    n_threads: int
    n_prompt: int
    decode: Sequence[OpKind]
    prefill: Sequence[OpKind]
    read_bandwidth_gb_per_s: float
    barrier_ns: float
    n_phases: int
    quality: str

    @property
    def token_us(self) -> float:
        """Microseconds of a decoded token, all ops together."""
        return sum(kind.us for kind in self.decode)

    @property
    def barrier_share(self) -> float:
        """Part of a decoded token that its barriers take."""
        return self.n_phases * self.barrier_ns / 1e3 / self.token_us

    def records(self) -> list[dict[str, Any]]:
        """Give a flat row per kind of op, decoding first, then the prompt."""
        return [
            *(self._record("decode", kind, self.token_us, 1) for kind in self.decode),
            *(
                self._record("prefill", kind, sum(k.us for k in self.prefill), self.n_prompt)
                for kind in self.prefill
            ),
        ]

    def _record(self, phase: str, kind: OpKind, total: float, n_tokens: int) -> dict[str, Any]:
        decode = phase == "decode"
        return {
            "phase": phase,
            "n_threads": self.n_threads,
            "n_tokens": n_tokens,
            "op": kind.kind,
            "formats": kind.formats,
            "n_ops": kind.n_ops,
            "us_per_token": round(kind.us / n_tokens, 3),
            "share": round(kind.us / total, 4),
            "gb_per_s": round(kind.gb_per_s, 3),
            "gmac_per_s": round(kind.gmac_per_s, 3),
            "n_bytes": int(kind.n_bytes),
            "multiply_adds": int(kind.multiply_adds),
            "read_bandwidth_gb_per_s": round(self.read_bandwidth_gb_per_s, 3),
            "bandwidth_share": (
                round(kind.gb_per_s / self.read_bandwidth_gb_per_s, 4) if decode else 0.0
            ),
            "barrier_ns": round(self.barrier_ns, 1),
            "barrier_share": round(self.barrier_share, 5) if decode else 0.0,
            "quality": self.quality,
        }


def barrier_ns(n_threads: int) -> float:
    """Measure what one phase of the engine costs when it has no work, nanoseconds (median)."""
    value = float(_native.lib().es_barrier_ns(n_threads, _N_PHASES))
    if value < 0:
        raise UsageError(f"There are no {n_threads} threads to be had.")
    return value


def profile(model: Model, *, n_prompt: int = 256, n_steps: int = 32) -> Profile:
    """Profile the decoding of `n_steps` tokens behind a prompt, and the prompt itself.

    Raises
    ------
    UsageError
        The executor is not the native one, or the tokens do not fit.
    """
    engine = model.engine
    if engine.executor_name != "native":
        raise UsageError("A profile needs the native executor.")
    if n_prompt < 1 or n_steps < 1 or n_prompt + n_steps > engine.n_ctx:
        raise UsageError(
            f"A prompt of {n_prompt} and {n_steps} tokens must be positive and fit into "
            f"a context of {engine.n_ctx}."
        )
    n_text = max(1, engine.n_vocab - 256)  # random models end in control tokens
    ids = np.random.default_rng(_SEED).integers(0, n_text, n_prompt + n_steps)
    prompt, steps = np.split(ids.astype(np.int32), [n_prompt])
    n_bytes = bytes_per_token(engine.plan, model.parameters, n_prompt + n_steps // 2)
    before = working_set_bandwidth(engine.n_threads, n_bytes)
    decode = profile_decode(model, prompt, steps)
    after = working_set_bandwidth(engine.n_threads, n_bytes)
    prompt = prompt[: engine.max_tokens]
    return Profile(
        n_threads=engine.n_threads,
        n_prompt=len(prompt),
        decode=decode,
        prefill=profile_prefill(model, prompt),
        read_bandwidth_gb_per_s=max(before, after),
        barrier_ns=barrier_ns(engine.n_threads),
        n_phases=engine.plan.n_phases,
        quality=model.info.quality,
    )


def profile_decode(model: Model, prompt: Int32, steps: Int32) -> list[OpKind]:
    """Time one step per token of `steps` behind `prompt`; medians."""
    cache = model.engine.new_cache(len(prompt) + len(steps))
    model.engine.forward(cache, prompt, 0, outputs="none")
    runs = [_run(model, cache, steps[i : i + 1], len(prompt) + i) for i in range(len(steps))]
    times = np.median([ns for ns, _ in runs], axis=0)
    read = np.mean([n_bytes for _, n_bytes in runs], axis=0)
    return _kinds(model, times, read, len(prompt) + len(steps) // 2, 1)


def profile_prefill(model: Model, prompt: Int32, repeats: int = 3) -> list[OpKind]:
    """Time one step over `prompt`, at most `Engine.max_tokens` long; medians."""
    n = len(prompt)
    runs = [_run(model, model.engine.new_cache(n), prompt, 0) for _ in range(repeats)]
    times = np.median([ns for ns, _ in runs], axis=0)
    return _kinds(model, times, np.zeros(len(times)), (n - 1) // 2, n)


def _run(
    model: Model, cache: KVCache, ids: Int32, start: int
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Run one step whose last token wants logits; return nanoseconds and bytes read per op."""
    engine, n = model.engine, len(ids)
    op_ns, op_bytes = np.zeros((2, len(engine.plan.ops)), np.uint64)
    step = Step(
        tokens=ids,
        positions=np.arange(start, start + n, dtype=np.int32),
        sequences=np.zeros(n, np.int32),
        outputs=np.array([n - 1], np.int32),
        caches=[cache],
        logits=np.empty((1, engine.n_vocab), np.float32),
        n_tiles=N_TILES,  # a two-stage head proposes, as while generating
        sparse_from=engine.plan.dense_tokens if n == 1 else NEVER_SPARSE,
        op_ns=op_ns,
        op_bytes=op_bytes,
    )
    engine.executor.run(step)
    return op_ns, op_bytes


def _kinds(model: Model, ns: Times, read: Times, position: int, n_tokens: int) -> list[OpKind]:
    kinds: dict[str, OpKind] = {}
    costs = plan_costs(model.engine.plan, model.parameters, position)
    for cost, time, n_bytes in zip(costs, ns, read, strict=True):
        name = _LAYER.sub("", cost.op.name)
        kind = kinds.setdefault(name, OpKind(name, "+".join(cost.formats)))
        kind.n_ops += 1
        kind.us += float(time) / 1e3
        # Prefill uses each weight many times; bytes would say nothing there.
        kind.n_bytes += (float(n_bytes) or cost.n_bytes) if n_tokens == 1 else 0
        # Prefill: only the last token goes through the head.
        kind.multiply_adds += cost.multiply_adds * (1 if name == "head" else n_tokens)
    return list(kinds.values())

"""`Model`: a loaded model with its tokenizer, and `load`, which makes one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesparse.architectures import build_plan, check_family
from edgesparse.budget import MemoryNeed, parse_size
from edgesparse.checkpoint import open_checkpoint
from edgesparse.config import ModelConfig, read_config
from edgesparse.cpus import default_threads
from edgesparse.default_model import default_model_path
from edgesparse.engine import DEFAULT_CHUNK, TILED_CHUNK, Engine
from edgesparse.errors import ContextOverflow, UsageError
from edgesparse.executors import make_executor
from edgesparse.executors.base import Parameters
from edgesparse.formats.head import parse_head
from edgesparse.formats.memory import release_freed
from edgesparse.formats.sparse import parse_weights
from edgesparse.formats.sparse_cost import SparseCost, usual_cost
from edgesparse.formats.weight import Format
from edgesparse.loading import (
    head_name,
    live_row_names,
    load_parameters,
    load_vectors,
    tensor_names,
)
from edgesparse.memory_gate import MemoryGate
from edgesparse.ops.two_stage import N_TILES
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.op import Embed
from edgesparse.plan.plan import Plan
from edgesparse.plan.sparsify import sparsify
from edgesparse.quality import describe_candidates, describe_head, describe_quality
from edgesparse.sampling.recommended import Recommended, read_recommended
from edgesparse.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    from edgesparse.answer import Chunk, Result
    from edgesparse.cancel import CancelToken
    from edgesparse.chat import Session
    from edgesparse.sparsity.alphas import SparseInferTable
    from edgesparse.sparsity.thresholds import Thresholds

__all__ = ["Model", "ModelInfo", "load"]

MAX_STEP_TOKENS = 512
DEFAULT_N_CTX = 4096


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a loaded model.

    Attributes
    ----------
    path, name, architecture : str
    file_bytes, weight_bytes : int
        Size of the files, and of the weights as they lie in memory.
    n_parameters : int
        Elements of all matrices that are used.
    formats : str
        Storage formats with their bytes, largest first.
    warnings : tuple of str
        What the reader and the tokenizer noticed.
    recommended : Recommended
        Sampling settings that the model's files name; they are the defaults of its answers.
    head : str
        How the matrix that makes the logits is stored.
    quality : str
        Which weights were rounded, or that nothing is approximated.
    memory : MemoryNeed, optional
        What the model was predicted to take before its weights were loaded.
    """

    path: str
    name: str
    architecture: str
    file_bytes: int
    weight_bytes: int
    n_parameters: int
    formats: str
    warnings: tuple[str, ...]
    recommended: Recommended = field(default_factory=Recommended)
    head: str = ""
    quality: str = ""
    memory: MemoryNeed | None = None


class Model:
    """A loaded model. Thread-safe: threads share weights and take turns step by step.

    Attributes
    ----------
    engine : Engine
    tokenizer : Tokenizer
    config : ModelConfig
    parameters : Parameters
    info : ModelInfo
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        config: ModelConfig,
        parameters: Parameters,
        info: ModelInfo,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.config = config
        self.parameters = parameters
        self.info = info

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        """Turn text into token ids.

        Parameters
        ----------
        text : str
        add_special : bool
            Add BOS where the model wants one.
        parse_special : bool
            Read literals such as ``<|im_end|>`` as control tokens instead of text.
        """
        return self.tokenizer.encode(text, add_special=add_special, parse_special=parse_special)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Turn token ids into text; control tokens are left out."""
        return self.tokenizer.decode(ids)

    def logits(self, ids: Sequence[int] | npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Compute the logits at every position of a fresh sequence.

        Returns
        -------
        float32 ndarray, shape (n_tokens, n_vocab)

        Raises
        ------
        ContextOverflow
            More ids than `n_ctx`.
        UsageError
            No ids, or an id outside the vocabulary.
        """
        if len(ids) > self.engine.n_ctx:
            raise ContextOverflow(
                f"{len(ids)} tokens do not fit into a context of {self.engine.n_ctx}.",
                advice="Shorten the text or load the model with a larger n_ctx.",
                n_prompt=len(ids),
                n_ctx=self.engine.n_ctx,
            )
        cache = self.engine.new_cache(max(1, len(ids)))
        return self.engine.forward(cache, ids, 0, outputs="all")

    def generate(
        self, prompt: str | Sequence[int], *, cancel: CancelToken | None = None, **options: Any
    ) -> Result:
        """Continue a raw prompt (no chat template) and return the whole answer.

        Parameters
        ----------
        prompt : str or sequence of int
        cancel : CancelToken, optional
        **options
            max_tokens, temperature, top_k, top_p, min_p, seed, stop, …: see
            `edgesparse.answer.GenerationOptions` and `edgesparse.sampling.SamplingOptions`.
            What is not given is as the model recommends (`ModelInfo.recommended`), else the
            default.
        """
        from edgesparse.generate import generate

        options = self.info.recommended.under(options)
        return generate(self.engine, self.tokenizer, prompt, cancel=cancel, **options)

    def stream(
        self, prompt: str | Sequence[int], *, cancel: CancelToken | None = None, **options: Any
    ) -> Iterator[Chunk]:
        """Continue a raw prompt, chunk by chunk; parameters as in `generate`."""
        from edgesparse.generate import stream

        options = self.info.recommended.under(options)
        return stream(self.engine, self.tokenizer, prompt, cancel=cancel, **options)

    def chat(self, system: str | None = None, **options: Any) -> Session:
        """Start a conversation that keeps its own history and cache."""
        from edgesparse.chat import Session

        options = self.info.recommended.under(options)
        return Session(self.engine, self.tokenizer, system=system, **options)

    def close(self) -> None:
        """Stop the threads and free the buffers; the model is unusable afterwards."""
        self.engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    n_ctx: int | None = None,
    executor: str = "native",
    isa: str | None = None,
    i2s_layout: str = "auto",
    sparse: str = "auto",
    cache_type_k: str = "f16",
    cache_type_v: str = "f16",
    kv_sparsity: float = 0.0,
    head: str = "auto",
    ternary: str = "auto",
    sparsity: float | str | os.PathLike[str] | Thresholds | None = None,
    lut: str = "exact",
    fused: bool = True,
    predict: str | os.PathLike[str] | None = None,
    predict_force: bool = False,
    weights: str = "auto",
    mem_budget: int | str | None = None,
    mmap: bool = False,
) -> Model:
    """Load a model from a GGUF file, a safetensors folder or a pre-packed file.

    Parameters
    ----------
    path : path, optional
        The default model when omitted.
    threads : int, optional
        Threads; by default one per physical core that this process may use.
    n_ctx : int, optional
        Context in tokens; by default the model's own, at most 4096. 0: the model's own.
    executor : {"native", "portable", "reference"}
    isa : str, optional
        Instruction set for the native executor; by default the best of this machine.
    i2s_layout : str
        Packing of I2_S tensors, see `open_checkpoint`.
    sparse : {"auto", "off"}
        auto: skip the neurons that a ReLU has set to zero, with the same results to the bit, where
        the instruction set has kernels for it. off: compute everything (for comparisons).
    cache_type_k, cache_type_v : {"f16", "q8_0"}
        Storage of keys and of values. q8_0 takes 53 % of the memory and is lossy.
    kv_sparsity : float
        Share of each key and value that is dropped, its smallest elements, beyond the latest 32 to
        95 positions; 0: none. Lossy, so off by default; `info.quality` says that it is on.
    head : {"auto", "exact", "q8", "q6", "q4", "two-stage"}
        Storage of the matrix that makes the logits (in a tied model of the embedding, too).
        ``exact``: as the file has it. ``auto``: rounded to 8.5 bits per weight if it is larger.
        ``two-stage``: as auto, and a copy in 2 bits beside it: greedy and top-k sampling (k at most
        256) read that, and compute exactly only the best candidates it proposes. `Model.logits`,
        log-probabilities, logits processors and sampling from all tokens use the whole head.
    ternary : {"auto", "t2", "t5", "bst"}
        Storage of ternary weights, all exact. auto: what ``edgesparse tune`` found to be faster
        with the native executor, else t2.
    sparsity : float, path or Thresholds, optional
        A calibration by thresholds (`edgesparse.sparsity`): while tokens are generated, small
        activations count as zero and their weights are not read. Lossy, so off by default;
        `info.quality` says that it is on. A number in (0, 0.9] is the share to be ignored: uniform
        thresholds are calibrated on a built-in text, which loads the model twice, and kept in the
        user's cache for the next time.
    lut : {"exact", "lossy"}
        Tables in which products with bit slices (bs1 to bs4) look sums up. lossy: rounded to 8 bits
        and averaged, as in T-MAC with fast aggregation; native executor only.
    fused : bool
        False runs norms, gates and additions as ops of their own (for comparisons).
    predict : path, optional
        A file of ``edgesparse calibrate --method sparseinfer``: gates that it predicts to be dead
        are not computed. Lossy, and not together with `sparsity`.
    predict_force : bool
        Predict even where that reads more bytes than it saves.
    weights : {"auto", "dense", "q8", "q4", "bmp8", "bmp4"}
        Storage of the layers' matrices that are not ternary. auto: as the file has them, and q8 and
        q4 without their zeros (bmp8, bmp4) where that is predicted to be faster; exact. dense:
        zeros are stored. q8, q4: floats, Q8_0, Q5_0, Q6_K, Q3_K and Q2_K rounded to it, then as
        auto. bmp8, bmp4: the same, always without zeros.
    mem_budget : int or str, optional
        Bytes that the process may take at most, with a full context; also as ``"900MB"``. What
        would take more is refused before its weights are loaded. Without it only what certainly
        exceeds the available memory is refused.
    mmap : bool
        Map a file of ``edgesparse convert`` instead of reading it: processes share its pages. Only
        a file that nobody else can write is mapped, and it must not be cut short meanwhile.

    Returns
    -------
    Model

    Raises
    ------
    ModelNotFound, ModelFormatError, UnsupportedTensorType, UnsupportedArchitecture
        The file is missing, broken, or of a kind that is not read.
    MemoryBudgetError
        It does not fit, or exceeds the budget; the message lists the figures and what would help.
    NativeUnavailable
        The native executor was asked for and is not there.
    UsageError
        An argument is out of range.
    """
    if threads is not None and not 1 <= threads <= 1024:
        raise UsageError(f"threads must be between 1 and 1024, not {threads}.")
    if sparse not in ("auto", "off"):
        raise UsageError(f"sparse must be auto or off, not {sparse!r}.")
    if lut not in ("exact", "lossy"):
        raise UsageError(f"lut must be exact or lossy, not {lut!r}.")
    if sparsity is not None and predict is not None:
        raise UsageError(
            "sparsity and predict exclude each other: both decide what a feed-forward leaves out.",
            advice="Give one of them.",
        )
    types = CacheType.parse(cache_type_k), CacheType.parse(cache_type_v)
    parse_head(head)
    parse_weights(weights)
    budget = None if mem_budget is None else parse_size(mem_budget)
    n_threads = threads or default_threads()
    native = executor == "native"
    if native:
        from edgesparse import _native

        _native.lib()
    source = default_model_path() if path is None else Path(path)
    with open_checkpoint(source, i2s_layout=i2s_layout) as checkpoint:
        check_family(checkpoint.get_str("general.architecture"), str(source))
        if checkpoint.stored is None and mmap:
            raise UsageError(
                "only pre-packed files can be mapped.", advice="'edgesparse convert' makes one."
            )
        config = read_config(checkpoint)
        plan = build_plan(
            config,
            tensor_names(checkpoint),
            n_ctx=_context(config, n_ctx),
            max_tokens=MAX_STEP_TOKENS,
            cache_type_k=types[0],
            cache_type_v=types[1],
            fused=fused,
            sparse=sparse == "auto" and (not native or _has_vectors(isa, b"t2", b"t2n")),
            path=str(source),
        )
        if kv_sparsity:
            plan = plan.with_sparse_cache(kv_sparsity)
        thresholds: Thresholds | None = None
        factors: dict[str, npt.NDArray[np.float32]] = {}
        notes: tuple[str, ...] = ()
        if sparsity is not None:
            from edgesparse.sparsity.option import read_sparsity

            def load_dense() -> Model:
                return load(
                    source,
                    threads=threads,
                    executor=executor,
                    isa=isa,
                    i2s_layout=i2s_layout,
                    head=head,
                    fused=False,
                )

            vectors = load_vectors(checkpoint, plan)
            thresholds, note = read_sparsity(sparsity, config, plan, vectors, load_dense)
            notes = (note,) if note else ()
            plan, factors = sparsify(plan, thresholds)
        predictor: SparseInferTable | None = None
        if predict is not None:
            from edgesparse.sparsity.option import read_predictor

            predictor = read_predictor(predict)
        single_rows: set[str] = set()
        if not native or _has_vectors(isa, b"q8", b"q8r"):
            single_rows = live_row_names(plan, predictor.alphas if predictor else ())
        # Before the weights: what making a tokenizer allocates in passing is freed again by then,
        # so it does not add to the peak.
        tokenizer = load_tokenizer(checkpoint)
        release_freed()
        gate = MemoryGate(
            checkpoint,
            config,
            plan,
            head=head,
            predicted=predictor.alphas if predictor else (),
            n_threads=n_threads,
            chunk=_chunk(native, isa),
            budget=budget,
        )
        parameters = load_parameters(
            checkpoint,
            config,
            plan,
            head=head,
            native=native or None,
            threads=n_threads,
            ternary=_ternary(ternary, native, isa, n_threads),
            row_by_row=single_rows,
            layers=weights,
            cost=_sparse_cost(native, isa, n_threads),
            before=gate.check,
            mapped=mmap,
        )
        parameters = replace(parameters, vectors={**parameters.vectors, **factors})
        recommended = read_recommended(checkpoint)
        warnings = (*checkpoint.warnings, *tokenizer.warnings, *recommended.warnings, *notes)
        info = _describe(str(source), config, parameters, checkpoint.n_bytes, warnings, recommended)
    if predict is not None and predictor is not None:
        from edgesparse.sparsity.option import with_predictor

        plan, parameters = with_predictor(
            plan, parameters, config, predictor, predict, force=predict_force
        )
    info = replace(info, memory=gate.need)
    info = _describe_quality(info, plan, parameters, head, thresholds, lossy=lut == "lossy")
    made = make_executor(
        executor, plan, parameters, threads=n_threads, isa=isa, lossy=lut == "lossy"
    )
    engine = Engine(made, n_threads=n_threads, chunk=_chunk(native, isa))
    return Model(engine, tokenizer, config, parameters, info)


def _ternary(wanted: str, native: bool, isa: str | None, n_threads: int) -> Format:
    if wanted not in ("auto", "t2", "t5", "bst"):
        raise UsageError(f"ternary must be auto, t2, t5 or bst, not {wanted!r}.")
    if wanted != "auto":
        return Format[wanted.upper()]
    if not native:
        return Format.T2
    from edgesparse.executors.native import choose_isa
    from edgesparse.tuning import preferred_ternary

    return preferred_ternary(choose_isa(isa), n_threads)


def _sparse_cost(native: bool, isa: str | None, n_threads: int) -> SparseCost:
    """Give the rates that decide about zeros: measured ones, or usual ones."""
    if not native:
        return usual_cost("scalar", n_threads)
    from edgesparse.executors.native import choose_isa
    from edgesparse.tuning import sparse_cost

    return sparse_cost(choose_isa(isa), n_threads)


def _chunk(native: bool, isa: str | None) -> int:
    if not native:
        return DEFAULT_CHUNK
    from edgesparse.executors.native import choose_isa

    return TILED_CHUNK if choose_isa(isa) == "amx" else DEFAULT_CHUNK


def _has_vectors(isa: str | None, dense_family: bytes, skipping_family: bytes) -> bool:
    """Whether skipping is vectorised where dense products are; scalar lists would lose to those."""
    from edgesparse import _native
    from edgesparse.executors.native import choose_isa, isa_names

    number, lib, ffi = isa_names()[choose_isa(isa)], _native.lib(), _native.ffi()
    dense, sparse = (
        bool(ffi.string(lib.es_kernel_variant(number, family)) != b"scalar")
        for family in (dense_family, skipping_family)
    )
    return sparse or not dense


def _context(config: ModelConfig, n_ctx: int | None) -> int:
    if n_ctx is None:
        return min(config.n_ctx, DEFAULT_N_CTX)
    if n_ctx < 0 or n_ctx > config.n_ctx:
        raise UsageError(
            f"n_ctx must be between 0 and the model's {config.n_ctx}, not {n_ctx}.",
            advice="0 stands for the model's own.",
        )
    return n_ctx or config.n_ctx


def _describe(
    path: str,
    config: ModelConfig,
    parameters: Parameters,
    file_bytes: int,
    warnings: tuple[str, ...],
    recommended: Recommended,
) -> ModelInfo:
    totals: dict[str, int] = {}
    for weight in parameters.weights.values():
        name = weight.format.name.lower()
        totals[name] = totals.get(name, 0) + weight.n_bytes
    ordered = sorted(totals.items(), key=lambda item: -item[1])
    return ModelInfo(
        path=path,
        name=config.name,
        architecture=config.architecture,
        file_bytes=file_bytes,
        weight_bytes=sum(totals.values()),
        n_parameters=sum(w.n_rows * w.k for w in parameters.weights.values()),
        formats=", ".join(f"{name} {n_bytes / 1e6:.1f} MB" for name, n_bytes in ordered),
        warnings=warnings,
        recommended=recommended,
    )


def _describe_quality(
    info: ModelInfo,
    plan: Plan,
    parameters: Parameters,
    head: str,
    thresholds: Thresholds | None,
    *,
    lossy: bool,
) -> ModelInfo:
    name = head_name(plan)
    tied = any(isinstance(op, Embed) and op.weight == name for op in plan.ops)
    described = describe_head(parameters.weights[name], tied=tied, choice=head)
    quality = describe_quality(parameters.weights.values(), name, plan, thresholds, lossy=lossy)
    if parameters.coarse is None:
        return replace(info, head=described, quality=quality)
    n_bytes = parameters.coarse.n_bytes
    return replace(
        info,
        weight_bytes=info.weight_bytes + n_bytes,
        head=f"{described}; two-bit copy, {n_bytes / 1e6:.1f} MB, proposes {N_TILES} tiles",
        quality=describe_candidates(quality),
    )

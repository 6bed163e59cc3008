"""`load`: from a file or folder to a `Model`."""

from __future__ import annotations

import gc
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgesparse.architectures import build_plan, check_family
from edgesparse.budget import MemoryNeed, parse_size
from edgesparse.checkpoint import open_checkpoint
from edgesparse.config import ModelConfig, read_config
from edgesparse.cpus import resolve_threads
from edgesparse.default_model import default_model_path
from edgesparse.engine import Engine
from edgesparse.errors import UsageError
from edgesparse.executors import make_executor
from edgesparse.executors.base import Parameters
from edgesparse.fitting import Fit, attempts, first_that_fits
from edgesparse.formats.head import parse_head
from edgesparse.formats.memory import release_freed
from edgesparse.formats.sparse import parse_weights
from edgesparse.loading import live_row_names, load_parameters, load_vectors, tensor_names
from edgesparse.memory_gate import MemoryGate
from edgesparse.model import Model
from edgesparse.model_info import describe, with_quality
from edgesparse.native_choices import (
    cost_of_zeros,
    has_vectors,
    prompt_chunk,
    shares_for_columns,
    ternary_format,
)
from edgesparse.plan.cache_type import CacheType
from edgesparse.plan.orders import split_by_order
from edgesparse.plan.outliers import has_outliers
from edgesparse.plan.sparsify import read_in_vain, sparsify
from edgesparse.sampling.recommended import read_recommended
from edgesparse.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from edgesparse.sparsity.alphas import SparseInferTable
    from edgesparse.sparsity.thresholds import Thresholds

__all__ = ["load"]

MAX_STEP_TOKENS = 512
DEFAULT_N_CTX = 4096


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
    predict: str | os.PathLike[str] | SparseInferTable | None = None,
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
        with the native executor, else t2; t5, the smallest, where mem_budget would refuse that.
        bst: t2 where single rows are skipped.
    sparsity : float, path or Thresholds, optional
        A calibration by thresholds (`edgesparse.sparsity`): while tokens are generated, small
        activations count as zero and their weights are not read. Lossy, so off by default;
        `info.quality` says that it is on. A number in (0, 0.9] is the share to be ignored: uniform
        thresholds are calibrated on a built-in text, which loads the model twice (not within a
        mem_budget), and kept in the user's cache for the next time.
    lut : {"exact", "lossy"}
        Tables in which products with bit slices (bs1 to bs4) look sums up. lossy: rounded to 8 bits
        and averaged, as in T-MAC with fast aggregation; native executor only.
    fused : bool
        False runs norms, gates and additions as ops of their own (for comparisons).
    predict : path or SparseInferTable, optional
        A file of ``edgesparse calibrate --method sparseinfer``: gates that it predicts to be dead
        are not computed. Lossy, and not together with `sparsity`.
    predict_force : bool
        Predict even where that reads more bytes than it saves.
    weights : {"auto", "dense", "q8", "q4", "bmp8", "bmp4", "csr", "nm8", "nm4", "slices", "blocks"}
        Storage of the layers' matrices that are not ternary. auto: as the file has them, and q8 and
        q4 without their zeros (bmp8, bmp4, csr, nm8, nm4) where that is predicted to be faster;
        exact. dense: zeros are stored. q8, q4: floats, Q8_0, Q5_0, Q6_K, Q3_K and Q2_K rounded to
        it, then as auto. bmp8, bmp4, csr: the same, always without zeros. nm8, nm4: the same, for
        matrices that are 2:4; others stay dense. slices: bit slices wherever they hold a type
        exactly (Q4_0, Q4_1, Q4_K, Q2_0, PQ2_0, Q1_0 too). blocks: none for GPTQ, AWQ and
        compressed-tensors, whose up to 4 bits become bit slices otherwise.
    mem_budget : int or str, optional
        Bytes that the process may take at most, with a full context; also as ``"900MB"``. Where
        that is tight, exact choices that are smaller and slower are made, as `info.warnings` says
        (`edgesparse.fitting`). What would still take more is refused before its weights are loaded.
        Without it only what certainly exceeds the available memory is refused.
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
    n_threads = resolve_threads(threads)
    if sparse not in ("auto", "off"):
        raise UsageError(f"sparse must be auto or off, not {sparse!r}.")
    if lut not in ("exact", "lossy"):
        raise UsageError(f"lut must be exact or lossy, not {lut!r}.")
    if sparsity is not None and predict is not None:
        raise UsageError(
            "sparsity and predict exclude each other: both decide what a feed-forward leaves out.",
            advice="Give one of them.",
        )
    if predict_force and predict is None:
        raise UsageError(
            "predict_force says what to do with a predictor, and none is given.",
            advice="Name a file of 'edgesparse calibrate --method sparseinfer' as predict.",
        )
    types = CacheType.parse(cache_type_k), CacheType.parse(cache_type_v)
    parse_head(head)
    parse_weights(weights)
    budget = None if mem_budget is None else parse_size(mem_budget)
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
            sparse=sparse == "auto" and (not native or has_vectors(isa, b"t2", b"t2n")),
            path=str(source),
        )
        if kv_sparsity:
            plan = plan.with_sparse_cache(kv_sparsity)
        if (sparsity is not None or predict is not None) and has_outliers(plan):
            raise UsageError(
                f"{source}: small inputs and dead gates are not left out beside outliers.",
                advice="Leave --sparsity and --predict out, or quantise without --outliers.",
            )
        thresholds: Thresholds | None = None
        factors: dict[str, npt.NDArray[np.float32]] = {}
        notes: tuple[str, ...] = ()
        if sparsity is not None:
            from edgesparse.sparsity.option import read_sparsity

            def load_dense() -> Model:
                if budget is not None:  # a second copy of the model, and counts of its inputs
                    raise UsageError(
                        f"a sparsity of {sparsity} is calibrated first, beyond any memory budget.",
                        advice="Load once without the budget, which keeps what is found, or name a "
                        "file of 'edgesparse calibrate'.",
                    )
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

            predictor = read_predictor(predict, config, plan, load_vectors(checkpoint, plan))
        single_rows: set[str] = set()
        if not native or has_vectors(isa, b"q8", b"q8r"):
            single_rows = live_row_names(plan, predictor.alphas if predictor else ())
        # Before the weights: what making a tokenizer allocates in passing is freed again by then,
        # so it does not add to the peak.
        tokenizer = load_tokenizer(checkpoint)
        checkpoint.forget_vocabulary()
        if budget is not None:  # cycles that making it has left keep whole arenas of Python's
            gc.collect()
        release_freed()
        preferred = Fit(ternary_format(ternary, native, isa, n_threads), prompt_chunk(native, isa))
        fits = [preferred]
        if budget is not None and checkpoint.stored is None:
            fits = attempts(preferred, any_ternary=ternary == "auto" and native)

        def load_as(fit: Fit) -> tuple[Parameters, MemoryNeed | None]:
            gate = MemoryGate(
                checkpoint,
                config,
                plan,
                head=head,
                predicted=predictor.alphas if predictor else (),
                n_threads=n_threads,
                chunk=fit.chunk,
                budget=budget,
            )
            loaded = load_parameters(
                checkpoint,
                config,
                plan,
                head=head,
                native=native or None,
                threads=n_threads,
                ternary=fit.ternary,
                by_neurons=fit.by_neurons,
                row_by_row=single_rows,
                layers=weights,
                cost=cost_of_zeros(native, isa, n_threads),
                columns_from=shares_for_columns(native, isa, n_threads, checkpoint.n_bytes),
                before=gate.check,
                mapped=mmap,
            )
            return loaded, gate.need

        (parameters, need), fit = first_that_fits(load_as, fits)
        if fit != preferred:
            said = fit.given_up(preferred, {each.format for each in parameters.weights.values()})
            notes = (*notes, said) if said else notes
            plan = replace(plan, max_tokens=min(plan.max_tokens, fit.chunk))
        parameters = replace(parameters, vectors={**parameters.vectors, **factors})
        plan = split_by_order(plan, parameters.weights)
        recommended = read_recommended(checkpoint)
        in_vain = read_in_vain(plan, parameters.weights)
        notes = (*notes, in_vain) if in_vain else notes
        warnings = (*checkpoint.warnings, *tokenizer.warnings, *recommended.warnings, *notes)
        info = describe(str(source), config, parameters, checkpoint.n_bytes, warnings, recommended)
    if predictor is not None:
        from edgesparse.sparsity.predictor import add_predictor

        plan, parameters = add_predictor(plan, parameters, predictor, force=predict_force)
    info = replace(info, memory=need)
    info = with_quality(info, plan, parameters, head, thresholds, lossy=lut == "lossy")
    release_freed()  # buffers of loading, before those of running settle in between
    made = make_executor(
        executor, plan, parameters, threads=n_threads, isa=isa, lossy=lut == "lossy"
    )
    engine = Engine(made, n_threads=n_threads, chunk=fit.chunk)
    return Model(engine, tokenizer, config, parameters, info)


def _context(config: ModelConfig, n_ctx: int | None) -> int:
    if n_ctx is None:
        return min(config.n_ctx, DEFAULT_N_CTX)
    if n_ctx < 0 or n_ctx > config.n_ctx:
        raise UsageError(
            f"n_ctx must be between 0 and the model's {config.n_ctx}, not {n_ctx}.",
            advice="0 stands for the model's own.",
        )
    return n_ctx or config.n_ctx

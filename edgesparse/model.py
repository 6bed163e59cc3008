"""`Model`: a loaded model with its tokenizer; `edgesparse.load_model.load` makes one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgesparse.config import ModelConfig
from edgesparse.engine import Engine
from edgesparse.errors import ContextOverflow
from edgesparse.executors.base import Parameters
from edgesparse.model_info import ModelInfo
from edgesparse.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgesparse.answer import Chunk, Result
    from edgesparse.cancel import CancelToken
    from edgesparse.chat import Session

__all__ = ["Model", "ModelInfo"]


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

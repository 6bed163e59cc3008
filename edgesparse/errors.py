"""One family of errors: every failure a user can cause or meet is an `EdgesparseError`.

Each says where, what was expected, what was found and what to do; the command line prints the
message without a traceback and leaves with the error's `exit_code`.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CalibrationError",
    "Cancelled",
    "ContextOverflow",
    "EdgesparseError",
    "MemoryBudgetError",
    "ModelFormatError",
    "ModelNotFound",
    "NativeUnavailable",
    "TemplateError",
    "TokenizerError",
    "UnsupportedArchitecture",
    "UnsupportedTensorType",
    "UsageError",
]


class EdgesparseError(Exception):
    """Base of every typed error.

    Parameters
    ----------
    message : str
        What went wrong and where, one sentence.
    advice : str, optional
        What the user can do about it, one sentence.

    Attributes
    ----------
    exit_code : int
        Status with which the command line leaves: 2 usage, 3 model file, 4 memory, 130 cancelled,
        1 anything else.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        if not self.advice:
            return self.message
        stop = "" if self.message.endswith((".", "!", "?")) else "."
        return f"{self.message}{stop} {self.advice}"


class UsageError(EdgesparseError):
    """An argument, option or request that cannot be carried out as given."""

    exit_code = 2


class ModelNotFound(EdgesparseError):
    """No model file at the given path, or no default model installed."""

    exit_code = 3


class ModelFormatError(EdgesparseError):
    """A model file that breaks its own format, is truncated, or contradicts itself.

    Parameters
    ----------
    kind : str
        Stable machine-readable slug of the defect, e.g. ``"tensor-out-of-bounds"``.
    field : str
        Where: the header field, metadata key or tensor name.
    detail : str
        What was expected and what was found.
    path : str, optional
        File concerned.
    advice : str, optional
        What to do.
    """

    exit_code = 3

    def __init__(
        self, kind: str, field: str, detail: str, *, path: str = "", advice: str = ""
    ) -> None:
        where = f"{path}: {field}" if path else field
        super().__init__(f"{where}: {detail}", advice=advice)
        self.kind = kind
        self.field = field
        self.detail = detail
        self.path = path


class UnsupportedTensorType(ModelFormatError):
    """A well-formed file that holds a tensor type this engine does not read."""


class UnsupportedArchitecture(ModelFormatError):
    """A well-formed file of a model family this engine does not know."""


class CalibrationError(ModelFormatError):
    """A calibration file that is broken or was made for another model."""


class TokenizerError(EdgesparseError):
    """A tokenizer description that is missing, inconsistent or of an unknown kind."""

    exit_code = 3


class TemplateError(EdgesparseError):
    """A chat template that does not parse, fails, or exceeds its limits."""

    exit_code = 3


class ContextOverflow(EdgesparseError):
    """More tokens than the context window holds.

    Parameters
    ----------
    message, advice : str
        As in `EdgesparseError`.
    n_prompt : int, optional
        Tokens that were to be held.
    n_ctx : int, optional
        Tokens that can be held.
    """

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        n_prompt: int | None = None,
        n_ctx: int | None = None,
    ) -> None:
        super().__init__(message, advice=advice)
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class MemoryBudgetError(EdgesparseError):
    """A request that would need more memory than the machine can give."""

    exit_code = 4


class NativeUnavailable(EdgesparseError):
    """The compiled module is missing or cannot run here; the portable executor still works."""


class Cancelled(EdgesparseError):
    """Work stopped because its `CancelToken` was set."""

    exit_code = 130

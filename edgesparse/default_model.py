"""Where the model lies that runs when no other is named."""

from __future__ import annotations

from pathlib import Path

from edgesparse.errors import ModelNotFound

__all__ = ["default_model_path"]

_FOLDER = "smolbit-190m"


def default_model_path() -> Path:
    """Find the default model: in the installed package, else in the source checkout around it.

    Raises
    ------
    ModelNotFound
        Neither place has it.
    """
    package = Path(__file__).resolve().parent
    for root in (package / "models", package.parent / "models"):
        for path in sorted((root / _FOLDER).glob("*.gguf")):
            return path
    raise ModelNotFound(
        "The default model is not installed.", advice="Name a model file, or reinstall edgesparse."
    )

"""`open_checkpoint`: look at a path and choose the reader."""

from __future__ import annotations

import os
from pathlib import Path

from edgesparse.checkpoint.gguf import open_gguf
from edgesparse.checkpoint.gguf_types import I2S_LAYOUTS
from edgesparse.checkpoint.hf_folder import open_folder
from edgesparse.checkpoint.reader import Checkpoint
from edgesparse.checkpoint.source import SourceFile, shown
from edgesparse.errors import ModelFormatError, UsageError

__all__ = ["is_packed", "open_checkpoint"]

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz")


def open_checkpoint(
    path: str | Path, *, i2s_layout: str = "auto", verify: bool = True
) -> Checkpoint:
    """Open a model file or folder.

    Parameters
    ----------
    path : str or Path
        A ``.gguf`` file (of a split set the first part), a folder with ``config.json`` and
        ``*.safetensors``, or one ``.safetensors`` file with ``config.json`` beside it; or what
        ``edgesparse convert`` wrote, whatever its name.
    i2s_layout : {"auto", "128x32", "64x16", "row4"}
        Packing of I2_S tensors. Files do not record it; ``auto`` is what published files use.
    verify : bool
        Also check values where that takes milliseconds (finite vectors, plausible I2_S codes).
        Bounds are checked always; scales of blocks are checked when they are decoded.

    Returns
    -------
    Checkpoint
        Close it, or use it as a context manager.

    Raises
    ------
    ModelNotFound
        Nothing at `path`.
    ModelFormatError
        The file breaks its format; ``kind`` is one of ``truncated overflow limit type duplicate
        range layout value missing unsupported path``.
    UnsupportedTensorType
        A known or unknown tensor type that is not read, with advice.
    UsageError
        Unknown `i2s_layout`.
    """
    name = os.fspath(path)
    if name.lower().endswith(_PICKLES):
        raise ModelFormatError(
            "unsupported",
            "file",
            "pickled and array files can run code and are never opened",
            path=shown(name, 400),
            advice="Use the safetensors or GGUF file of the same model.",
        )
    if i2s_layout != "auto" and i2s_layout not in I2S_LAYOUTS:
        raise UsageError(
            f"i2s_layout={shown(i2s_layout)} is not a packing.",
            advice="Choose auto, 128x32, 64x16 or row4.",
        )
    if _is_folder(name):
        return open_folder(name, verify=verify)
    if name.lower().endswith(".safetensors"):
        return open_folder(os.path.dirname(name), os.path.basename(name), verify=verify)
    if is_packed(name):
        from edgesparse.esp import open_esp

        return open_esp(name)
    return open_gguf(name, i2s_layout=i2s_layout, verify=verify)


def is_packed(path: str | Path) -> bool:
    """Tell whether `path` is what ``edgesparse convert`` wrote.

    Raises
    ------
    ModelNotFound
        Nothing at `path`.
    """
    from edgesparse.esp.layout import is_esp

    name = os.fspath(path)
    if _is_folder(name):
        return False
    file = SourceFile(name)
    try:
        return name.lower().endswith(".esp") or is_esp(file)
    finally:
        file.close()


def _is_folder(name: str) -> bool:
    try:
        return os.path.isdir(name)
    except ValueError:  # an embedded NUL byte; opening it reports that
        return False

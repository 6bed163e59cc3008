"""A file becomes named tensors.

Readers of our own, because files are hostile: every count, offset and size is checked against the
bytes left before it is used, nothing is mapped, and whatever is wrong becomes one typed error.

* ``opening.py`` chooses the reader: ``gguf.py`` (``gguf_header.py``, ``gguf_types.py``) or
  ``hf_folder.py`` (``safetensors.py``, ``hf_config.py``, ``hf_quantization.py``, ``names.py``;
  ``hf_grouped.py`` and ``packed.py`` for GPTQ, AWQ and compressed-tensors).
* ``reader.py`` is the result, `Checkpoint`; ``types.py`` names the storage types.
* ``decode.py`` turns bytes into numbers, one ``unpack_*`` file per family; ``rows.py`` streams.

Next folder: ``formats``, where tensors become weights that kernels read.
"""

from edgesparse.checkpoint.decode import (
    TERNARY_TYPES,
    affine_blocks,
    check_scales,
    dequantize,
    ternarize,
    ternary_codes,
)
from edgesparse.checkpoint.opening import open_checkpoint
from edgesparse.checkpoint.reader import Checkpoint
from edgesparse.checkpoint.rows import (
    dequantize_rows,
    read_rows,
    row_chunks,
    ternary_chunks,
    ternary_rows,
)
from edgesparse.checkpoint.strings import StringArray
from edgesparse.checkpoint.types import Layout, TensorInfo, TensorType, layout_of, n_bytes_of

__all__ = [
    "TERNARY_TYPES",
    "Checkpoint",
    "Layout",
    "StringArray",
    "TensorInfo",
    "TensorType",
    "affine_blocks",
    "check_scales",
    "dequantize",
    "dequantize_rows",
    "layout_of",
    "n_bytes_of",
    "open_checkpoint",
    "read_rows",
    "row_chunks",
    "ternarize",
    "ternary_chunks",
    "ternary_codes",
    "ternary_rows",
]

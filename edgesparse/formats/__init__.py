"""Tensors become weights in the bytes that kernels read.

* ``weight.py`` names the formats and what a weight is; ``README.md`` draws their bytes.
* ``ternary.py``, ``blocks.py``, ``bitslice.py``, ``floats.py`` pack and unpack; ``dequantize.py``
  reads back.
* ``choose.py`` is the table from file types to formats, with reasons.
* ``load.py`` streams a checkpoint into one arena (``memory.py``), rows at a time
  (``convert.py``: numpy or native/repack); ``masters.py`` scales float BitNet weights.

Next folder: ``architectures``, which turns weights into a list of ops.
"""

from edgesparse.formats.bitslice import pack_bitslice, pack_ternary_slices, unpack_bitslice
from edgesparse.formats.blocks import pack_blocks, requantize, requantize_q8, unpack_blocks
from edgesparse.formats.choice import Choice
from edgesparse.formats.choose import choose
from edgesparse.formats.dequantize import dequantize
from edgesparse.formats.floats import pack_float, unpack_float
from edgesparse.formats.load import load_vector, load_weights
from edgesparse.formats.ternary import pack_ternary, unpack_ternary
from edgesparse.formats.weight import (
    BLOCK,
    TILE,
    Format,
    Slices,
    Weight,
    Zeros,
    row_tiles,
    storage_bytes,
)

__all__ = [
    "BLOCK",
    "TILE",
    "Choice",
    "Format",
    "Slices",
    "Weight",
    "Zeros",
    "choose",
    "dequantize",
    "load_vector",
    "load_weights",
    "pack_bitslice",
    "pack_blocks",
    "pack_float",
    "pack_ternary",
    "pack_ternary_slices",
    "requantize",
    "requantize_q8",
    "row_tiles",
    "storage_bytes",
    "unpack_bitslice",
    "unpack_blocks",
    "unpack_float",
    "unpack_ternary",
]

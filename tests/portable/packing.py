"""Weights packed from the byte pictures in ``edgesparse/formats/README.md``, one loop per picture.

Written for these tests alone, so that a shared packer cannot hide a shared mistake.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgesparse.formats.weight import Format, Slices, Weight, Zeros, storage_bytes

F32 = np.float32
ZERO = {
    **{Format.Q4: 8, Format.Q6: 32, Format.Q4N: 8, Format.Q4R: 8},
    **{Format.BMP4: 8, Format.BMP8: 0, Format.NM4: 8},
}
"""Stored codes of value 0."""
Array = npt.NDArray[Any]


def random_weight(rng: np.random.Generator, fmt: Format, n_rows: int, k: int) -> tuple[Weight, Any]:
    """A random weight, and what the truth multiplies with.

    Ternary: codes −1, 0, 1. Blocks: (codes, d, m or None) by row. Floats: float32 values.
    Bit slices: see `random_slices`.
    """
    if fmt.is_sliced:
        return random_slices(rng, fmt, n_rows, k)
    scales = np.zeros(0, F32)
    logical: Any
    if fmt.is_ternary:
        logical = rng.integers(-1, 2, (n_rows, k)).astype(np.int8)
        if fmt == Format.T2N:
            data = _pack_t2(np.ascontiguousarray(logical.T))
        else:
            data = (_pack_t2 if fmt == Format.T2 else _pack_t5)(logical)
        scales = rng.uniform(0.01, 2, n_rows).astype(F32)
    elif fmt.is_block:
        n_blocks = -(-k // 32)
        low, high = {
            Format.Q8: (-128, 128),
            Format.Q8M: (-128, 128),
            Format.Q8N: (-128, 128),
            Format.Q8MN: (-128, 128),
            Format.Q8R: (-128, 128),
            Format.Q8MR: (-128, 128),
            Format.BMP8: (-128, 128),
            Format.CSR: (-128, 128),
            Format.NM8: (-128, 128),
            Format.Q6: (0, 64),
        }.get(fmt, (0, 16))
        codes = rng.integers(low, high, (n_rows, n_blocks * 32))
        codes[:, k:] = ZERO.get(fmt, 0)
        # From subnormal halfs to large ones.
        d = (rng.uniform(-1, 1, (n_rows, n_blocks)) * 2.0 ** rng.integers(-22, 3)).astype("f2")
        m = rng.normal(size=(n_rows, n_blocks)).astype("f2")
        if fmt.name in ("Q8", "Q6", "Q4", "Q8N", "Q4N", "Q8R", "Q4R") or fmt.is_sparse:
            m = None
        if fmt.is_sparse:
            codes[rng.random(codes.shape) < 0.6] = ZERO.get(fmt, 0)
        if fmt.is_two_of_four:  # of every four columns two are zeros
            places = rng.random((n_rows, n_blocks * 8, 4)).argsort(axis=2)[..., :2]
            np.put_along_axis(codes.reshape(n_rows, -1, 4), places, ZERO.get(fmt, 0), axis=2)
        pack = _pack_columns if fmt.is_column else _pack_rows if fmt.is_row else _pack_blocks
        pack = _PACK_SPARSE.get(fmt, pack)
        data = pack(fmt, codes, d, m)
        logical = (codes - ZERO.get(fmt, 0), d, m)
    else:
        values = rng.normal(size=(n_rows, k)).astype(F32)
        values.flat[:2] = (6e-8, -3e-5)  # subnormal halfs
        if fmt == Format.F16:
            stored: Array = values.astype(np.float16)
            logical = stored.astype(F32)
        elif fmt == Format.BF16:
            stored = (values.view(np.uint32) >> 16).astype(np.uint16)
            logical = (stored.astype(np.uint32) << 16).view(F32)
        else:
            stored = logical = values
        padded = np.zeros((-(-n_rows // 8) * 8, k), stored.dtype)
        padded[:n_rows] = stored
        data = padded.reshape(-1, 8, k).transpose(0, 2, 1).copy().view(np.uint8).ravel()
    assert fmt.has_varying_length or data.nbytes == storage_bytes(fmt, n_rows, k)
    return Weight(f"{fmt.name}-{n_rows}x{k}", fmt, n_rows, k, data, scales), logical


def random_slices(
    rng: np.random.Generator, fmt: Format, n_rows: int, k: int
) -> tuple[Weight, tuple[Array, Array, Array, Array]]:
    """A random matrix of bit planes; logical: its own codes (bs1: -1, 1, the others from their
    middle), and stored steps, zero points and offsets (n_rows, n_groups).
    """
    n_blocks, name = -(-k // 32), f"{fmt.name}-{n_rows}x{k}"
    if fmt is Format.BST:
        codes = rng.integers(0, 3, (n_rows, n_blocks * 32))
        scales = rng.uniform(0.01, 2, n_rows).astype(F32)
        data = _pack_slices(codes, 2, [])
        assert data.nbytes == storage_bytes(fmt, n_rows, k)
        return Weight(name, fmt, n_rows, k, data, scales), (codes - 1)[:, :k].astype(np.int8)
    group = int(rng.choice([0, 32, 64, 128]))
    slices = Slices(group, Zeros(rng.integers(3)), bool(rng.integers(2)))
    n_groups = -(-k // group) if group else 1
    codes = rng.integers(0, 1 << fmt.planes, (n_rows, n_blocks * 32))
    number = "<f4" if slices.wide else "<f2"
    steps, offsets = (rng.normal(size=(n_rows, n_groups)).astype(number) for _ in range(2))
    points = rng.integers(-128, 128, (n_rows, n_groups)).astype("i1")
    heads = [steps]
    if slices.zeros is not Zeros.NONE:
        heads.append(points if slices.zeros is Zeros.POINTS else offsets)
    points *= slices.zeros is Zeros.POINTS
    offsets *= slices.zeros is Zeros.OFFSETS
    if fmt.is_column:
        data = _pack_slice_columns(codes, fmt.planes, heads, group // 32 or n_blocks)
    else:
        data = _pack_slices(codes, fmt.planes, heads, group // 32 or n_blocks)
    assert data.nbytes == storage_bytes(fmt, n_rows, k, slices)
    own = 2 * codes - 1 if fmt is Format.BS1 else codes - (1 << (fmt.planes - 1))
    weight = Weight(name, fmt, n_rows, k, data, np.zeros(0, F32), slices=slices)
    return weight, (own, steps.astype(F32), points.astype(F32), offsets.astype(F32))


def _pack_bitmap(fmt: Format, codes: Array, d: Array, m: None) -> Array:
    n_rows, n_columns = codes.shape
    n_tiles = -(-n_rows // 16)
    index, tiles = [8 * (n_tiles + 1)], bytearray()
    for tile in range(n_tiles):
        for b in range(n_columns // 32):
            words, values = bytearray(), bytearray()
            for c in range(8):
                word, kept = 0, []
                for bit in range(64):
                    row, column = 16 * tile + bit // 4, 32 * b + 4 * c + bit % 4
                    if row < n_rows and codes[row, column] != ZERO[fmt]:
                        word |= 1 << bit
                        kept.append(int(codes[row, column]) & 255)
                words += word.to_bytes(8, "little")
                if fmt is Format.BMP4:
                    kept += [0] * (len(kept) % 2)
                    kept = [
                        low | high << 4 for low, high in zip(kept[::2], kept[1::2], strict=True)
                    ]
                values += bytes(kept)
            steps = np.zeros(16, "<f2")
            steps[: len(d[16 * tile : 16 * tile + 16])] = d[16 * tile : 16 * tile + 16, b]
            tiles += steps.tobytes() + words + values
        index.append(index[0] + len(tiles))
    out = b"".join(at.to_bytes(8, "little") for at in index) + tiles + bytes(64)
    return np.frombuffer(out + bytes(-len(out) % 64), np.uint8)


def _pack_csr(fmt: Format, codes: Array, d: Array, m: None) -> Array:
    n_rows, n_columns = codes.shape
    n_tiles = -(-n_rows // 16)
    index, tiles = [8 * (n_tiles + 1)], bytearray()
    for tile in range(n_tiles):
        for b in range(n_columns // 32):
            kept: list[list[int]] = [[] for _ in range(16)]
            steps = bytearray()
            for row in range(16 * tile, min(16 * tile + 16, n_rows)):
                kept[row % 16] = [i for i in range(32) if codes[row, 32 * b + i]]
                steps += np.array(d[row, b], "<f2").tobytes() if kept[row % 16] else b""
            words, entries = bytearray(), bytearray()
            for n in range(-(-max(map(len, kept)) // 2)):
                word = 0
                for row, i in ((row, i) for row in range(16) for i in range(2)):
                    if 2 * n + i < len(kept[row]):
                        word |= 1 << (2 * row + i)
                        column = kept[row][2 * n + i]
                        code = int(codes[16 * tile + row, 32 * b + column]) & 255
                        entries += bytes([column, code])
                words += word.to_bytes(4, "little")
            n_bytes = 2 + len(words) + len(steps) + len(entries)
            tiles += (n_bytes | len(words) // 4 << 11).to_bytes(2, "little")
            tiles += words + steps + entries
        index.append(index[0] + len(tiles))
    out = b"".join(at.to_bytes(8, "little") for at in index) + tiles + bytes(64)
    return np.frombuffer(out + bytes(-len(out) % 64), np.uint8)


def _pack_two_of_four(fmt: Format, codes: Array, d: Array, m: None) -> Array:
    n_rows, n_columns = codes.shape
    zero, out = ZERO.get(fmt, 0), bytearray()
    for tile in range(0, -(-n_rows // 16) * 16, 16):
        for b in range(n_columns // 32):
            steps, places = np.zeros(16, "<f2"), [0] * 32
            values = np.full((4, 16, 2, 2), zero, np.int64)
            for r in range(16):
                for group in range(8):
                    four = np.full(4, zero)
                    if tile + r < n_rows:
                        steps[r] = d[tile + r, b]
                        four = codes[tile + r, 32 * b + 4 * group :][:4]
                    live = [i for i in range(4) if four[i] != zero]
                    others = [i for i in range(4) if four[i] == zero]
                    for j, place in enumerate(sorted((live + others)[:2])):
                        places[2 * r + j] |= place << (2 * group)
                        values[group % 4, r, j, group // 4] = four[place]
            out += steps.tobytes() + np.array(places, "<u2").tobytes()
            flat = values.reshape(-1)
            if fmt is Format.NM4:
                flat = flat[::2] | flat[1::2] << 4
            out += (flat & 255).astype(np.uint8).tobytes()
    return np.frombuffer(bytes(out), np.uint8)


_PACK_SPARSE = {
    Format.BMP8: _pack_bitmap,
    Format.BMP4: _pack_bitmap,
    Format.CSR: _pack_csr,
    Format.NM8: _pack_two_of_four,
    Format.NM4: _pack_two_of_four,
}


def _pack_slices(codes: Array, planes: int, heads: list[Array], group_blocks: int = 1) -> Array:
    n_rows, n_columns = codes.shape
    out = bytearray()
    rows = np.zeros((-(-n_rows // 64) * 64, n_columns), np.int64)
    rows[:n_rows] = codes
    for tile in range(0, n_rows, 64):
        for b in range(n_columns // 32):
            for head in heads if b % group_blocks == 0 else ():
                column = np.zeros(64, head.dtype)
                own = head[tile : tile + 64, b // group_blocks]
                column[: len(own)] = own
                out += column.tobytes()
            for pair in range(4):
                eight = rows[tile : tile + 64, b * 32 + pair * 8 : b * 32 + pair * 8 + 8]
                for plane in range(planes):
                    bits = eight >> plane & 1
                    byte = sum(bits[:, n] << n for n in range(8))
                    out += bytes(
                        int(byte[16 * v + 4 * a + j])
                        for a in range(4)
                        for v in range(4)
                        for j in range(4)
                    )
    return np.frombuffer(bytes(out), np.uint8).copy()


def _pack_slice_columns(codes: Array, planes: int, heads: list[Array], group_blocks: int) -> Array:
    n_rows, n_columns = codes.shape
    bits, runs = (2, 2) if planes == 2 else (4, 4)
    n_lines = -(-n_rows // 128)
    rows = np.zeros((n_lines * 128, n_columns), np.int64)
    rows[:n_rows] = codes
    out = bytearray()
    for line in range(0, n_lines, 8):
        top, bottom = 128 * line, 128 * min(line + 8, n_lines)
        for b in range(n_columns // 32):
            for head in heads if b % group_blocks == 0 else ():
                column = np.zeros(bottom - top, head.dtype)
                own = head[top:bottom, b // group_blocks]
                column[: len(own)] = own
                out += column.tobytes()
            for column in range(32 * b, 32 * b + 32):
                for first in range(top, bottom, 128):
                    # Byte 16 a + 4 b + c: row 4 runs b + 4 a + c, and others `apart` behind it.
                    apart = 16 * runs
                    out += bytes(
                        sum(
                            int(rows[first + apart * n + 4 * runs * m + 4 * a + c, column])
                            << bits * n
                            for n in range(8 // bits)
                        )
                        for a in range(runs)
                        for m in range(4)
                        for c in range(4)
                    )
    return np.frombuffer(bytes(out), np.uint8).copy()


def _pack_rows(fmt: Format, codes: Array, d: Array, m: Array | None) -> Array:
    out = bytearray()
    for r in range(len(codes)):
        for block in codes[r].reshape(-1, 32):
            if fmt in (Format.Q4R, Format.Q4MR):
                out += bytes(int(block[i]) | int(block[16 + i]) << 4 for i in range(16))
            else:
                out += bytes(int(code) & 255 for code in block)
        out += d[r].tobytes() + (b"" if m is None else m[r].tobytes())
        out += bytes(-len(out) % 64)
    return np.frombuffer(bytes(out), np.uint8).copy()


def _pack_t2(codes: Array) -> Array:
    n_rows, k = codes.shape
    n_blocks = -(-k // 128)
    full = np.ones((n_rows, n_blocks * 128), np.int64)
    full[:, :k] = codes + 1
    out = np.zeros((n_rows, n_blocks, 32), np.uint8)
    for b in range(n_blocks):
        for j in range(32):
            a, c, e, g = (full[:, b * 128 + j + 32 * n] for n in range(4))
            out[:, b, j] = a << 6 | c << 4 | e << 2 | g
    return out.ravel()


def _pack_t5(codes: Array) -> Array:
    n_rows, k = codes.shape
    n_blocks = -(-k // 160)
    full = np.ones((n_rows, n_blocks * 160), np.int64)
    full[:, :k] = codes + 1
    out = np.zeros((n_rows, n_blocks, 32), np.uint8)
    for b in range(n_blocks):
        for j in range(32):
            v = np.zeros(n_rows, np.int64)
            for n in range(5):
                v = v * 3 + full[:, b * 160 + j + 32 * n]
            out[:, b, j] = (v * 256 + 242) // 243
    return out.ravel()


def _pack_blocks(fmt: Format, codes: Array, d: Array, m: Array | None) -> Array:
    n_rows, n_columns = codes.shape
    n_blocks = n_columns // 32
    out = bytearray()
    for tile in range(0, n_rows, 8):
        for b in range(n_blocks):
            for steps in (d,) if m is None else (d, m):
                column = np.zeros(8, np.float16)
                column[: min(8, n_rows - tile)] = steps[tile : tile + 8, b]
                out += column.tobytes()
            block = np.full((8, 32), ZERO.get(fmt, 0))
            rows = codes[tile : tile + 8, b * 32 : b * 32 + 32]
            block[: len(rows)] = rows
            if fmt in (Format.Q8, Format.Q8M):
                out += bytes(
                    int(block[r, 2 * c + e]) & 255
                    for c in range(16)
                    for r in range(8)
                    for e in range(2)
                )
            elif fmt == Format.Q6:
                out += _six_bits(block)
            else:
                out += bytes(
                    int(block[r, 2 * g + e]) | int(block[r, 16 + 2 * g + e]) << 4
                    for g in range(8)
                    for r in range(8)
                    for e in range(2)
                )
    return np.frombuffer(bytes(out), np.uint8).copy()


def _pack_columns(fmt: Format, codes: Array, d: Array, m: Array | None) -> Array:
    n_rows, n_columns = codes.shape
    is_nibble = fmt in (Format.Q4N, Format.Q4MN)
    per_line = 128 if is_nibble else 64
    n_lines = -(-n_rows // per_line)
    out = bytearray()

    def stored(row: int, column: int) -> int:
        if row >= n_rows:
            return 0
        return int(codes[row, column]) + (0 if is_nibble else 128)

    for tile in range(0, n_lines, 8):
        first, width = tile * per_line, min(8, n_lines - tile)
        for b in range(n_columns // 32):
            for column in range(32 * b, 32 * b + 32):
                for line in range(width):
                    top = first + line * per_line
                    # Byte 16 a + 4 b + c belongs to row 16 b + 4 a + c.
                    places = [
                        16 * b + 4 * a + c for a in range(4) for b in range(4) for c in range(4)
                    ]
                    for r in places:
                        upper = stored(top + 64 + r, column) << 4 if is_nibble else 0
                        out.append(stored(top + r, column) | upper)
            for steps in (d,) if m is None else (d, m):
                halfs = np.zeros(width * per_line, np.float16)
                mine = steps[first : first + width * per_line, b]
                halfs[: len(mine)] = mine
                out += halfs.tobytes()
    return np.frombuffer(bytes(out), np.uint8).copy()


def _six_bits(block: Array) -> bytes:
    """Pack 8 rows of 32 codes 0…63: bit strings of the words, most significant bit first."""
    out = b""
    for i in range(6):
        for r in range(8):
            for e in range(2):
                six = [f"{int(code):06b}" for code in block[r, e::2]]
                top = six[12 + i][2:] if i < 4 else six[2 * i + 5][:2] + six[2 * i + 4][:2]
                out += int(top + six[6 + i] + six[i], 2).to_bytes(2, "little")
    return out

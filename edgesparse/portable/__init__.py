"""numba twins of the ops, bit-equal to ``edgesparse/ops``: no C compiler needed.

`jit.py` compiles, `pool.py` shares the work out, `bind.py` says what an op is bound to; every other
file is named after the op it computes. `edgesparse.executors.portable` puts them in a row.
Nothing here imports numba until one of the op files is imported.
"""

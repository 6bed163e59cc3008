"""Three executors of one plan that give the same bits, and one that compares two of them."""

from __future__ import annotations

from edgesparse.errors import UsageError
from edgesparse.executors.base import Executor, Parameters
from edgesparse.plan.plan import Plan

__all__ = ["EXECUTORS", "make_executor"]

EXECUTORS = ("native", "portable", "reference")


def make_executor(
    name: str,
    plan: Plan,
    parameters: Parameters,
    *,
    threads: int,
    isa: str | None = None,
    lossy: bool = False,
) -> Executor:
    """Build the executor called `name` (one of `EXECUTORS`).

    Raises
    ------
    UsageError
        No such executor, an `isa` that this machine cannot run, or rounded tables (`lossy`) where
        there are none.
    NativeUnavailable
        ``native`` was asked for and the compiled module is missing.
    """
    if name == "native":
        from edgesparse.executors.native import NativeExecutor

        return NativeExecutor(plan, parameters, threads=threads, isa=isa, lossy=lossy)
    if lossy:
        raise UsageError("Only the native executor has rounded tables.", advice="Use lut exact.")
    if name == "portable":
        from edgesparse.executors.portable import PortableExecutor

        return PortableExecutor(plan, parameters, threads=threads)
    if name == "reference":
        from edgesparse.executors.reference import ReferenceExecutor

        return ReferenceExecutor(plan, parameters)
    raise UsageError(
        f"There is no executor called {name!r}.", advice=f"Choose one of {', '.join(EXECUTORS)}."
    )

"""Functions compiled by numba, kept on disk, and shared out among threads.

Machine code on disk is renewed when the file of its function changes, and no other: constants that
a kernel uses stand in the kernel's own file.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import NullCache

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

REORDER = {"reassoc", "contract", "nsz", "arcp"}
"""Liberties of the compiler: sums in any order, but infinities and NaN stay what they are."""

_kernels: list[Any] = []
_machine_code = partial(numba.njit, nogil=True, fastmath=REORDER, error_model="numpy")


def compiled(function: Kernel) -> Kernel:
    """Machine code, kept on disk where there is a place for it."""
    try:
        _kernels.append(_machine_code(function, cache=True))
    except RuntimeError:  # no folder can be written
        _kernels.append(_machine_code(function))
    return cast(Kernel, _kernels[-1])


def inlined(function: Kernel) -> Kernel:
    """Machine code inside the kernels that use it, and nowhere else.

    Were it called, a kernel compiled by this process would reach the function's own machine code,
    and one from disk the copy stored with it: compiled apart, they round differently.
    """
    return cast(Kernel, _machine_code(function, forceinline=True))


def run(kernel: Callable[..., None], *words: Any) -> None:
    """Run a kernel, without code on disk if that cannot be read or written."""
    try:
        kernel(*words)
    except (OSError, EOFError, UnpicklingError):
        for each in _kernels:
            each._cache = NullCache()
        kernel(*words)


def share(work: Callable[[int, int], None], chunks: int, threads: int) -> None:
    """Let threads work off ranges of chunks; the kernels hold no lock of the interpreter."""
    parts = min(threads, chunks)
    if parts <= 1:
        work(0, chunks)
        return
    bounds = [chunks * i // parts for i in range(parts + 1)]
    try:
        others = [_pool(parts - 1).submit(work, *bounds[i : i + 2]) for i in range(1, parts)]
    except RuntimeError:  # the interpreter is about to end and starts no threads
        work(0, chunks)
        return
    work(*bounds[:2])
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")

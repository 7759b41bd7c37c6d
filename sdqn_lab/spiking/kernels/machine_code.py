"""Functions compiled by numba, kept on disk, and shared out among threads.

Machine code on disk is renewed when the file of its function changes, and no other: constants that
a kernel uses stand in the kernel's own file, and whoever changes the compiler's options here has to
touch the kernels' files.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from itertools import pairwise
from pickle import UnpicklingError
from queue import SimpleQueue
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
    """Let threads work off ranges of chunks, each range once.

    The kernels hold no lock of the interpreter. This thread takes what no other has begun, so it
    also does everything where no thread can be started.
    """
    parts = min(threads, chunks)
    if parts <= 1:
        work(0, chunks)
        return
    bounds = [chunks * i // parts for i in range(parts + 1)]
    left = deque(pairwise(bounds))
    ended: SimpleQueue[BaseException | None] = SimpleQueue()
    with suppress(RuntimeError):  # no more threads, or the interpreter is about to end
        for _ in range(parts - 1):
            _pool(parts - 1).submit(_work_off, work, left, ended)
    _work_off(work, left, ended)
    for error in [ended.get() for _ in range(parts)]:
        if error is not None:
            raise error


def _work_off(
    work: Callable[[int, int], None],
    left: deque[tuple[int, int]],
    ended: SimpleQueue[BaseException | None],
) -> None:
    while True:
        try:
            part = left.popleft()
        except IndexError:
            return
        try:
            work(*part)
        except BaseException as error:  # for the thread that waits
            ended.put(error)
        else:
            ended.put(None)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")

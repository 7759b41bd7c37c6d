"""Functions compiled by numba, kept on disk, and run by several threads.

Machine code on disk is renewed when any file in the folder of its function or in this one changes,
because kernels use functions and constants of each other.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from queue import SimpleQueue
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

# Liberties of the compiler: sums in any order, but infinities and NaN stay what they are.
REORDER = {"reassoc", "contract", "nsz", "arcp"}
THREADS = ThreadPoolExecutor(thread_name_prefix="kernels")

_njit = partial(numba.njit, nogil=True, fastmath=REORDER, error_model="numpy")


class DiskCache(FunctionCache):
    """Numba's cache; a file that cannot be read or written is as good as none."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        folders = {Path(__file__).parent, Path(function.__code__.co_filename).parent}
        files = sorted(file for folder in folders for file in folder.glob("*.py"))
        stamp = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        index: Any = IndexDataCacheFile
        self._cache_file = index(self._cache_path, self._impl.filename_base, stamp)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The machine code of a signature; None if there is none."""
        with suppress(OSError, EOFError, UnpicklingError):
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the machine code of a signature, where that is possible."""
        with suppress(OSError, EOFError, UnpicklingError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def jit(function: Kernel, **options: Any) -> Kernel:
    """Machine code, kept on disk where there is a place for it.

    Args:
        function: what is compiled.
        **options: of the compiler, instead of ours.
    """
    kernel: Any = _njit(function, **options)
    # RuntimeError: no folder can be written.
    with suppress(RuntimeError):
        kernel._cache = DiskCache(function)
    return cast(Kernel, kernel)


def exact_jit(function: Kernel) -> Kernel:
    """The same without the compiler's liberties: floats round as they do in NumPy."""
    return jit(function, fastmath=False)


def bare_jit(function: Kernel) -> Kernel:
    """The same for kernels that make no arrays: nobody counts who uses those they are given."""
    return jit(function, _nrt=False)


def inline_jit(function: Kernel) -> Kernel:
    """Machine code inside the kernels that use it, and nowhere else; it makes no arrays.

    Were it called, a kernel compiled by this process would reach the function's own machine code,
    and one from disk the copy stored with it: compiled apart, they round differently.
    """
    return cast(Kernel, _njit(function, forceinline=True, _nrt=False))


def parallel_for(work: Callable[[int, int], None], chunks: int, threads: int) -> None:
    """Call `work(first, last)` on ranges of chunks, each range once, by several threads.

    The kernels release the interpreter's lock. This thread takes what no other has begun, so it
    also does everything where no thread can be started.

    Raises:
        BaseException: what `work` raised.
    """
    parts = min(threads, chunks)
    if parts <= 1:
        work(0, chunks)
        return
    left = deque(pairwise(chunks * i // parts for i in range(parts + 1)))
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def work_off() -> None:
        while True:
            try:
                part = left.popleft()
            except IndexError:
                return
            # Whatever it is, the thread that waits must hear of it, or it would wait for ever.
            try:
                work(*part)
            except BaseException as error:
                ended.put(error)
            else:
                ended.put(None)

    # RuntimeError: no more threads, or the interpreter is about to end.
    with suppress(RuntimeError):
        for _ in range(parts - 1):
            THREADS.submit(work_off)
    work_off()
    for error in [ended.get() for _ in range(parts)]:
        if error is not None:
            raise error

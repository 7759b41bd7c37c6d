"""Machine code that this process compiles, and the same from numba's cache on disk."""

import os
import subprocess
import sys
from pathlib import Path


def fingerprints_twice(module: str, cache: Path) -> tuple[list[str], list[str]]:
    """What `fingerprints` of a module yields in a process that compiles into an empty cache, and in
    one that loads from it.
    """
    program = f"from {module} import fingerprints; print(*fingerprints(), sep='\\n')"
    compiled, loaded = (
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[1],
            env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.splitlines()
        for _ in range(2)
    )
    return compiled, loaded

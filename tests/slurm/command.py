"""A command of the package, on a file system that hides nothing.

    python -m tests.slurm.command run | sweep ARGUMENTS

That a cell is lost is believed after a minute, for the sake of network file systems; the tests' is
a local one.
"""

import importlib
import sys

from sdqn_lab.launching import slurm

if __name__ == "__main__":
    slurm.LOST_GRACE_SECONDS = 10.0
    module, *arguments = sys.argv[1:]
    sys.exit(importlib.import_module(f"sdqn_lab.{module}").main(arguments))

"""What a number was made with: code, libraries, hardware."""

import hashlib
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
# Folders whose content can change what a run does.
PARTS = ("sdqn_lab", "hydra_plugins/sdqn_lab", "conf", "sweeps")
PACKAGES = ("torch", "numpy", "numba", "gymnasium", "ale-py", "hydra-core")


def code() -> dict[str, Any]:
    """The code as it lies on disk now: commit, whether it was changed, and a digest of all files.

    `git_sha` and `git_dirty` are None where the package is not run from its own checkout;
    `code` differs between two states everywhere.
    """
    # Installed below somebody else's checkout, Git would answer with that one's commit.
    own = _git("rev-parse", "--show-toplevel") == str(ROOT)
    sha = _git("rev-parse", "HEAD") if own else None
    files = {file for part in PARTS for file in (ROOT / part).rglob("*") if file.is_file()}
    total = hashlib.sha256()
    for file in sorted(files):
        if file.suffix in (".py", ".yaml"):
            total.update(f"{file.relative_to(ROOT)}\0".encode())
            total.update(file.read_bytes())
    digest = total.hexdigest()[:16]
    return {"git_sha": sha, "git_dirty": bool(diff()) if own else None, "code": digest}


def diff() -> str:
    """Changes against the commit, new files included; empty where there are none or no checkout."""
    if _git("rev-parse", "--show-toplevel") != str(ROOT):
        return ""
    changed = _git("diff", "HEAD", "--", *PARTS) or ""
    new = (_git("ls-files", "--others", "--exclude-standard", "--", *PARTS) or "").splitlines()
    added = [_git("diff", "--no-index", "--", "/dev/null", file) or "" for file in new]
    return "\n".join(part for part in (changed, *added) if part)


def machine() -> dict[str, Any]:
    """Libraries and hardware of this process."""
    import torch  # half a second, and a login node may have none

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpus = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    versions = {"sdqn_lab": version("sdqn_lab"), "python": platform.python_version()}
    return {
        "versions": versions | {package: version(package) for package in PACKAGES},
        "cpu": cpus[0] if cpus else platform.processor() or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def scheduler() -> dict[str, Any]:
    """Under SLURM: the job and how often it was restarted; else nothing."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return {}
    array, index = (os.environ.get(f"SLURM_ARRAY_{key}") for key in ("JOB_ID", "TASK_ID"))
    name = job if array is None else f"{array}_{index}"
    return {"slurm_job": name, "slurm_restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0"))}


def _git(*arguments: str) -> str | None:
    """Git's answer, or None where this is no checkout."""
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run(
        [git, "-C", ROOT, *arguments], capture_output=True, text=True, check=False
    )
    # Comparing a new file with nothing exits with 1, as all differences do.
    return done.stdout.strip() if done.returncode in (0, 1) else None

"""Files that are wholly there or not at all, and reading them without waiting for anybody."""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import yaml


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, force to disk, rename over: a reader sees the old file or the new one."""
    # In the same folder, because a rename replaces a file only within one file system.
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write_new(beside, data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_new(path: Path, data: bytes) -> None:
    """Write a file that is not there, force it to disk; what lies in its place is removed.

    Never through a link: one of that name goes, and what it points to stays.
    """
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """`write_atomic` of readable JSON."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        OSError: as `open`.
        ValueError: a pipe, a device or the like lies in its place.
    """

    def opened(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NONBLOCK)  # a pipe would wait for somebody who writes

    file = open(path, "rb", opener=opened)  # noqa: SIM115  (the caller closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{path}: not a regular file")
    return file


def read(path: Path) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: as `open`.
        ValueError: a pipe, a device or the like lies in its place.
    """
    with open_regular(path) as file:
        return file.read()


def check_no_aliases(text: bytes) -> None:
    """Refuse `*name`: a run writes none, and some lines of them can stand for more than memory.

    Raises:
        yaml.YAMLError: there is one, or the text is not YAML.
    """
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.CSafeLoader)):
        raise yaml.YAMLError("an alias, and a run writes none")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as plain values.

    Raises:
        OSError: as `open`.
        ValueError: not a regular file, not YAML, nested too deeply, or with aliases (`*name`).
    """
    text = read(path)
    try:
        check_no_aliases(text)
        return yaml.load(text, yaml.CSafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        reason = " ".join((str(error) or type(error).__name__).split())[:200]
        raise ValueError(f"{path}: not valid YAML ({reason})") from error

"""What is refused, as data: the one exception for it, and the one sentence made of it."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

MAX_LETTERS = 80


class Refused(ValueError):  # noqa: N818  (reads as what it is)
    """A value that breaks a rule.

    Args:
        key: the argument or setting, e.g. `tau`; or, without a value, what else is refused.
        value: what was given.
        rule: what it breaks, e.g. `must be > 1`.
        instead: what to write, e.g. `2.0` for the same key, or `norm=none` for another one; empty
            where nothing can be recommended.
    """

    def __init__(self, key: str, value: Any, rule: str, instead: str = "") -> None:
        self.key, self.value, self.rule, self.instead = key, value, rule, instead
        super().__init__(key, value, rule, instead)

    def under(self, group: str) -> "Refused":
        """The same of a group's key, e.g. `neuron.tau`."""
        return Refused(f"{group}.{self.key}", self.value, self.rule, self.instead)

    def __str__(self) -> str:
        shown = self.key if self.value is None else f"{self.key}={short(written(self.value))}"
        bare = self.instead and "=" not in self.instead and self.value is not None
        instead = f"{self.key}={self.instead}" if bare else self.instead
        return f"{shown}: {self.rule}" + (f"; write {instead}" if instead else "")


class ConfigError(Exception):
    """A config, or a command, that cannot run: everything that is refused, `problems`."""

    def __init__(self, problems: Iterable[Refused]) -> None:
        self.problems = list(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def short(value: object) -> str:
    """A value of any kind, in a line of bearable length."""
    line = " ".join(str(value).split())
    return line if len(line) <= MAX_LETTERS else f"{line[:MAX_LETTERS]}..."


def written(value: Any) -> str:
    """A plain value as the command line writes it."""
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return f"[{','.join(map(written, value))}]"
    return str(value)


def alternatives(name: str, known: Iterable[str], kind: str = "keys") -> str:
    """The names that there are, and before them what was probably meant."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3 if kind == "options" else 1)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}{kind}: {', '.join(names) or 'none'}"


def one_line(error: BaseException) -> str:
    """An exception's whole text in one line, or its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    """An exception's first line of text, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

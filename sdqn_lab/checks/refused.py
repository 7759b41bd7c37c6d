"""The one exception for a value that cannot be taken, and the one sentence made of it."""

from typing import Any


class Refused(ValueError):  # noqa: N818  (reads as what it is)
    """A value that breaks a rule.

    Args:
        key: the argument or setting, e.g. `tau`; whoever knows the group puts `neuron.` before it.
        value: what was given.
        rule: what it breaks, e.g. `must be > 1`.
        instead: what to write, e.g. `tau=2.0`; empty where nothing can be recommended.
    """

    def __init__(self, key: str, value: Any, rule: str, instead: str = "") -> None:
        self.key, self.value, self.rule, self.instead = key, value, rule, instead
        super().__init__(key, value, rule, instead)

    def __str__(self) -> str:
        shown = self.key if self.value is None else f"{self.key}={self.value}"
        return f"{shown}: {self.rule}" + (f"; write {self.instead}" if self.instead else "")

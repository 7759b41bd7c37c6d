"""Commands run in the test's own process, and what they answer."""

from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it complained about."""
        return [line for line in self.err.splitlines() if line.strip()]

    def refuses(self, *parts: str) -> None:
        """One problem, in a line that holds all these parts, and no result."""
        complains(self, " | ".join(parts))


def complains(answer: Answer, *problems: str) -> None:
    """Exactly these problems, each a line that holds all its parts, and no result."""
    assert (answer.code, answer.out) == (2, ""), answer
    assert len(answer.lines) == len(problems), answer.lines
    for problem in problems:
        parts = problem.split(" | ")
        holding = [line for line in answer.lines if all(part in line for part in parts)]
        assert len(holding) == 1, (parts, answer.lines)
        assert holding[0].startswith("error: ")


def refused(answer: Answer, *problems: str) -> None:
    """The same, and nothing is left behind."""
    complains(answer, *problems)
    assert not list(Path.cwd().iterdir())


def printed(answer: Answer, subject: str, remedy: str = "") -> None:
    """One line of the form `error: SUBJECT: RULE; write REMEDY`, and nothing is left behind."""
    refused(answer, f"error: {subject}: ")
    assert answer.lines[0].endswith(f"; write {remedy}" if remedy else ""), answer.lines

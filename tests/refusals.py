"""What a test expects of a refusal: its data, not its sentence."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest

from sdqn_lab.checks.refused import ConfigError, Refused, written
from sdqn_lab.config.composition import Composer, resolved
from sdqn_lab.config.validation import validate


@contextmanager
def refuses(key: str, value: object, instead: str = "", rule: str = "") -> Iterator[None]:
    """What happens inside is refused in one line, with this key, value, remedy and rule."""
    with pytest.raises(Refused) as refusal:
        yield
    error = refusal.value
    assert (error.key, error.value) == (key, value)
    assert instead in error.instead
    assert rule in error.rule
    assert "\n" not in str(error)


@cache
def composer() -> Composer:
    """One for all tests: it reads the files of a set of options only once."""
    return Composer()


def problems(overrides: list[str]) -> list[Refused]:
    """Everything that is wrong with a config."""
    with pytest.raises(ConfigError) as error:
        validate(resolved(composer().compose_raw(overrides)))
    return error.value.problems


def subject(problem: Refused) -> str:
    """What is refused, `key=value` as a command line writes it."""
    return problem.key if problem.value is None else f"{problem.key}={written(problem.value)}"


def remedy(problem: Refused) -> str:
    """What to write instead, the key included."""
    bare = problem.instead and problem.value is not None and "=" not in problem.instead
    return f"{problem.key}={problem.instead}" if bare else problem.instead


def meant(problem: Refused) -> list[str]:
    """The names that were probably meant."""
    question, mark, _ = problem.rule.partition("?")
    return question.partition("did you mean ")[2].split(" or ") if mark else []


def listed(problem: Refused) -> list[str]:
    """The names that there are."""
    return problem.rule.rpartition(": ")[2].split(", ")

"""What a test expects of a refusal: its data, not its sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from sdqn_lab.checks.refused import Refused


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

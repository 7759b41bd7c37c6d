"""The types and ranges of a plug-in's arguments, stated once: in its constructor's annotations.

    def __init__(self, *, gamma: Share = 0.99, batch_size: Count = 32): ...

`fault` says what is wrong with a value before anything is built; `check_arguments` lets the
constructor itself refuse.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from sdqn_lab.checks.refused import Refused

Count = Annotated[int, Ge(1)]
"""How many of something, or a period: a whole number, at least 1."""
Natural = Annotated[int, Ge(0)]
Share = Annotated[float, Ge(0), Le(1)]
"""A probability or a discount."""
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
Weight = Annotated[float, Gt(0), Le(1)]
"""The share that something new has in a running mean."""
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]


class OneOf(tuple[str, ...]):
    """The texts that an argument may be, as an annotation: `Annotated[str, OneOf("a", "b")]`."""

    def __new__(cls, *options: str) -> "OneOf":
        """The options, the usual one first."""
        return super().__new__(cls, options)


TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "is_instance_of": "a list",  # sequences are the only arguments that are no plain values
}
"""Pydantic's names of types, in plain English."""
OUT_OF_RANGE = ("greater_than", "less_than", "literal_error")


def fault(value: object, hint: Any) -> str:
    """The rule that a value breaks, e.g. `must lie in [0, 1]`; empty if it breaks none.

    Args:
        value: a plain value.
        hint: an annotation, with its range if it has one.
    """
    # A list from YAML may stand for a tuple or any other sequence; nothing else is converted.
    try:
        _adapter(hint).validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        kind, message = error.errors()[0]["type"], error.errors()[0]["msg"]
        if kind.startswith(OUT_OF_RANGE):
            return range_of(hint)
        name = TYPE_NAMES.get(kind) or TYPE_NAMES.get(kind.partition("_")[0])
        return f"must be {name}" if name else message.lower().replace("input should", "must")
    options = next((each for each in get_args(hint) if isinstance(each, OneOf)), None)
    return f"must be one of {', '.join(options)}" if options and value not in options else ""


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Hold the arguments that a function was called with against its annotations' ranges.

    Args:
        function: e.g. a class's `__init__`.
        given: its `locals()`; names without an annotated range are not looked at.

    Raises:
        Refused: the first argument out of its range.
    """
    for name, hint in get_type_hints(function, include_extras=True).items():
        if range_of(hint) and (rule := fault(given[name], hint)):
            raise Refused(name, given[name], rule)


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    # NaN and infinity would pass a bound on one side.
    plain = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)
    return TypeAdapter(hint, config=plain)


def range_of(hint: Any) -> str:
    """An annotation's range as a rule, e.g. `must be >= 1`; empty where it has none."""
    if get_origin(hint) is Literal:
        return f"must be one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is not Annotated:  # a union such as `Positive | None`, or a plain type
        return next(filter(None, map(range_of, get_args(hint))), "")
    low, high = [], []  # how each bound is written alone, and in an interval
    for bound in get_args(hint):
        match bound:
            case Ge():
                low = [f">= {bound.ge}", f"[{bound.ge}"]
            case Gt():
                low = [f"> {bound.gt}", f"({bound.gt}"]
            case Le():
                high = [f"<= {bound.le}", f"{bound.le}]"]
            case Lt():
                high = [f"< {bound.lt}", f"{bound.lt})"]
    if low and high:
        return f"must lie in {low[1]}, {high[1]}"
    return f"must be {(low or high)[0]}" if low or high else ""

"""What the files of a run directory must hold to be used: checked once, when they are read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, PositiveInt, ValidationError

from sdqn_lab.runs.directory import PROBE_VERSION

BINS, LIMIT = 64, 4.0
"""Histograms of `probe.json` of this version have equal bins over [-LIMIT, LIMIT)."""
Histogram = Annotated[list[FiniteFloat], Field(min_length=BINS, max_length=BINS)]
Plain = str | int | float | bool | None


class _Open(BaseModel):
    """Other keys are let through."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Budget(_Open):
    steps: PositiveInt


class _Algo(_Open):
    num_envs: PositiveInt = 1


class Config(_Open):
    """Of `config.yaml`: what distinguishes arms and tasks."""

    choices: dict[str, str | None]
    seed: int
    budget: _Budget
    algo: _Algo = _Algo()
    env: dict[str, Any]
    protocol: dict[str, Plain]


class _Attempt(_Open):
    started: str | None = None
    git_sha: str | None = None
    git_dirty: bool | None = None
    cpu: str | None = None
    threads: int | None = None
    gpus: list[str] = []


class Status(_Open):
    """Of `status.json`: what a number was made with."""

    attempts: list[_Attempt] = []
    error: str | None = None


class _Layer(_Open):
    name: str
    parameters: int
    synapses: int
    analog: bool
    passes: PositiveInt
    operations: FiniteFloat
    current: Histogram | None
    normalized: Histogram | None
    membrane: Histogram | None


class Probe(_Open):
    """Of `probe.json`."""

    version: Literal[PROBE_VERSION]  # type: ignore[valid-type]
    time_window: PositiveInt
    layers: list[_Layer]


def fault(form: type[BaseModel], content: object) -> str:
    """The first thing that is wrong with the content of a file; empty: nothing."""
    try:
        form.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        return ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
    return ""

"""Packages that can be absent, and the extras of this distribution that bring them."""

from importlib.util import find_spec
from typing import NamedTuple

from sdqn_lab.checks.refused import Refused


class Extra(NamedTuple):
    """An extra of this distribution.

    Attributes:
        name: as in `pip install 'sdqn_lab[name]'`.
        module: what is imported of it.
        package: what it is called where it is installed from.
    """

    name: str
    module: str
    package: str

    def lacking(self, key: str) -> Refused | None:
        """What is refused where the package is not installed; None where it is.

        Args:
            key: the setting or flag that needs it.
        """
        spec = find_spec(self.module)
        # A folder of this name is no package: W&B leaves a `wandb` wherever it was used.
        if spec is not None and spec.has_location:
            return None
        rule = f"needs the package {self.package}, which is not installed here"
        return Refused(key, None, rule, f"pip install 'sdqn_lab[{self.name}]'")

    def demand(self, key: str) -> None:
        """Refuse a setting or a flag where the package is not installed.

        Raises:
            Refused: with what to write.
        """
        if refused := self.lacking(key):
            raise refused


ATARI = Extra("atari", "ale_py", "ale-py")
MINATAR = Extra("minatar", "minatar", "MinAtar")
NIR = Extra("nir", "nir", "nir")
TENSORBOARD = Extra("tensorboard", "tensorboard", "tensorboard")
WANDB = Extra("wandb", "wandb", "wandb")
WANDB_REPORTS = Extra("wandb", "wandb_workspaces", "wandb-workspaces")

"""The callbacks that `hydra.callbacks` names."""

import warnings
from collections.abc import Callable
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from sdqn_lab.checks.refused import Refused, first_line


class Callbacks:
    """Has Hydra's callback methods (`on_run_start`, `on_job_end`, ...) and calls those of each.

    Args:
        cfg: a composed config, with Hydra's own node.

    Raises:
        Refused: one cannot be made.
    """

    def __init__(self, cfg: DictConfig) -> None:
        self.callbacks = []
        for name, node in (cfg.hydra.callbacks or {}).items():
            try:
                self.callbacks.append(instantiate(node))
            except InstantiationException as error:
                rule = f"cannot be made ({first_line(error)})"
                key = f"hydra.callbacks.{name}"
                raise Refused(key, None, rule, f"{key}._target_=MODULE.CLASS") from error

    def __getattr__(self, event: str) -> Callable[..., None]:
        """A method of Hydra's `Callback`."""
        if not event.startswith("on_"):
            raise AttributeError(event)

        def call(**arguments: Any) -> None:
            # As Hydra does it: what began last ends first, and a callback stops nothing.
            ordered = reversed(self.callbacks) if event.endswith("_end") else self.callbacks
            for each in ordered:
                try:
                    getattr(each, event)(**arguments)
                except Exception as error:
                    name = f"{type(each).__name__}.{event}"
                    warnings.warn(f"callback {name}: {type(error).__name__}: {error}", stacklevel=2)

        return call

"""The callbacks that `hydra.callbacks` names."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig


class Callbacks:
    """Has Hydra's callback methods (`on_run_start`, `on_job_end`, ...) and calls those of each."""

    def __init__(self, cfg: DictConfig) -> None:
        self.callbacks = [instantiate(node) for node in (cfg.hydra.callbacks or {}).values()]

    def __getattr__(self, event: str) -> Callable[..., None]:
        """A method of Hydra's `Callback`."""
        if not event.startswith("on_"):
            raise AttributeError(event)
        return partial(self._call, event)

    def _call(self, event: str, **arguments: Any) -> None:
        # As Hydra does it: what began last ends first, and a callback stops nothing.
        ordered = reversed(self.callbacks) if event.endswith("_end") else self.callbacks
        for each in ordered:
            try:
                getattr(each, event)(**arguments)
            except Exception as error:
                name = f"{type(each).__name__}.{event}"
                warnings.warn(f"callback {name}: {type(error).__name__}: {error}", stacklevel=2)

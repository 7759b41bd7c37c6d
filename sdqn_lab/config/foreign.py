"""Where a config names code: the one place that knows what a stored config may do."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdqn_lab.checks.refused import Refused, short
from sdqn_lab.config.schema import CHOOSING, GROUPS

NAMES_CLASS = frozenset(GROUPS) - {"protocol", "budget", *CHOOSING}
"""The only places of a config that name a class."""
OWN_CODE = "sdqn_lab."


def unfit_keys(node: Mapping[Any, Any] | Sequence[Any], prefix: str = "") -> Iterator[Refused]:
    """Keys that are for Hydra's `instantiate`, which never gets the config of a run.

    A class is named by `_target_` in the groups of `NAMES_CLASS`; whatever lies deeper is data.
    """
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        name = f"{prefix}{key}"
        if str(key).startswith("_") and not (key == "_target_" and prefix[:-1] in NAMES_CLASS):
            rule = "a class is named by GROUP._target_ alone; leave it out"
            yield Refused(f"{name}={short(value)}", None, rule)
        elif isinstance(value, dict | list):
            yield from unfit_keys(value, f"{name}.")


def outside_code(cfg: Any) -> dict[str, str]:
    """Keys of a config that name code from outside this package, with their values.

    Gymnasium imports the module that stands before the colon of an id.
    """
    named = {f"{group}._target_": str(cfg[group]["_target_"]) for group in sorted(NAMES_CLASS)}
    found = {key: value for key, value in named.items() if not value.startswith(OWN_CODE)}
    game = str(cfg["env"]["id"])
    return found | ({"env.id": game} if ":" in game else {})

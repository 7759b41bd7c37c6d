"""Schema of the closed settings, and the way from words on a command line to one validated config.

Compose -> resolve -> validate. Everything wrong is collected and raised as one ``ConfigError`` with a
line for each problem (key, value, rule, what to write), before any directory exists.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab.envs.atari import REFUSED
from sdqn_lab.envs.atari import games as atari_games
from sdqn_lab.envs.minatar import GAMES as MINATAR_GAMES
from sdqn_lab.validation import ConfigError, validate

PACKAGE = Path(__file__).resolve().parent
GROUPS = (
    *("neuron", "surrogate", "norm", "encoder", "readout", "network", "env", "protocol"),
    *("algo", "budget", "tracker", "experiment", "sweep"),
)
NEUTRAL = frozenset(
    {"choices", "device", "threads", "health", "tracker", "hydra", "checkpoint_every_minutes"}
    | {"keep_state"}
)
"""Root keys that cannot change a number: they take no part in a cell's name."""


@dataclass
class Env:
    """Which game, and what its family brings along."""

    _target_: str = MISSING
    id: str = MISSING
    """The game, by its emulator's own id."""
    observation_scale: float = MISSING
    """Networks see observations divided by this (255 for byte images, 1 for binary planes)."""
    log_every_steps: int = MISSING
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    """What budget=smoke, short and full mean for this family."""
    dqn: dict[str, Any] = field(default_factory=dict)
    """What algo=dqn takes from this family."""


@dataclass
class Protocol:
    """How the game is played and scored."""

    sticky_actions: float = MISSING
    """Probability in [0, 1) that the emulator repeats the previous action."""
    noop_max: int = MISSING
    """An episode starts with 1 to so many no-ops (raw frames); 0: none."""
    fire_reset: bool = MISSING
    """Press FIRE once at the start of a game that needs it."""
    life_loss_ends_bootstrap: bool = MISSING
    """A lost life has discount 0 in learning; the game itself goes on."""
    reward_clipping: bool = MISSING
    """Learning sees the sign of the reward; scores are never clipped."""
    episode_cap_frames: int = MISSING
    """Episodes are truncated after so many emulator frames."""
    full_action_space: bool = MISSING
    """All actions of the console instead of the game's minimal set."""
    difficulty_ramping: bool = MISSING
    """MinAtar: the game gets harder while it is played."""
    epsilon_eval: float = MISSING
    """Exploration in evaluation, in [0, 1]."""
    eval_episodes: int = MISSING
    """Episodes an evaluation, each in an environment of its own."""


@dataclass
class Algo:
    """Q-learning: targets, optimizer, replay, exploration."""

    double: bool = MISSING
    """Double DQN: the online network chooses the bootstrap action."""
    gamma: float = MISSING
    """Discount per agent step, in [0, 1]."""
    n_step: int = MISSING
    """Length of multi-step returns, in agent steps."""
    loss: str = MISSING
    """mse or huber, mean over the batch."""
    optimizer: str = MISSING
    """adam or adamw."""
    learning_rate: float = MISSING
    weight_decay: float = MISSING
    adam_eps: float = MISSING
    max_grad_norm: float | None = MISSING
    """Clip the gradient's L2 norm to this; null: no clipping."""
    batch_size: int = MISSING
    """Transitions an update."""
    num_envs: int = MISSING
    """Environments stepped together."""
    learn_every_steps: int = MISSING
    """One update per so many agent steps, over all environments."""
    target_update_every_updates: int = MISSING
    """Period of the target network's copy, in updates."""
    target_ema: float = MISSING
    """1: hard copy with the period above; below 1: soft update after every update."""
    replay_capacity_steps: int = MISSING
    replay_start_steps: int = MISSING
    """Agent steps before the first update."""
    replay_device: str = MISSING
    """cpu, or device: where replay's frames live."""
    epsilon_begin: float = MISSING
    epsilon_end: float = MISSING
    epsilon_decay_steps: int = MISSING
    """Agent steps of the linear decay from begin to end."""
    iteration_steps: int = MISSING
    """Agent steps of an iteration: train, evaluate, checkpoint. Environments start anew at each."""


@dataclass
class Budget:
    """The size of a run."""

    steps: int = MISSING
    """Agent steps (decisions), over all environments."""
    log_every_steps: int = MISSING


@dataclass
class Config:
    """The root. Open groups (``Any``) are checked against their class's signature instead."""

    neuron: Any = MISSING
    surrogate: Any = MISSING
    norm: Any = MISSING
    encoder: Any = MISSING
    readout: Any = MISSING
    network: Any = MISSING
    env: Env = field(default_factory=Env)
    protocol: Protocol = field(default_factory=Protocol)
    algo: Algo = field(default_factory=Algo)
    budget: Budget = field(default_factory=Budget)
    tracker: Any = MISSING
    time_window: int = MISSING
    """T, simulation steps per decision, >= 1."""
    time_window_eval: int | None = MISSING
    seed: int = MISSING
    """>= 0; 0 is a seed."""
    device: str = MISSING
    threads: int | None = MISSING
    health: str = MISSING
    checkpoint_every_minutes: float = MISSING
    """Minutes between checkpoints inside an iteration; one is made at each iteration's end anyway."""
    keep_state: bool = MISSING
    """Keep replay and optimizer of a finished run, so that a larger budget.steps can extend it."""
    choices: dict[str, str | None] = field(default_factory=dict)
    """Which option each group took; filled in when composing."""


def _folder(name: str) -> Path:
    """``conf`` and ``sweeps`` lie in the wheel's package, or beside it in a source tree."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def conf_dir() -> Path:
    """The folder that holds ``config.yaml`` and the groups."""
    return _folder("conf")


def register() -> None:
    """Put the schema, the generated games, the sweeps and the resolvers where Hydra finds them."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for game in atari_games():
        _store_game(game, "_atari", game)
    for game in MINATAR_GAMES:
        _store_game(f"minatar_{game}", "_minatar", game)
    for file in sorted(_folder("sweeps").glob("*.yaml")):
        node = OmegaConf.load(file)
        store.store(group="sweep", name=file.stem, node=node, package="_global_")
    OmegaConf.register_new_resolver("cell_name", _cell_name_resolver, replace=True)
    OmegaConf.register_new_resolver("sweep_name", _sweep_name_resolver, replace=True)


def _store_game(name: str, family: str, game: str) -> None:
    node = {"defaults": [family, "_self_"], "id": game}
    ConfigStore.instance().store(group="env", name=name, node=node)


def compose(overrides: list[str]) -> DictConfig:
    """Compose, resolve and validate: the same config as the command line would make.

    Args:
        overrides: Hydra overrides, one value a key, e.g. ``["norm=none", "env=pong", "seed=3"]``.

    Returns:
        The read-only, resolved config; ``choices`` maps each group to its option.

    Raises:
        ConfigError: everything wrong with it, a line each.
    """
    cfg = resolved(compose_raw(overrides))
    validate(cfg)
    return cfg


def resolved(cfg: DictConfig) -> DictConfig:
    """A read-only copy of a composed config: choices filled in, Hydra's own node gone, no references left.

    Raises:
        ConfigError: a reference leads nowhere, or a required value is missing.
    """
    choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if key in GROUPS}
    plain = OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"])
    OmegaConf.update(plain, "choices", choices)
    try:
        OmegaConf.resolve(plain)
    except OmegaConfBaseException as error:
        raise ConfigError([_first_line(error)]) from error
    missing = sorted(OmegaConf.missing_keys(plain))
    if missing:
        raise ConfigError([f"{key}: a value is required: write {key}=..." for key in missing])
    OmegaConf.set_readonly(plain, True)
    return plain


def compose_raw(overrides: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    """Compose with Hydra's own node, unresolved; Hydra's errors become a ``ConfigError``.

    Args:
        overrides: Hydra overrides; those that sweep are left out of a multirun's config.
        mode: a single run, or what the cells of a multirun have in common.
    """
    parsed = parse(overrides)
    with _hydra_free() as loader:
        try:
            return loader.load_configuration("config", overrides, run_mode=mode)
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError([_explain(error, parsed)]) from error


def parse(overrides: list[str]) -> list[Override]:
    """Parse overrides and refuse what Hydra would misread in silence.

    Raises:
        ConfigError: not an override, or several options for one group.
    """
    parser = OverridesParser.create()
    try:
        parsed = parser.parse_overrides(overrides)
    except (OverrideParseException, HydraException) as error:
        line = f"not an override: {_first_line(error)}; write key=value"
        raise ConfigError([line]) from error
    lists = [o for o in parsed if o.key_or_group in GROUPS and isinstance(o.value(), list | dict)]
    if lists:
        raise ConfigError([_list_problem(override) for override in lists])
    return parsed


def expand(overrides: list[str]) -> list[list[str]]:
    """One list of overrides a cell, in Hydra's own order: the product of all swept values."""
    batches = BasicSweeper.split_arguments(parse(overrides), max_batch_size=None)
    return [list(cell) for batch in batches for cell in batch]


@contextmanager
def _hydra_free() -> Iterator[ConfigLoader]:
    """Compose also inside a running Hydra job, whose global state is put back afterwards."""
    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield instance.config_loader()
    finally:
        # Leaving, Hydra puts a copy of the state back as it was found: empty.
        GlobalHydra.instance().hydra = outer


def identity(cfg: DictConfig) -> dict[str, Any]:
    """Everything that can change a number, and nothing else.

    Under a neuron without time the time window and the surrogate mean nothing and are left out, so
    that cells which differ only there are one cell.
    """
    keys = [key for key in cfg if key not in NEUTRAL]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    assert isinstance(plain, dict)
    for key in ("sizes", "dqn"):
        plain["env"].pop(key)
    for group in (plain["env"], plain["budget"]):
        group.pop("log_every_steps")
    plain["algo"].pop("replay_device")
    if not _temporal(plain["neuron"]["_target_"]):
        for key in ("time_window", "time_window_eval", "surrogate"):
            plain.pop(key)
    return {str(key): value for key, value in plain.items()}


@lru_cache
def _temporal(target: str) -> bool:
    from hydra.utils import get_class

    return bool(get_class(target).temporal)  # type: ignore[attr-defined]


def flat_identity(cfg: DictConfig) -> dict[str, Any]:
    """``identity`` as one level: dotted key -> value."""

    def flatten(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict):
            yield prefix, node
            return
        for key, value in node.items():
            yield from flatten(f"{prefix}.{key}" if prefix else str(key), value)

    return dict(flatten("", identity(cfg)))


def cell_name(cfg: DictConfig, choices: dict[str, str]) -> str:
    """Readable axes, seed, and a short hash of everything that can change a number.

    For example ``pong_lif_popnorm_atan_T16_seed0_1f2e3d4c``.
    """
    what = identity(cfg)
    env = choices["env"] if choices["env"] != "gymnasium" else _slug(cfg.env.id)
    words = [env, choices["neuron"], choices["norm"]]
    if "surrogate" in what:
        words += [choices["surrogate"], f"T{cfg.time_window}"]
    return "_".join([*words, f"seed{cfg.seed}", _digest(what)])


def sweep_name(overrides: list[str], choices: dict[str, str | None]) -> str:
    """The name of the file in ``sweeps/``, or the swept keys with a hash of the whole grid."""
    named = choices.get("sweep")
    if named:
        return named
    counting = [o for o in parse(overrides) if o.key_or_group.split(".")[0] not in NEUTRAL]
    swept = [o.key_or_group for o in counting if o.is_sweep_override()]
    return "_".join([*map(_slug, swept), _digest(sorted(o.input_line or "" for o in counting))])


def _cell_name_resolver(*, _root_: DictConfig) -> str:
    return cell_name(_root_, _root_.hydra.runtime.choices)


def _sweep_name_resolver(*, _root_: DictConfig) -> str:
    return sweep_name(list(_root_.hydra.overrides.task), _root_.hydra.runtime.choices)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


def _list_problem(override: Override) -> str:
    group, value = override.key_or_group, override.get_value_string()
    options = value.strip("[]")
    return (
        f"{group}={value}: a group takes one option, of this list Hydra would keep the last; "
        f"write -m {group}={options} to run each"
    )


def _explain(error: Exception, overrides: list[Override]) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error)
    cause = error.__cause__ or error
    key = getattr(cause, "full_key", None)
    if not key:
        return _first_line(error)
    value = next((o.get_value_string() for o in overrides if o.key_or_group == key), None)
    subject = key if value is None else f"{key}={value}"
    message = _first_line(cause)
    if "not in" not in message:
        return f"{subject}: {message}"
    return f"{subject}: {_unknown_key(key, overrides)}"


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    options = [name for name in error.options or [] if not name.startswith("_")]
    if option in REFUSED and group == "env":
        return f"env={option}: a game for two, which ends the emulator's process; choose another game"
    close = difflib.get_close_matches(option, options, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{group}={option}: no such option; {hint}options: {', '.join(options)}"


def _unknown_key(key: str, overrides: list[Override]) -> str:
    """Name the option that lacks the key, and the keys it has."""
    parent, _, name = key.rpartition(".")
    choosing = [o.input_line or "" for o in overrides if o.key_or_group in GROUPS]
    with _hydra_free() as loader:
        try:
            cfg = loader.load_configuration("config", choosing, run_mode=RunMode.RUN)
        except (HydraException, OmegaConfBaseException):
            return "no such key"
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig):
        return "no such key"
    option = cfg.hydra.runtime.choices.get(parent)
    keys = [str(k) for k in node if not str(k).startswith("_") and k not in ("hydra", "choices")]
    close = difflib.get_close_matches(name, keys, n=1)
    where = f"option {option} of {parent} has no key {name}" if option else f"no key {name}"
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{where}; {hint}keys: {', '.join(keys) or 'none'}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


register()

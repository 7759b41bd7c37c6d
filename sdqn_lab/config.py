"""Schema of the closed settings, and the way from a command line's words to one validated config.

Compose -> resolve -> validate. Everything wrong is collected and raised as one ``ConfigError`` with
a line for each problem (key, value, rule, what to write), before any directory exists.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab.envs.atari import REFUSED
from sdqn_lab.envs.atari import games as atari_games
from sdqn_lab.envs.minatar import GAMES as MINATAR_GAMES
from sdqn_lab.tracking.upgrade import upgraded
from sdqn_lab.validation import (
    ConfigError,
    alternatives,
    check_plugins,
    outside_code,
    short,
    unfit_keys,
    validate,
)

PACKAGE = Path(__file__).resolve().parent
GROUPS = (
    *("neuron", "surrogate", "norm", "encoder", "readout", "network", "env", "protocol"),
    *("algo", "budget", "tracker", "experiment", "sweep"),
)
CHOOSING = ("experiment", "sweep")
"""Groups whose files choose options of the others; they may be null."""
NEUTRAL = frozenset(
    {"choices", "device", "threads", "health", "tracker", "hydra", "checkpoint_every_minutes"}
    | {"keep_state"}
)
"""Root keys that cannot change a number: they take no part in a cell's name."""
SIZES = "_sizes_"
"""Where an `algo` file keeps values by family and budget, for its arguments to refer to."""


@dataclass
class Env:
    """Which game, and what its family brings along."""

    _target_: str = MISSING
    id: str = MISSING
    """The game, by its emulator's own id."""
    observation_scale: float = MISSING
    """Networks see observations divided by this (255 for byte images, 1 for binary planes)."""
    log_every_steps: int = MISSING
    threads: int | None = None
    """CPU threads that pay for networks of this family; null: as many as there are."""
    family: str = MISSING
    """Under which an algorithm finds its sizes: atari, minatar, classic, or one of your own."""
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    """What budget=smoke, short and full mean for this family."""


@dataclass
class Protocol:
    """How the game is played and scored."""

    sticky_actions: float = MISSING
    """Probability in [0, 1) that the emulator repeats the previous action."""
    noop_max: int = MISSING
    """An episode starts with up to so many no-ops (raw frames); 0: none."""
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
class Budget:
    """The size of a run."""

    steps: int = MISSING
    """Agent steps (decisions), over all environments."""
    log_every_steps: int = MISSING
    size: str = MISSING
    """smoke, short or full: under which an algorithm and a family find their sizes."""


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
    algo: Any = MISSING
    budget: Budget = field(default_factory=Budget)
    tracker: Any = MISSING
    time_window: int = MISSING
    """T, simulation steps per decision, >= 1."""
    time_window_eval: int | None = MISSING
    """T in evaluation and play; null: time_window."""
    backend: str = MISSING
    """auto, fused or reference: forms of the neurons' equations, equal to rounding."""
    precision: str = MISSING
    """float32, or bf16 for the linear maps of all blocks."""
    seed: int = MISSING
    """>= 0; 0 is a seed."""
    device: str = MISSING
    threads: int | None = MISSING
    health: str = MISSING
    checkpoint_every_minutes: float = MISSING
    """Minutes between checkpoints inside an iteration; its end makes one anyway."""
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
    """A read-only copy of a composed config: choices filled in, Hydra's node and references gone.

    Raises:
        ConfigError: a reference leads nowhere, or a required value is missing.
    """
    choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if key in GROUPS}
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    if unfit := [*_base_files(choices), *_foreign_keys(plain)]:
        raise ConfigError(unfit)
    OmegaConf.update(plain, "choices", choices)
    if missing := list(_missing(OmegaConf.to_container(plain, resolve=False))):
        raise ConfigError([f"{key}: a value is required; write {key}=VALUE" for key in missing])
    try:
        OmegaConf.resolve(plain)
    except OmegaConfBaseException as error:
        raise ConfigError(list(_dangling(plain)) or [_first_line(error)]) from error
    if isinstance(plain.algo, DictConfig):
        plain.algo.pop(SIZES, None)  # its values are in the arguments now
    OmegaConf.set_readonly(plain, True)
    return plain


def _base_files(choices: dict[str, str | None]) -> list[str]:
    """A file whose name begins with an underscore is what options are made from."""
    return [
        f"{group}={option}: a base that options are made from, no option itself; "
        f"write {group}=OPTION with one of: {', '.join(_options(group))}"
        for group, option in choices.items()
        if option and option.startswith("_")
    ]


def _foreign_keys(cfg: DictConfig) -> list[str]:
    """Hydra lets a plus add any key to the root, where nothing would ever read it."""
    known = [f.name for f in fields(Config) if f.name != "choices"]
    return [
        f"{key}={cfg[key]}: no key {key}; {alternatives(key, known)}"
        for key in map(str, cfg)
        if key not in (*known, "choices")
    ]


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys without a value; those that refer to one of them are not counted."""
    if node == MISSING:
        yield prefix
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{prefix}.{key}".lstrip("."))


def _dangling(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """A line for each reference that leads nowhere."""
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    for key in map(str, node):
        if OmegaConf.is_interpolation(node, key):
            try:
                node[key]
            except OmegaConfBaseException as error:
                full = prefix + key
                yield f"{full}={raw[key]}: {_first_line(error)}; write {full}=VALUE"
        elif isinstance(raw[key], dict):
            yield from _dangling(node[key], f"{prefix}{key}.")


class Composer:
    """Composes many cells: what a set of chosen options gives by itself is composed only once.

    Hydra reads every file anew for each cell. Here the options' config is kept, and the plain
    values are set on a copy by Hydra's own function, so that both ways give equal configs.
    """

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose_raw(self, overrides: list[str]) -> DictConfig:
        """Like the function of that name, for one cell."""
        parsed = parse(overrides)
        choosing = [o for o in parsed if _chooses(o)]
        options = tuple(_lines(choosing))
        try:
            if options not in self._bases:
                self._bases[options] = compose_raw(list(options))
            cfg = copy.deepcopy(self._bases[options])
            values = [o for o in parsed if o not in choosing]
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except (ConfigError, HydraException, OmegaConfBaseException):
            return compose_raw(overrides)  # which knows what to say
        _note_overrides(cfg, parsed)
        return cfg


def _chooses(override: Override) -> bool:
    key = override.key_or_group
    return key in GROUPS or "/" in key or "@" in key or key == "hydra.searchpath"


def _note_overrides(cfg: DictConfig, parsed: list[Override]) -> None:
    """Hydra's own record of what was written, which names of directories may refer to."""
    task = [o for o in parsed if not o.is_hydra_override()]
    cfg.hydra.overrides.task = _lines(task)
    cfg.hydra.overrides.hydra = _lines(o for o in parsed if o.is_hydra_override())
    form = cfg.hydra.job.config.override_dirname
    cfg.hydra.job.override_dirname = get_overrides_dirname(
        task, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys
    )


def compose_raw(overrides: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    """Compose with Hydra's own node, unresolved; Hydra's errors become a ``ConfigError``.

    Args:
        overrides: Hydra overrides; those that sweep are left out of a multirun's config.
        mode: a single run, or what the cells of a multirun have in common.
    """
    kept, problems = parse(overrides), list[str]()
    with _hydra_free() as loader:
        while True:
            try:
                cfg = loader.load_configuration("config", _lines(kept), run_mode=mode)
                break
            except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
                problems.append(_explain(error, kept))
                # Without the override at fault the next problem comes to light.
                wrong = [o for o in kept if problems[-1].startswith(f"{o.input_line}: ")]
                if not wrong or wrong[0].key_or_group in GROUPS:
                    raise ConfigError(problems) from error
                kept = [o for o in kept if o not in wrong]
    if problems:
        raise ConfigError([*problems, *_other_problems(cfg)])
    return cfg


def _other_problems(cfg: DictConfig) -> list[str]:
    """What is wrong besides the overrides that were left out to get this config."""
    try:
        validate(resolved(cfg))
    except ConfigError as error:
        return error.problems
    return []


def _lines(overrides: Iterable[Override]) -> list[str]:
    return [override.input_line or "" for override in overrides]


def parse(overrides: list[str]) -> list[Override]:
    """Parse overrides and refuse what Hydra would misread in silence.

    Raises:
        ConfigError: not an override, or not one option for one group.
    """
    parsed, problems = [], []
    for line in overrides:
        try:
            override = _parsed(line)
        except (OverrideParseException, HydraException):
            problems.append(f"{line}: not an override; write key=value")
            continue
        parsed.append(override)
        if problem := _override_problem(override):
            problems.append(f"{line}: {problem}")
    if problems:
        raise ConfigError(problems)
    return parsed


@lru_cache(maxsize=4096)
def _parsed(line: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([line])
    return override


def _override_problem(override: Override) -> str | None:
    key = override.key_or_group
    if not key:
        return "the key is missing; write key=value"
    if override.is_delete():
        return f"nothing can be taken away; write {key}={'OPTION' if key in GROUPS else 'VALUE'}"
    return _choice_problem(override) if key in GROUPS else None


def _choice_problem(override: Override) -> str | None:
    """A group takes the name of one option."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, list | dict):
        options = override.get_value_string().strip("[]") or "OPTION"
        return (
            "a group takes one option, of a list Hydra would keep the last; "
            f"write -m {key}={options} to run each"
        )
    if override.is_add() or override.is_force_add():
        return f"a group is chosen without a plus; write {key}={override.get_value_string()}"
    may_be_null = value is None and key in CHOOSING
    if override.is_sweep_override() or isinstance(value, str) or may_be_null:
        return None
    return f"no option; write {key}=OPTION with one of: {', '.join(_options(key))}"


def expand(overrides: list[str]) -> list[list[str]]:
    """One list of overrides a cell, in Hydra's own order: the product of all swept values.

    Raises:
        ConfigError: an override is none, or sweeps over what cannot be counted.
    """
    with _hydra_free() as loader:
        return [list(cell) for cell in product(*(_values(o, loader) for o in parse(overrides)))]


def _values(override: Override, loader: ConfigLoader) -> list[str]:
    """The override for each of its values; a single one where it does not sweep."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        fault = "an interval has no values to run, only a sweeper that searches takes it"
        raise ConfigError([f"{override.input_line}: {fault}; write {key}=VALUE,VALUE or range()"])
    override.config_loader = loader  # glob() asks it for the options of a group
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError([f"{override.input_line}: fits no option; write {key}=OPTION"])
    return [f"{key}={value}" for value in values]


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


def stored_data(file: Path) -> DictConfig:
    """A run's ``config.yaml`` as plain values: nothing that it names is imported or looked up.

    Raises:
        ConfigError: damaged, of something else, or more than data.
    """
    try:
        plain = OmegaConf.to_container(OmegaConf.create(file.read_text()), resolve=False)
        if not isinstance(plain, dict):
            raise ValueError("no keys with values")
        plain = upgraded({str(key): value for key, value in plain.items()})
        unfit = [*unfit_keys(plain), *_references(plain)]
    except Exception as error:  # whatever a damaged or foreign file may cause
        raise _no_config(file, error) from error
    if unfit:
        raise ConfigError([f"{file}: {problem}" for problem in unfit])
    return OmegaConf.create(plain)


def stored_config(file: Path, trust: bool) -> DictConfig:
    """A run's ``config.yaml``, typed again by the schema; the one door for those that are acted on.

    A run directory may come from anywhere, so its config is data: it may name classes of this
    package, if they are of the kind that their group stands for, and those of other packages,
    whose import alone runs code, only if the user says so. The user's own words need no such
    permission: neither a command's overrides, nor the cells of a multirun, which the launchers
    start with ``--trust`` after writing what was composed, or comparing it with what is stored.

    Args:
        file: the config.
        trust: the user has written ``--trust`` or ``trust=True``.

    Raises:
        ConfigError: damaged, of something else, more than data, a class of another kind, or code
            of others without trust.
    """
    cfg = stored_data(file)
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), cfg)
        assert isinstance(typed, DictConfig)
        if missing := sorted(OmegaConf.missing_keys(typed)):
            raise ValueError(f"no value for {', '.join(missing)}")
        outside = outside_code(typed)
    except Exception as error:
        raise _no_config(file, error) from error
    if outside and not trust:
        raise ConfigError(
            [
                f"{key}={short(value)}: {file} names code from outside sdqn_lab, and opening the "
                "run would run it; write --trust (sdqn_lab.load: trust=True) if you know it"
                for key, value in outside.items()
            ]
        )
    check_plugins(typed)
    return typed


def _no_config(file: Path, error: Exception) -> ConfigError:
    reason = short((str(error) or type(error).__name__).splitlines()[0])
    return ConfigError([f"{file}: not the config of a run ({reason}); put the file back"])


def _references(node: dict[Any, Any] | list[Any], prefix: str = "") -> Iterator[str]:
    """A run stores what references led to; one that is there could read what is not the run's."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        name = f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _references(value, f"{name}.")
        elif isinstance(value, str) and "${" in value:
            yield f"{name}={short(value)}: a stored config holds no references; write the value"


def resume_command(path: Path, cfg: DictConfig) -> str:
    """What continues a run; the user who began it knows the classes that it names."""
    trust = " --trust" if outside_code(cfg) else ""
    return f"python -m sdqn_lab.run --resume {path}{trust}"


def identity(cfg: DictConfig) -> dict[str, Any]:
    """Everything that can change a number, and nothing else.

    Under a neuron without time the time window and the surrogate mean nothing and are left out, so
    that cells which differ only there are one cell.
    """
    keys = [str(key) for key in cfg if key not in NEUTRAL]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    assert isinstance(plain, dict)
    for key in ("family", "sizes", "threads", "log_every_steps"):
        plain["env"].pop(key)
    plain["budget"].pop("size")
    plain["algo"].pop("replay_device", None)
    if plain["time_window_eval"] == plain["time_window"]:
        plain["time_window_eval"] = None
    if not _temporal(plain["neuron"]["_target_"]):
        for key in ("time_window", "time_window_eval", "surrogate", "backend"):
            plain.pop(key)
    return {str(key): _canonical(value) for key, value in plain.items()}


def _canonical(value: Any) -> Any:
    """One form for one number: tau=2 and tau=2.0 are the same cell."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def difference(stored: DictConfig, asked: DictConfig) -> str | None:
    """The first key in which two configs are not the same cell, with both values; None if they are.

    A config that lacks keys, or has others, counts as different. Only classes that ``asked`` names
    are looked up.
    """
    had, wanted = stored.neuron._target_, asked.neuron._target_
    if had != wanted:
        return f"neuron._target_={had}, not {wanted}"
    before, after = flat_identity(stored), flat_identity(asked)
    for key in (*after, *before):
        if before.get(key, MISSING) != after.get(key, MISSING):
            return f"{key}={before.get(key, MISSING)}, not {after.get(key, MISSING)}"
    return None


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


def _explain(error: Exception, overrides: list[Override]) -> str:
    """One line for one of Hydra's, OmegaConf's or YAML's exceptions."""
    if isinstance(error, yaml.MarkedYAMLError):
        return _broken_file(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error, overrides)
    # What happens in a file is told in a text alone: where, then what, then the full key.
    text = str(error)
    file = re.match(r"In '(\w+)/(\w+)': ", text)
    source = f"{file[1]}={file[2]}: " if file else ""
    cause = error.__cause__ or error
    found = re.search(r"full_key: (\S+)", text)
    key = getattr(cause, "full_key", None) or (found[1] if found else "")
    if not key:
        return source + _unknown_group(text, overrides)
    given = next((o for o in reversed(overrides) if o.key_or_group == key), None)
    details = [line for line in str(cause).splitlines() if line and not line.startswith("In '")]
    message = details[0] if details else type(cause).__name__
    if source or given is None:
        quoted = re.match(r"Value '(.*?)' ", message)
        subject = f"{source}{key}={quoted[1]}" if quoted else f"{source}{key}"
    else:
        subject = given.input_line or key
    if "not in" in message:
        return f"{subject}: {_unknown_key(key, overrides)}"
    return f"{subject}: {_type_problem(key, message, overrides)}"


def _broken_file(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
    return f"{where}: not YAML ({error.problem}); mend the file"


def _unknown_option(error: MissingConfigException, overrides: list[Override]) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    subject = f"{group}={option}"
    if subject not in [o.input_line for o in overrides] and not any(
        o.key_or_group == group and o.is_sweep_override() for o in overrides
    ):
        files = _lines(o for o in overrides if o.key_or_group in (*CHOOSING, "env"))
        subject = f"{' or '.join(files) or 'config.yaml'}: {subject}"
    if option in REFUSED and group == "env":
        return (
            f"{subject}: a game for two, which ends the emulator's process; "
            "write env=pong or another game for one"
        )
    options = _options(group, bases=option.startswith("_"))
    return f"{subject}: no such option; {alternatives(option, options, 'options')}"


def _unknown_group(text: str, overrides: list[Override]) -> str:
    """Hydra found no key to name: a group that is not there, or a plus before a key that is."""
    if found := re.search(r"Could not override '(.*?)'", text):
        name = found[1]
        given = next((line for line in _lines(overrides) if line.startswith(f"{name}=")), name)
        return f"{given}: no group {name}; {alternatives(name, GROUPS, 'groups')}"
    if found := re.search(r"An item is already at '(.*?)'", text):
        given = next(o.input_line or "" for o in overrides if o.key_or_group == found[1])
        return f"{given}: {found[1]} has a value already; write {given.lstrip('+')}"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "cannot be composed")
    given = next((o.input_line for o in overrides if str(o.value()) in line), None)
    return f"{given}: {line}; write key=value" if given else line


def _unknown_key(key: str, overrides: list[Override]) -> str:
    """Name the option that lacks the key, and the keys it has."""
    parent, _, name = key.rpartition(".")
    if key in CHOOSING:
        return "the file must begin with the line # @package _global_"
    cfg = _without_keys(overrides)
    node = OmegaConf.select(cfg, parent) if cfg and parent else cfg
    schema = _annotation(parent) if parent else Config
    if cfg is not None and isinstance(node, DictConfig):
        option = cfg.hydra.runtime.choices.get(parent)
        keys = [str(k) for k in node if not str(k).startswith("_")]
    elif is_dataclass(schema):
        option, keys = None, [f.name for f in fields(schema)]
    else:
        return f"no key {name}; write a key that is there"
    where = f"option {option} of {parent} has no key {name}" if option else f"no key {name}"
    return f"{where}; {alternatives(name, [k for k in keys if k not in ('hydra', 'choices')])}"


TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def _type_problem(key: str, message: str, overrides: list[Override]) -> str:
    """Say which type a closed setting has, and a value that it can take."""
    expected = _annotation(key)
    kinds = get_args(expected) or (expected,)
    names = [TYPES[kind] for kind in kinds if kind in TYPES]
    if not names:
        return f"{message}; write a value of that kind"
    if NoneType in kinds:
        names.append("null")
    quoted = re.match(r"Value '(.*?)' ", message)
    whole = _whole(quoted[1]) if quoted and int in kinds else None
    example = _default(key, overrides) if whole is None else f"{whole}"
    return f"must be {' or '.join(names)}; write {key}={example}"


def explain_value(override: Override, error: Exception) -> str:
    """The line for an override whose value the schema refuses."""
    problem = _type_problem(override.key_or_group, _first_line(error), [])
    return f"{override.input_line}: {problem}"


def _annotation(key: str) -> Any:
    """The type that the schema gives a dotted key."""
    node: Any = Config
    for part in key.split("."):
        node = get_type_hints(node).get(part) if is_dataclass(node) else None
    return node


def _whole(text: str) -> int | None:
    """1e7 is meant as ten million."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _default(key: str, overrides: list[Override]) -> str:
    cfg = _without_keys(overrides)
    value = OmegaConf.select(cfg, key) if cfg else None
    return json.dumps(value).strip('"') if isinstance(value, int | float | str) else "VALUE"


def _without_keys(overrides: list[Override]) -> DictConfig | None:
    """The config that the chosen options give by themselves."""
    choosing = [o for o in overrides if _chooses(o) and not o.is_sweep_override()]
    plain = [o for o in choosing if o.key_or_group not in CHOOSING]
    conf = conf_dir()
    return _composed(conf, tuple(_lines(choosing))) or _composed(conf, tuple(_lines(plain)))


@lru_cache
def _composed(conf: Path, overrides: tuple[str, ...]) -> DictConfig | None:
    with _hydra_free() as loader:
        try:
            return loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError):
            return None


def _options(group: str, bases: bool = False) -> list[str]:
    """The options of a group, or the files that they are made from."""
    with _hydra_free() as loader:
        options: list[str] = loader.get_group_options(group, ObjectType.CONFIG)
    return [option for option in options if option.startswith("_") == bases]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


register()

"""Pages made from the code: every key of the config, and what each command answers to `--help`."""

import ast
import contextlib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from itertools import pairwise, product
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from unittest.mock import patch

import yaml
from omegaconf import OmegaConf

from sdqn_lab import bench, export, play, report, sweep
from sdqn_lab.checks.ranges import OneOf, range_of
from sdqn_lab.commands import help as run_help
from sdqn_lab.config.plugins import HANDED, PLUGINS
from sdqn_lab.config.schema import CHOOSING, GROUPS, Budget, Config, Env, conf_dir, folder
from sdqn_lab.envs.base import Protocol

DEVIATIONS = Path(__file__).resolve().parents[1] / "DEVIATIONS.md"
CLOSED: Mapping[str, type] = {"env": Env, "protocol": Protocol, "budget": Budget}
LAUNCHER = "hydra.launcher"
FAMILIES = ("atari", "minatar", "classic", "continuous")
BUDGETS = ("full", "short", "smoke")
SOURCE = re.compile(r" ?\(((?:[^()]*(?:: |\bours|\bas |et al|\d{4}|[A-Z])[^()]*))\)$")
"""In the comment of a key: its source, in brackets at the end."""
ROW = re.compile(r"^\| (\d+) \| (.*)$", re.MULTILINE)


@dataclass
class Key:
    """One key of an option's file: its value as written, and the comment that stands with it."""

    value: str
    comment: str = ""


@dataclass
class Option:
    """A file of a group, with those that it is made from.

    Attributes:
        head: the comment at its beginning.
        keys: those of its bases and its own, without references to other files.
        node: the same as plain values, `_sizes_` included.
    """

    name: str
    head: str = ""
    keys: dict[str, Key] = field(default_factory=dict)
    node: dict[str, Any] = field(default_factory=dict)


@cache
def key_pages() -> dict[str, str]:
    """Path in the site -> text: a page for each group."""
    pages = {"launcher": _launcher_page()}
    for group in GROUPS:
        pages[group] = _choices_page(group) if group in CHOOSING else _group_page(group)
    return {f"reference/keys/{name}.md": text for name, text in pages.items()}


def commands() -> str:
    """What each command answers to `--help`."""
    mains = {"report": report.main, "sweep": sweep.main, "play": play.main}
    mains |= {"export": export.main, "bench": bench.main}
    shown = {"run": run_help.HEAD}
    for name, main in mains.items():
        parts = [[]] if name != "sweep" else [[], ["status"], ["relaunch"], ["cancel"], ["sync"]]
        shown[name] = "\n".join(_help(main, part) for part in parts)
    text: list[str] = []
    for name, answer in shown.items():
        text += ["", f"## `python -m sdqn_lab.{name}`", "", "```text", answer.rstrip(), "```"]
    return "\n".join(text)


def anchored(markdown: str) -> str:
    """The page of deviations with an anchor at each row."""
    return ROW.sub(r'| <span id="deviation-\1">\1</span> | \2', markdown)


def _help(main: Callable[[list[str]], int], argv: list[str]) -> str:
    """A command's help, 100 columns wide."""
    text = io.StringIO()
    wide = patch.dict(os.environ, {"COLUMNS": "100"})
    with wide, contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*argv, "--help"])
    return text.getvalue()


def root_keys() -> str:
    """A table of the keys that belong to no group."""
    described, hints = _attributes(Config), get_type_hints(Config, include_extras=True)
    option = _option(conf_dir() / "config.yaml")
    names = [name for name in hints if name not in (*GROUPS, "choices", "cells")]
    return "\n".join(_table(option, names, hints, described, ""))


def groups() -> str:
    """Links to the pages of the groups."""
    links = [f"- [`{group}`](keys/{group}.md)" for group in GROUPS]
    return "\n".join([*links, "- [`hydra.launcher`](keys/launcher.md)"])


def _group_page(group: str) -> str:
    """The options of a group, and the keys of each."""
    if group == "env":
        options = [_option(conf_dir() / group / f"_{family}.yaml") for family in FAMILIES]
        for option in options:
            option.name = option.name.removeprefix("_") + " (family)"
    else:
        files = sorted((conf_dir() / group).glob("[!_]*.yaml"))
        options = [_option(file) for file in files]
    text = [f"# `{group}`", "", f"`{group}=OPTION` chooses one, `{group}.KEY=VALUE` sets a key."]
    if group == "env":
        text += ["A game takes the keys of its family. Games: see [Axes](../axes.md)."]
    for option in options:
        text += ["", *_option_text(group, option)]
    return "\n".join(text)


def _option_text(group: str, option: Option) -> Iterator[str]:
    """Heading, description and table of one option."""
    cls = CLOSED.get(group) or _located(option.node["_target_"])
    hints = get_type_hints(cls if group in CLOSED else cls.__init__, include_extras=True)
    described = _attributes(cls) if group in CLOSED else _arguments(cls)
    shown = "family" in option.name
    yield f"## `{option.name}`" if shown else f"## `{group}={option.name}`"
    yield ""
    yield option.head
    if group in PLUGINS and group != "env":
        yield f"Class: [`{cls.__name__}`][{cls.__module__}.{cls.__qualname__}]."
    if rows := _deviations(rf"`{group}={option.name}`"):
        yield f"Deviations from its source: {rows}."
    yield ""
    handed = HANDED.get(group, frozenset())
    names = [n for n in option.keys if n in hints and n not in handed and not n.startswith("_")]
    if names:
        yield from _table(option, names, hints, described, group)
    if sizes := _sizes(option) if group == "algo" else []:
        yield from ["", "By family and budget (full / short / smoke):", "", *sizes]


def _choices_page(group: str) -> str:
    """Experiments and sweeps: files that choose options and set values."""
    text = [
        f"# `{group}`",
        "",
        f"`{group}=NAME`. Each is a file that chooses options of other groups.",
    ]
    for file in sorted(folder("sweeps" if group == "sweep" else "conf/experiment").glob("*.yaml")):
        option = _option(file)
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        text += ["", f"## `{group}={option.name}`", "", option.head, ""]
        text += ["```yaml", *lines, "```"]
    return "\n".join(text)


def _launcher_page() -> str:
    """The launchers' keys."""
    text = [
        "# `hydra.launcher`",
        "",
        "`hydra/launcher=NAME` chooses one; see [SLURM](../../SLURM.md).",
    ]
    for file in sorted((conf_dir() / "hydra" / "launcher").glob("*.yaml")):
        option = _option(file)
        cls = _located(option.node["_target_"])
        hints = get_type_hints(cls.__init__, include_extras=True)
        text += ["", f"## `hydra/launcher={option.name}`", "", option.head, ""]
        text += _table(
            option, [n for n in option.keys if n in hints], hints, _arguments(cls), LAUNCHER
        )
    return "\n".join(text)


def _table(
    option: Option,
    names: list[str],
    hints: Mapping[str, Any],
    described: Mapping[str, str],
    group: str,
) -> list[str]:
    """A row for each key."""
    rows = ["| key | type and range | default | meaning | source, notes |", "|---|---|---|---|---|"]
    for name in names:
        found = option.keys.get(name, Key(""))
        key = f"{group}.{name}" if group else name
        default = "by family and budget" if "_sizes_" in found.value else f"`{found.value}`"
        meaning, source = described.get(name, ""), found.comment
        if meaning and (match := SOURCE.search(source)):
            source = match[1]
        if numbers := _deviations(rf"`{re.escape(key)}(?:=[^`]*)?`"):
            source = f"{source}; deviation {numbers}".removeprefix("; ")
        cells = [
            f"`{key}`",
            _typed(hints[name]),
            default,
            meaning or source,
            source if meaning else "",
        ]
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return rows


PLAIN: Mapping[Any, str] = {
    **{int: "whole number", float: "number", bool: "true or false", str: "text", Any: "any"},
}


def _typed(hint: Any) -> str:
    """An annotation in plain English."""
    inside = [each for each in get_args(hint) if each is not Ellipsis]
    if get_origin(hint) is Annotated:
        if options := next((each for each in inside if isinstance(each, OneOf)), None):
            return _one_of(options)
        bounds = range_of(hint).removeprefix("must ").removeprefix("be ").removeprefix("lie ")
        return f"{_typed(inside[0])}, {bounds}" if bounds else _typed(inside[0])
    if get_origin(hint) is Literal:
        return _one_of("false" if each is False else each for each in inside)
    if get_origin(hint) in (Union, UnionType):
        parts = [_typed(each) for each in inside if each is not NoneType]
        return " or ".join([*parts, *(["null"] if NoneType in inside else [])])
    if len(inside) == 1:
        return f"list ({_typed(inside[0])})"
    return "mapping" if inside else PLAIN[hint]


def _one_of(options: Iterable[str]) -> str:
    return "one of " + ", ".join(f"`{each}`" for each in options)


def _sizes(option: Option) -> list[str]:
    """What an algorithm's keys are worth in each family and under each budget."""
    keys = [name for name, key in option.keys.items() if "_sizes_" in key.value]
    if not keys:
        return []
    values = dict[tuple[str, str], Any]()
    families = [family for family in FAMILIES if family in option.node["_sizes_"]]
    for family, budget in product(families, BUDGETS):
        around = {"env": {"family": family}, "budget": {"size": budget, "steps": "`budget.steps`"}}
        algo = OmegaConf.create({"algo": option.node, **around}).algo
        values |= {(name, family): (*values.get((name, family), ()), algo[name]) for name in keys}
    rows = [f"| key | {' | '.join(families)} |", f"|---{'|---' * len(families)}|"]
    for name in keys:
        cells = [" / ".join(map(_number, _once(values[name, family]))) for family in families]
        rows.append(f"| `algo.{name}` | {' | '.join(cells)} |")
    return rows


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A value that is the same under every budget stands once."""
    return values[:1] if len(set(values)) == 1 else values


def _number(value: Any) -> str:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if whole else "null" if value is None else str(value)


@cache
def _option(file: Path) -> Option:
    """A file with its bases of the same folder."""
    text = file.read_text()
    option = Option(file.stem)
    data = yaml.safe_load(text) or {}
    for base in data.pop("defaults", []):
        if isinstance(base, str) and base != "_self_" and (file.parent / f"{base}.yaml").exists():
            found = _option(file.parent / f"{base}.yaml")
            option.keys |= found.keys
            option.node = _merged(option.node, found.node)
    lines = text.splitlines()
    head = []
    for line in lines:
        if not line.startswith("# ") or line.startswith("# @package"):
            if head or not line.startswith("#"):
                break
            continue
        command = line.removeprefix("# ")
        head.append(f"`{command}`" if command.startswith("python ") else command)
    option.head = "  \n".join(_code_names(line) for line in head)
    option.keys |= _keys(lines)
    option.node = _merged(option.node, data)
    return option


def _code_names(line: str) -> str:
    """A comment as prose: keys and options in it as code."""
    return line if line.startswith("`") else re.sub(r"(?<![`\w])([\w./]+=[\w./]+)", r"`\1`", line)


def _keys(lines: list[str]) -> dict[str, Key]:
    """Top-level keys of a YAML file, with the comment above each or behind it."""
    keys, above = dict[str, Key](), ""
    for line in lines:
        if line.startswith("# "):
            above = line[2:]
        elif match := re.match(r"(\w+):\s*(.*?)\s*(?:#\s*(.*))?$", line):
            name, value, behind = match[1], match[2], match[3]
            keys[name] = Key(
                value.replace("_", "") if value[:1].isdigit() else value, behind or above
            )
            above = ""
        else:
            above = ""
    keys.pop("defaults", None)
    return keys


def _merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = OmegaConf.merge(OmegaConf.create(one), OmegaConf.create(other))
    plain = OmegaConf.to_container(merged, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _located(target: str) -> type:
    module, _, name = target.rpartition(".")
    found = getattr(import_module(module), name)
    assert isinstance(found, type)
    return found


def _attributes(cls: type) -> dict[str, str]:
    """What the strings behind a dataclass's fields say."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for line, behind in pairwise(definition.body):
        match line, behind:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(
                value=ast.Constant(value=str(text))
            ):
                found[name] = " ".join(text.split())
    return found


def _arguments(cls: type) -> dict[str, str]:
    """What the `Args:` of a class and its bases say, the nearest one first."""
    found: dict[str, str] = {}
    for each in cls.__mro__:
        text = inspect.cleandoc(each.__doc__ or "")
        body = re.search(r"^Args:\n((?:    .*\n?|\n(?=    ))*)", text, re.MULTILINE)
        for name, said in re.findall(
            r"^    (\w+): (.*(?:\n {5,}.*)*)", body[1] if body else "", re.M
        ):
            # A symbol of the equations alone says nothing in a table.
            if not said.startswith("see `") and len(said) > 2:
                found.setdefault(name, " ".join(said.split()).rstrip("."))
    return found


def _deviations(pattern: str) -> str:
    """Links to the rows of DEVIATIONS.md that name something."""
    numbers = [
        number for number, row in ROW.findall(DEVIATIONS.read_text()) if re.search(pattern, row)
    ]
    return ", ".join(f"[{n}](/DEVIATIONS.md#deviation-{n})" for n in numbers)

"""The arguments of `python -m sdqn_lab.run`: Hydra's flags, anywhere, and its overrides."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.commands.shell import Parser, program
from sdqn_lab.config.overrides import SEARCH_PATH

INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
UNFIT = ("--config-path", "--config-name", "--experimental-rerun")
"""Flags of Hydra that would run another config than the one that is validated."""


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """Read a command line; `--config-dir` becomes the override that means the same.

    Raises:
        ConfigError: a flag that is none, or does not fit.
    """
    parser = Parser(prog=program("run"), add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("overrides", nargs="*")
    add("--help", "-h", action="store_true", help="options of every group, and the config")
    add("--multirun", "-m", action="store_true", help="one cell per combination of swept values")
    add("--run", "-r", action="store_true", help="a single run, which is the default")
    add("--cfg", "-c", choices=("job", "hydra", "all"), help="show the config, run nothing")
    add("--resolve", action="store_true", help="with --cfg: show what references lead to")
    add("--package", "-p", help="with --cfg: show this part alone")
    add("--info", "-i", nargs="?", const="all", choices=INFO, help="show what Hydra found where")
    add("--config-dir", "-cd", nargs="?", const="", help="a folder with options of your own")
    add("--hydra-help", action="store_true", help="Hydra's own flags")
    add("--version", action="store_true", help="Hydra's version")
    add("--shell-completion", "-sc", action="store_true", help="docs/how-to/shell-completion.md")
    for flag in UNFIT:
        add(flag, nargs="?", const="", help=argparse.SUPPRESS)
    # Intermixed: flags may stand behind overrides, which Hydra's own parser refuses.
    args, unknown = parser.parse_known_intermixed_args(argv)
    problems = [
        Refused(word, None, "no such flag", "--help for those that are there") for word in unknown
    ]
    for flag in UNFIT:
        if getattr(args, flag[2:].replace("-", "_")) is not None:
            problems.append(Refused(flag, None, "this command has one config of its own"))
    # As an override it travels with the cells; the flag would end with this process.
    if args.config_dir is not None:
        if not args.config_dir or not Path(args.config_dir).is_dir():
            shown = f"--config-dir {args.config_dir}".rstrip()
            problems.append(Refused(shown, None, "no such directory", "--config-dir DIR"))
        elif any(line.startswith(f"{SEARCH_PATH}=") for line in args.overrides):
            rule = f"is a {SEARCH_PATH} of one; write both directories there"
            problems.append(Refused("--config-dir", None, rule))
        path = str(Path(args.config_dir).resolve()).replace("'", r"\'")
        args.overrides.insert(0, f"{SEARCH_PATH}=['file://{path}']")
    if problems:
        raise ConfigError(problems)
    return args


def flags(args: argparse.Namespace) -> list[str]:
    """Those flags by which Hydra only shows something, as Hydra reads them; empty for a run."""
    if args.cfg:
        package = ["--package", args.package] if args.package else []
        return ["--cfg", args.cfg, *package, *(["--resolve"] if args.resolve else [])]
    if args.info:
        return ["--info", args.info]
    plain = ("hydra_help", "version", "shell_completion")
    return [f"--{name.replace('_', '-')}" for name in plain if getattr(args, name)]

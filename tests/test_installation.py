"""What a user installs: wheel, console script, locked versions, and what may be absent."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sdqn_lab.__main__ import COMMANDS, main
from sdqn_lab.checks import extras
from sdqn_lab.config import validation
from sdqn_lab.envs.atari import games
from tests.commands import Answer, refused
from tests.launching.sweeps import TINY
from tests.refusals import refuses

REPO = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
pytestmark = pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")
PINS = [
    Requirement(line)
    for line in (REPO / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
]


@pytest.fixture
def script(carry_out, monkeypatch) -> Callable[..., Answer]:
    """The console script, in this process."""

    def command(*given: str) -> Answer:
        def called(argv: list[str]) -> int:
            monkeypatch.setattr(sys, "argv", ["/somewhere/bin/sdqn-lab", *argv])
            try:
                return main()
            except SystemExit as leaving:
                return leaving.code

        return carry_out(called, *given)

    return command


@pytest.fixture
def without(monkeypatch) -> Callable[[str], None]:
    """Take a package away."""

    def take(module: str) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        validation._probed_env.cache_clear()

    yield take
    validation._probed_env.cache_clear()


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a process that finds the wheel before this source tree."""
    from hatchling.build import build_wheel

    folder, before = tmp_path_factory.mktemp("wheel"), Path.cwd()
    os.chdir(REPO)
    try:
        wheel = folder / build_wheel(str(folder))
    finally:
        os.chdir(before)
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--target", target, wheel], check=True)
    return {
        **os.environ,
        "PYTHONPATH": str(target),
        "PATH": f"{target / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "NUMBA_DISABLE_JIT": "1",  # machine code of another place would be made anew
    }


def answer(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_runs_a_sweep_and_reports_it_from_an_empty_directory(installed):
    # Without replay, whose kernels need numba.
    own = ["algo=reinforce", "backend=reference", "budget=smoke", "budget.steps=100"]
    own += ["hydra.sweep.dir=sweep"]
    own += [line for line in TINY if not line.startswith(("algo.", "budget."))]
    shown = answer(installed, "sdqn-lab", "run", "-m", "seed=0", *own)
    assert shown.count("finished") == 1
    assert str(REPO) not in Path("sweep/ledger.json").read_text()
    answer(installed, "sdqn-lab", "report", "sweep")
    assert Path("report/index.html").exists()


def test_the_wheel_holds_all_configs_and_sweeps_and_the_launchers(installed):
    inside = Path(installed["PYTHONPATH"])
    for folder in ("conf", "sweeps"):
        own, there = REPO / folder, inside / "sdqn_lab" / folder
        files = {path.relative_to(own) for path in own.rglob("*.yaml")}
        assert {path.relative_to(there) for path in there.rglob("*.yaml")} == files
    assert (inside / "hydra_plugins" / "sdqn_lab" / "launchers.py").exists()


@pytest.mark.parametrize("given", [(), ("--help",)])
def test_the_console_script_alone_lists_the_commands(script, given):
    shown = script(*given)
    assert shown.code == 0
    for command in COMMANDS:
        assert f"\n  sdqn-lab {command} " in shown.out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_how_the_command_was_called(script, command):
    shown = script(command, "--help")
    assert shown.code == 0
    assert f"sdqn-lab {command} " in shown.out
    assert f"python -m sdqn_lab.{command} " not in shown.out.split("\n\n")[0]


@pytest.mark.parametrize(
    ("given", "code"), [("run neuron=lfi", 2), ("sweep status nowhere", 2), ("play nowhere", 2)]
)
def test_the_console_script_has_the_exit_codes_of_its_commands(script, given, code):
    assert script(*given.split()).code == code


def test_an_unknown_command_is_refused_with_those_that_there_are(script):
    refused(script("reprot"), "error: reprot: no such command; did you mean report?")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", [*COMMANDS]),
        ("re", ["report"]),
        ("run neuron=pl", ["neuron=plif"]),
        ("run env=cartpole -m neuron=plif neuron.ta", ["neuron.tau="]),
        ("run --resume ", []),
        ("report ", []),
    ],
)
def test_a_shell_completes_commands_options_and_keys(script, monkeypatch, line, words):
    monkeypatch.setenv("COMP_LINE", f"sdqn-lab {line}")
    assert script("-sc", "query=bash").out.split() == words


@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="completion for bash, which is not here")
def test_bash_takes_what_is_printed_for_it(script):
    printed = script("run", "-sc", "install=bash").out
    shown = subprocess.run(
        ["/bin/bash", "-c", f"{printed}\ncomplete -p sdqn-lab"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hydra_bash_completion sdqn-lab" in shown.stdout


def test_completion_is_refused_to_python_m_which_no_shell_completes(single):
    single("-sc", "install=bash").refuses(
        "--shell-completion install=bash", 'write eval "$(sdqn-lab run -sc install=bash)"'
    )


@pytest.mark.parametrize(
    ("module", "overrides", "line"),
    [
        ("ale_py", ["env=pong"], "env.id: needs the package ale-py | [atari]"),
        ("minatar", ["env=minatar_breakout"], "env.id: needs the package MinAtar | [minatar]"),
        (
            "wandb",
            ["env=cartpole", "tracker=wandb"],
            "tracker=wandb: needs the package wandb | [wandb]' or tracker=none",
        ),
        (
            "tensorboard",
            ["env=cartpole", "tracker=tensorboard"],
            "tracker=tensorboard: needs the package tensorboard | [tensorboard]' or tracker=none",
        ),
    ],
)
def test_what_is_not_installed_is_refused_by_the_extra_that_brings_it(
    single, without, module, overrides, line
):
    without(module)
    refused(single(*overrides), f"error: {line}")


def test_cartpole_needs_neither_emulators_nor_wandb(single, without):
    for module in ("ale_py", "minatar", "wandb", "tensorboard"):
        without(module)
    assert single(*TINY).code == 0
    assert {"pong", "breakout"} <= set(games())


@pytest.mark.parametrize(
    "extra", [each for each in vars(extras).values() if isinstance(each, extras.Extra)]
)
def test_an_extra_that_a_refusal_names_brings_the_package(extra):
    names = {Requirement(line).name for line in EXTRAS[extra.name]}
    assert extra.package in names


def test_a_folder_called_as_a_package_does_not_stand_for_it(tmp_path, monkeypatch):
    (tmp_path / "some_package").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with refuses("tracker", None, "pip install 'sdqn_lab[some]'", "not installed"):
        extras.Extra("some", "some_package", "some").demand("tracker")


@pytest.mark.parametrize("extra", ["atari", "minatar"])
def test_what_is_installed_by_default_and_by_an_extra_is_one_requirement(extra):
    assert set(EXTRAS[extra]) <= set(PROJECT["dependencies"])


def test_every_requirement_has_a_locked_version_that_it_allows():
    """Where this fails, `make lock` mends it."""
    asked = [line for group in (PROJECT["dependencies"], *EXTRAS.values()) for line in group]
    for requirement in map(Requirement, asked):
        if requirement.name == PROJECT["name"]:
            continue
        name = canonicalize_name(requirement.name)
        pins = [pin for pin in PINS if canonicalize_name(pin.name) == name]
        assert pins, requirement
        for pin in pins:
            (version,) = pin.specifier
            assert requirement.specifier.contains(version.version, prereleases=True), requirement


def test_the_lock_holds_names_and_versions_and_no_places():
    for pin in PINS:
        assert pin.url is None
        assert not pin.extras
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin

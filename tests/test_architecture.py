"""The order of the rooms: imports flow one way, and other frameworks stay in their rooms."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sdqn_lab"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = {
    "checks": set(),
    "runs": set(),
    "spiking": {"checks"},
    "envs": {"checks"},
    "networks": {"checks", "spiking"},
    "engines": {"spiking", "networks"},
    "agents": {"checks", "envs", "networks", "spiking", "engines"},
    "tracking": {"checks", "runs"},
    "assembly": {"checks", "agents", "engines", "envs", "networks", "spiking"},
}
SCIENCE = {"checks", "runs", "spiking", "envs", "networks", "engines", "agents", "tracking"} | {
    "assembly"
}
LAYERS |= {
    "config": SCIENCE,
    "training": SCIENCE | {"config"},
    "analysis": {"checks", "runs", "envs", "tracking", "launching"},
    "launching": {"checks", "runs", "agents", "tracking", "assembly", "config", "commands"},
    "watching": SCIENCE | {"config", "training", "analysis"},
    "exporting": SCIENCE | {"config", "training", "analysis", "watching"},
    "benchmarks": SCIENCE | {"config", "training"},
    "commands": SCIENCE | {"config"},
}
"""What each room may import; entry points may import all of them, and no room an entry point."""
ENTRY_POINTS = {
    "__init__",
    "__main__",
    "build",
    "run",
    "sweep",
    "report",
    "play",
    "export",
    "bench",
}
KNOWS_HYDRA = {
    "assembly",
    "config",
    "training",
    "watching",
    "exporting",
    "launching",
    "benchmarks",
    "commands",
    "run",
}
MAX_CHAIN, MAX_LINES = 10, 45
"""Modules that import each other in a row; lines of a function's body."""
LOOKS_AT_CELLS_ONLY = ("ledger", "observe", "processes", "queue", "table", "task")


@cache
def imports(module: Path) -> set[str]:
    return imported(ast.parse(module.read_text()))


def imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported_with(module: Path) -> set[Path]:
    """Modules of the package that are imported as soon as this one is."""
    tree = ast.parse(module.read_text())
    for node in ast.walk(tree):
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if for_types or isinstance(node, ast.FunctionDef):
            node.body = []
    paths = [PACKAGE.parent.joinpath(*name.split(".")) for name in imported(tree)]
    files = {path.with_suffix(".py") for path in paths} | {path / "__init__.py" for path in paths}
    return files & set(MODULES) - {module}


@cache
def chain(module: Path) -> int:
    return 1 + max(map(chain, imported_with(module)), default=0)


def room(module: Path) -> str:
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_report_knows_of_launching_what_a_ledger_and_its_cells_say_alone():
    found = {name for module in MODULES if room(module) == "analysis" for name in imports(module)}
    modules = {name.split(".")[2] for name in found if name.startswith("sdqn_lab.launching.")}
    assert modules == {"ledger", "observe"}


def test_every_room_has_its_layer():
    assert {room(module) for module in MODULES} == set(LAYERS) | ENTRY_POINTS


def test_imports_flow_one_way():
    for module in MODULES:
        if room(module) not in ENTRY_POINTS:
            inner = {name.split(".")[1] for name in imports(module) if name.startswith("sdqn_lab.")}
            assert inner <= LAYERS[room(module)] | {room(module)}, module


def test_chains_of_imports_are_short():
    assert max(map(chain, MODULES)) <= MAX_CHAIN


def test_functions_are_short():
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.FunctionDef):
                first, *rest = node.body
                begin = first.end_lineno + 1 if rest and ast.get_docstring(node) else first.lineno
                lines = node.end_lineno + 1 - begin
                assert lines <= MAX_LINES, f"{module}: {node.name} has {lines} lines"


def test_hydra_is_known_to_the_composition_root_and_entry_points_alone():
    for module in MODULES:
        roots = {name.split(".")[0] for name in imports(module)}
        assert room(module) in KNOWS_HYDRA or not roots & {"hydra", "omegaconf"}, module


@pytest.mark.parametrize("name", LOOKS_AT_CELLS_ONLY)
def test_what_starts_and_watches_cells_reads_their_files_and_composes_nothing(name):
    found = imports(PACKAGE / "launching" / f"{name}.py")
    assert not {one.split(".")[0] for one in found} & {"hydra", "omegaconf"}
    inner = {one.split(".")[1] for one in found if one.startswith("sdqn_lab.")}
    assert inner <= {"launching", "tracking", "runs"}


def test_wandb_is_known_to_its_writers_alone():
    for module in MODULES:
        roots = {name.split(".")[0] for name in imports(module)}
        known = module.name in ("wandb.py", "wandb_report.py")
        assert known or not roots & {"wandb", "wandb_workspaces"}, module

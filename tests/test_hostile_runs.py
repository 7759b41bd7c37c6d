"""A run directory from anywhere is data: opening it runs nothing, and nothing reaches out of it."""

import csv
import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_method
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

import sdqn_lab
from sdqn_lab import play, run, sweep
from sdqn_lab.checks.refused import ConfigError
from sdqn_lab.report import main as report
from sdqn_lab.runs.directory import RunDirectory
from tests.commands import Answer
from tests.launching.sweeps import KEPT, made_up

MARKER = Path("executed")
VICTIM = Path("victim")
LONGER = "budget.steps=300"
DEEP = "[" * 100_000


class Explosive:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (str(MARKER.absolute()),)


def pickled() -> dict:
    Path("payload.pkl").write_bytes(pickle.dumps(Explosive()))
    return {"filepath_or_buffer": str(Path("payload.pkl").absolute())}


def array() -> dict:
    np.save("payload.npy", np.array([Explosive()], object), allow_pickle=True)
    return {"file": str(Path("payload.npy").absolute()), "allow_pickle": True}


def tensor() -> dict:
    torch.save(Explosive(), "payload.pt")
    return {"f": str(Path("payload.pt").absolute()), "weights_only": False}


def hub() -> dict:
    Path("hub").mkdir()
    Path("hub/hubconf.py").write_text(f"{touching()}\ndef entry():\n    pass\n")
    return {"repo_or_dir": str(Path("hub").absolute()), "model": "entry", "source": "local"}


def script() -> dict:
    Path("payload.py").write_text(touching())
    return {"path_name": str(Path("payload.py").absolute())}


def touching() -> str:
    return f"import pathlib\npathlib.Path({str(MARKER.absolute())!r}).touch()\n"


ATTACKS: dict[str, Callable[[], dict]] = {
    "pandas.read_pickle": pickled,
    "numpy.load": array,
    "torch.load": tensor,
    "torch.hub.load": hub,
    "logging.FileHandler": lambda: {"filename": str(MARKER.absolute())},
    "os.system": lambda: {"command": f"touch {MARKER.absolute()}"},
    "runpy.run_path": script,
    "shutil.rmtree": lambda: {"path": str(VICTIM.absolute())},
}


def executed() -> bool:
    return MARKER.exists() or not VICTIM.exists()


@pytest.fixture(autouse=True)
def victim() -> None:
    VICTIM.mkdir()
    (VICTIM / "thesis.tex").write_text("years")


def changed(path: Path, **groups: object) -> None:
    """Let a run's config say something else; a group that is a dict is merged."""
    stored = yaml.safe_load((path / "config.yaml").read_text())
    for key, value in groups.items():
        kept = stored[key] if isinstance(value, dict) and "_target_" not in value else {}
        stored[key] = {**kept, **value} if isinstance(value, dict) else value
    (path / "config.yaml").write_text(yaml.safe_dump(stored))


@pytest.fixture
def opened(carry_out):
    """Open a run by one of the three ways, each answered as if it were a command."""

    def by(way: str, path: Path, *flags: str) -> Answer:
        if way == "load":
            try:
                sdqn_lab.load(path, trust="--trust" in flags)
            except ConfigError as error:
                return Answer(2, "", "".join(f"error: {line}\n" for line in error.problems))
            return Answer(0, "", "")
        if way == "play":
            return carry_out(play.main, path, "--episodes", 1, *flags)
        return carry_out(run.main, "--resume", path, LONGER, *flags)

    return by


WAYS = ("load", "play", "resume")


@pytest.mark.parametrize("target", ATTACKS)
def test_the_payloads_of_these_tests_would_do_harm(target):
    called = get_method(target) if target != "logging.FileHandler" else logging.FileHandler
    called(**ATTACKS[target]())
    assert executed()


@pytest.mark.parametrize("flags", [(), ("--trust",)], ids=["", "trusted"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("target", ATTACKS)
def test_a_class_below_a_group_is_never_called(target, way, flags, finished, opened):
    payload = {"_target_": target, **ATTACKS[target]()}
    torso = {"_target_": "sdqn_lab.networks.blocks.Torso", "kwargs": payload}
    changed(finished, network=torso)
    opened(way, finished, *flags).refuses(f"network.kwargs._target_={target}", "leave it out")
    assert not executed()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("group", ["tracker", "network", "env"])
@pytest.mark.parametrize("target", ATTACKS)
def test_a_group_takes_no_class_of_another_kind(target, group, way, finished, opened):
    payload = {"_target_": target, **ATTACKS[target]()}
    if group == "env":
        payload = {"_target_": target, "id": "CartPole-v1", "log_every_steps": 1}
        payload |= {"observation_scale": 1.0, "family": "classic"}
    changed(finished, **{group: payload})
    opened(way, finished).refuses(f"{group}._target_={target}", "outside sdqn_lab", "write --trust")
    opened(way, finished, "--trust").refuses(f"{group}._target_={target}", "; write ")
    assert not executed()


@pytest.mark.parametrize(
    ("group", "value", "key"),
    [
        ("neuron", {"_partial_": True}, "neuron._partial_"),
        ("tracker", {"_recursive_": False}, "tracker._recursive_"),
        ("network", {"hidden": [{"_target_": "os.getcwd"}]}, "network.hidden.0._target_"),
        ("env", {"dqn": {"gamma": {"_target_": "os.getcwd"}}}, "env.dqn.gamma._target_"),
        ("algo", {"_args_": [1]}, "algo._args_"),
    ],
)
def test_keys_for_a_class_are_refused_at_any_depth(group, value, key, finished, opened):
    changed(finished, **{group: {**yaml_group(finished, group), **value}})
    opened("resume", finished, "--trust").refuses(f"{key}=")


def yaml_group(path: Path, group: str) -> dict:
    stored: dict = yaml.safe_load((path / "config.yaml").read_text())[group]
    return stored


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${seed}", "x${oc.create:{a:1}}"])
def test_a_stored_reference_is_refused_and_not_followed(text, finished, opened):
    changed(finished, device=text)
    opened("resume", finished).refuses("device=${" if text[0] == "$" else "device=x", "references")


@pytest.mark.parametrize("target", ["sdqn_lab.watching.player.Path", "sdqn_lab.Path"])
def test_what_a_module_of_ours_imported_from_elsewhere_is_not_ours(target, finished, opened):
    changed(finished, tracker={"_target_": target})
    opened("resume", finished).refuses(f"tracker._target_={target}: Path is a class of pathlib")


def test_keyword_arguments_of_any_name_are_no_keys(finished, opened):
    changed(finished, network={"_target_": "sdqn_lab.networks.blocks.Torso", "kwargs": {"a": 1}})
    opened("load", finished).refuses("Torso has no argument kwargs; keys: none")


@pytest.fixture
def downloaded(finished, monkeypatch):
    """A run whose neuron is a module that came with it."""
    home = Path("outputs/downloaded")
    shutil.copytree(finished, home)
    source = "from sdqn_lab.spiking.neuron import LIF\n\n\nclass MyLIF(LIF):\n    pass\n"
    (home / "payload.py").write_text(touching() + source)
    neuron = yaml_group(home, "neuron") | {"_target_": "outputs.downloaded.payload.MyLIF"}
    changed(home, neuron=neuron)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    yield home
    for name in [name for name in sys.modules if name.partition(".")[0] == "outputs"]:
        del sys.modules[name]


@pytest.mark.parametrize("way", WAYS)
def test_a_module_inside_a_run_is_imported_with_trust_alone(way, downloaded, opened):
    answer = opened(way, downloaded)
    answer.refuses("neuron._target_=outputs.downloaded.payload.MyLIF", "write --trust")
    assert not executed()
    assert not any(name.startswith("outputs") for name in sys.modules)


@pytest.mark.parametrize("way", WAYS)
def test_with_trust_it_is_used(way, downloaded, opened):
    # Validation remembers classes by their names, and this module is made anew for each test.
    from sdqn_lab.config import plugins

    plugins._located.cache_clear()
    assert opened(way, downloaded, "--trust").code == 0
    assert MARKER.exists()


@pytest.mark.parametrize("way", WAYS)
def test_an_environment_that_brings_its_module_waits_for_trust(way, finished, opened, monkeypatch):
    Path("bringing.py").write_text(touching())
    monkeypatch.syspath_prepend(str(Path.cwd()))
    monkeypatch.delitem(sys.modules, "bringing", raising=False)
    changed(finished, env={**yaml_group(finished, "env"), "id": "bringing:CartPole-v1"})
    opened(way, finished).refuses("env.id=bringing:CartPole-v1", "write --trust")
    assert not executed()


def test_a_nested_class_on_the_command_line_is_one_line(single):
    answer = single(*KEPT, "+network.kwargs={_target_:os.system,command:ls}")
    answer.refuses("network.kwargs._target_=os.system")


def test_a_tracker_is_something_that_takes_records(single):
    answer = single(*KEPT, "tracker._target_=logging.FileHandler", f"+tracker.filename={MARKER}")
    answer.refuses("FileHandler is no Tracker", "; write ")
    assert not executed()


OWN = """from sdqn_lab.spiking.neuron import LIF


class Own(LIF):
    pass
"""


def shell(module: str, *arguments: str, folder: Path = Path()) -> tuple[int, str]:
    command = [sys.executable, "-m", f"sdqn_lab.{module}", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def multirun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multirun")
    (folder / "mine.py").write_text(OWN)
    overrides = ["neuron._target_=mine.Own", "seed=0,1", "hydra.sweep.dir=sweep", *KEPT]
    code, said = shell("run", "-m", *overrides, folder=folder)
    assert code == 0, said
    return folder


@pytest.fixture
def own_sweep(multirun) -> Path:
    """What a multirun with a class of the user leaves."""
    shutil.copytree(multirun, ".", dirs_exist_ok=True)
    return Path("sweep")


@pytest.mark.slow  # 80 s; own plug-ins in a multirun are tried in test_examples.py
def test_a_users_class_needs_no_trust_in_a_multirun_but_to_go_on_with_it(own_sweep):
    cells = sorted(path for path in own_sweep.iterdir() if path.is_dir())
    RunDirectory(cells[0]).update(state="preempted")
    shutil.rmtree(cells[1])
    code, said = shell("sweep", "relaunch", str(own_sweep))
    assert (code, said.count("neuron._target_=mine.Own: is code from outside")) == (2, 2), said
    code, said = shell("sweep", "relaunch", str(own_sweep), "--trust")
    assert code == 0, said
    assert [RunDirectory(cell).state for cell in cells] == ["finished", "finished"]
    code, said = shell("run", "--resume", str(cells[0]), LONGER)
    Answer(code, "", said).refuses("neuron._target_=mine.Own", "write --trust")
    assert shell("run", "--resume", str(cells[0]), LONGER, "--trust")[0] == 0


def test_a_relaunch_imports_nothing_that_came_with_the_sweep_or_lies_beside_it():
    ledger = made_up(Path("sweep"), {"cell": None})
    for at in ("sweep/payload.py", "beside.py"):
        Path(at).write_text(touching() + OWN)
    for name in ("sweep.payload.Own", "beside.Own"):
        ledger.cells["cell"].overrides = [f"neuron._target_={name}"]
        ledger.write(Path("sweep"))
        code, said = shell("sweep", "relaunch", "sweep")
        Answer(code, "", said).refuses(f"{name}: is code from outside sdqn_lab", "write --trust")
        assert not executed()


@pytest.mark.parametrize("name", ["../victim", "/tmp/victim", ".."])
@pytest.mark.parametrize("verb", ["status", "relaunch", "sync"])
def test_a_ledger_names_no_cells_outside_its_folder(name, verb, carry_out):
    ledger = made_up(Path("sweep"), {"cell": "failed"})
    text = ledger.model_dump_json().replace('"cell"', json.dumps(name))
    Path("sweep/ledger.json").write_text(text)
    carry_out(sweep.main, verb, "sweep").refuses("ledger.json: cells.", "is a path")


def test_a_ledger_has_no_commands_for_a_shell(carry_out):
    settings = {"setup": [f"touch {MARKER}"], "partition": None}
    made_up(Path("sweep"), {"cell": "failed"}, settings=settings, launcher="slurm")
    asked = ("relaunch", "sweep", "hydra.launcher.dry_run=true")
    refusal = carry_out(sweep.main, *asked)
    refusal.refuses("hydra.launcher.setup=", "a shell would run", "write it again")
    assert "a shell would run" not in carry_out(sweep.main, *asked, "--trust").err


@pytest.mark.parametrize("key", ["partition", "account", "qos", "constraint", "exclude", "gres"])
@pytest.mark.parametrize("flags", [(), ("--trust",)], ids=["", "trusted"])
def test_a_ledger_adds_no_lines_to_a_jobs_script(key, flags, capsys):
    settings = {key: f"x\ntouch {MARKER} #"}
    made_up(Path("sweep"), {"cell": "failed"}, settings=settings, launcher="slurm")
    code = sweep.main(["relaunch", "sweep", "hydra.launcher.dry_run=true", *flags])
    answer = Answer(code, *capsys.readouterr())
    answer.refuses(f"hydra.launcher.{key}=", "must be one line")


def test_a_ledger_brings_no_configs_along():
    ledger = made_up(Path("sweep"), {"cell": None})
    ledger.cells["cell"].overrides = ["hydra.searchpath=[file://sweep/conf]", "neuron=own"]
    ledger.write(Path("sweep"))
    Path("sweep/conf/neuron").mkdir(parents=True)
    Path("sweep/conf/neuron/own.yaml").write_text("_target_: sweep.payload.Own\n")
    Path("sweep/payload.py").write_text(touching() + OWN)
    code, said = shell("sweep", "relaunch", "sweep")
    Answer(code, "", said).refuses("hydra.searchpath", "write --trust")
    assert not executed()


def test_a_ledger_names_no_launcher_of_its_own():
    settings = {"_target_": "payload.Launcher", "processes": None, "gpus": None}
    made_up(Path("sweep"), {"cell": "finished"}, settings=settings)
    Path("payload.py").write_text(touching())
    code, said = shell("sweep", "relaunch", "sweep")
    assert code == 0, said
    assert not executed()


LINKED = (
    *("config.yaml", "status.json", "metrics.jsonl", "probe.json", "health.json", "code.diff"),
    *("network_last.safetensors", "network_best.safetensors", "log.txt", ".lock", "checkpoint"),
    *("checkpoint/manifest.json", "checkpoint/state", "checkpoint/replay", "wandb"),
    "checkpoint/.manifest.json.77",
)


def linked(path: Path, name: str) -> Path:
    """Put a file or folder of a run elsewhere, and a link in its place; returns where it is now."""
    folder, _, stem = name.rpartition("/")
    found = sorted((path / folder).glob(f"{stem}*"))
    inside, outside = (found or [path / name])[0], VICTIM / "elsewhere"
    if found:
        shutil.move(inside, outside)
    else:
        outside.write_text("years")
    inside.symlink_to(outside.absolute())
    return inside


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_a_run_is_refused_and_what_it_points_to_stays(name, finished, opened):
    inside = linked(finished, name)
    before = contents(VICTIM), contents(finished)
    opened("resume", finished).refuses(str(inside), "a link")
    if not name.startswith("checkpoint/"):
        opened("load", finished).refuses(inside.name, "a link")
    assert (contents(VICTIM), contents(finished)) == before


def test_a_command_that_meets_a_linked_directory_of_a_run_is_refused(finished, single):
    linked(finished, "metrics.jsonl")
    before = contents(VICTIM)
    single(*KEPT, f"hydra.run.dir={finished}").refuses("metrics.jsonl", "a link")
    assert contents(VICTIM) == before


def test_a_run_may_itself_lie_behind_a_link(finished, opened):
    Path("scratch").symlink_to(finished)
    assert opened("resume", Path("scratch")).code == 0
    assert opened("load", Path("scratch")).code == 0


def test_what_is_not_of_a_checkpoint_stays_in_its_folder(finished):
    folder = finished / "checkpoint"
    foreign = ["notes.txt", "state-1.safetensors.bak", "replay-1.zst", ".snapshot/hourly/x"]
    for name in foreign:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years")
    (folder / "state-77.safetensors").write_bytes(b"half")  # of a save that was cut off
    assert run.main(["--resume", str(finished), LONGER, "keep_state=false"]) == 0
    assert RunDirectory(finished).state == "finished"
    assert sorted(contents(folder)) == sorted(foreign)


@pytest.mark.parametrize("name", ["../outside", "{absolute}", "sub/../../outside"])
def test_a_manifest_names_nothing_outside_its_folder(name, finished, opened):
    outside = finished / "outside"
    (finished / "checkpoint/sub").mkdir()
    manifest = finished / "checkpoint/manifest.json"
    content = json.loads(manifest.read_text())
    shutil.move(finished / "checkpoint" / content["state"]["file"], outside)
    content["state"]["file"] = name.format(absolute=outside)
    manifest.write_text(json.dumps(content))
    opened("resume", finished).refuses("manifest.json: names ", "outside: damaged")
    assert outside.exists()


def test_a_lost_manifest_is_damage_and_no_new_beginning(finished, opened):
    RunDirectory(finished).update(state="preempted")
    (finished / "checkpoint/manifest.json").unlink()
    before = contents(finished)
    answer = opened("resume", finished)
    answer.refuses("manifest.json: missing", "put the file back, or delete", "to run anew")
    assert contents(finished) == before


@pytest.mark.parametrize("which", ["last", "best"])
@pytest.mark.parametrize("place", [-1, -100, 0.5, 0.9])
def test_a_flipped_byte_in_a_network_is_found(place, which, finished, opened):
    file = finished / f"network_{which}.safetensors"
    data = bytearray(file.read_bytes())
    data[place if isinstance(place, int) else int(place * len(data))] ^= 1
    file.write_bytes(data)
    with pytest.raises(ConfigError, match=f"network_{which}.safetensors: not the network"):
        sdqn_lab.load(finished, "last" if which == "last" else "best")


def test_a_network_of_an_earlier_version_has_no_checksum_and_is_read(finished):
    file = finished / "network_last.safetensors"
    ends = json.dumps({"observation_shape": [4], "num_actions": 2})
    file.write_bytes(save_tensors(load_tensors(file.read_bytes()), metadata={"ends": ends}))
    assert sdqn_lab.load(finished).num_actions == 2


DAMAGES = {
    "manifest, no text": ("checkpoint/manifest.json", b"\xff\xfe{}", "not a checkpoint manifest"),
    "manifest, deep": ("checkpoint/manifest.json", DEEP.encode(), "not a checkpoint manifest"),
    "manifest, list": ("checkpoint/manifest.json", b"[1]", "not a checkpoint manifest"),
    "status, deep": ("status.json", DEEP.encode(), "status.json: not valid JSON"),
    "status, no text": ("status.json", b"\xff\xfe{}", "status.json: not valid JSON"),
    "config, deep": ("config.yaml", DEEP.encode(), "config.yaml: not the config of a run"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_file_is_one_line_before_the_run_begins(what, finished, opened):
    name, data, problem = DAMAGES[what]
    (finished / name).write_bytes(data)
    before = contents(finished)
    opened("resume", finished).refuses(problem)
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["status.json", "probe.json", "config.yaml"])
def test_a_report_tells_of_brackets_without_end_in_a_row(name, trained_once, tmp_path):
    for seed in range(2):
        shutil.copytree(trained_once, tmp_path / f"runs/{seed}")
    (tmp_path / "runs/0" / name).write_text(DEEP)
    assert report([str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    rows = (tmp_path / "report/index.html").read_text()
    assert "not valid JSON" in rows if name == "status.json" else f"{name} cannot be read" in rows


def test_a_report_waits_for_no_pipe(trained_once, tmp_path):
    piped = {"1": "status.json", "2": "probe.json", "3": "config.yaml", "4": "metrics.jsonl"}
    for folder in ("whole", *piped):
        shutil.copytree(trained_once, tmp_path / "runs" / folder)
    for folder, name in piped.items():
        (tmp_path / "runs" / folder / name).unlink()
        os.mkfifo(tmp_path / "runs" / folder / name)
    code, said = shell("report", str(tmp_path / "runs"), "--out", str(tmp_path / "report"))
    assert code == 0, said
    with (tmp_path / "report/tables/warnings.csv").open() as file:
        warnings = list(csv.DictReader(file))
    said_of = {row["run"] for row in warnings if "neither a file nor a folder" in row["warning"]}
    assert said_of == set(piped)


BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def test_some_lines_of_yaml_stand_for_no_more_than_they_are(finished, opened, tmp_path):
    config_file = finished / "config.yaml"
    config_file.write_text(BOMB + config_file.read_text())
    for way in WAYS:
        opened(way, finished).refuses("config.yaml: not the config of a run (an alias")
    code, said = shell("report", str(finished), "--out", str(tmp_path / "report"))
    assert (code, said.count("an alias, and a run writes none")) == (2, 1), said


def garbled(lines: bytes) -> bytes:
    return bytes(len(lines))


def one_line_garbled(lines: bytes) -> bytes:
    first, second, *rest = lines.split(b"\n")
    return b"\n".join([first, b"x" * len(second), *rest])


def one_digit_changed(lines: bytes) -> bytes:
    return lines.replace(b'"step": 51', b'"step": 50', 1)


def shortened(lines: bytes) -> bytes:
    return lines[:-30]


METRICS = [
    (garbled, "metrics.jsonl, line 1: not a record"),
    (one_line_garbled, "metrics.jsonl, line 2: not a record"),
    (one_digit_changed, "metrics.jsonl: other lines than"),
    (shortened, "lines are lost"),
]


@pytest.mark.parametrize(("damage", "problem"), METRICS, ids=lambda d: getattr(d, "__name__", ""))
def test_damaged_metrics_are_refused_before_the_run_begins(damage, problem, finished, opened):
    RunDirectory(finished).update(state="preempted")
    file = finished / "metrics.jsonl"
    lines = damage(file.read_bytes())
    assert lines != file.read_bytes()
    file.write_bytes(lines)
    before = contents(finished)
    opened("resume", finished).refuses(problem, "put the file back, or delete", "to run anew")
    assert contents(finished) == before


def test_a_checkpoint_of_an_earlier_version_knows_no_digest_and_goes_on(finished, opened):
    manifest = finished / "checkpoint/manifest.json"
    content = json.loads(manifest.read_text())
    digest = content["facts"].pop("metrics_sha256")
    lines = (finished / "metrics.jsonl").read_bytes()
    assert digest == hashlib.sha256(lines[: content["facts"]["offset"]]).hexdigest()
    manifest.write_text(json.dumps(content))
    assert opened("resume", finished).code == 0
    renewed = json.loads(manifest.read_text())["facts"]
    lines = (finished / "metrics.jsonl").read_bytes()
    assert renewed["metrics_sha256"] == hashlib.sha256(lines[: renewed["offset"]]).hexdigest()


def test_a_sweep_shows_the_steps_of_a_checkpoint_that_is_ahead_of_the_records(capsys):
    made_up(Path("sweep"), {"cell": "preempted", "new": "pending"})
    Path("sweep/cell/checkpoint").mkdir()
    Path("sweep/cell/checkpoint/manifest.json").write_text('{"facts": {"steps": 630}}')
    Path("sweep/new/checkpoint").mkdir()
    Path("sweep/new/checkpoint/manifest.json").write_text(DEEP)
    sweep.main(["status", "sweep", "--json"])
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["steps"] for cell in cells] == [630, 0]

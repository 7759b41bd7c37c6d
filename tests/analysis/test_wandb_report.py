"""Reports for W&B, with the real client: laid out, saved at a loopback server, or refused."""

import shutil
import socket
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from sdqn_lab.analysis import wandb_report
from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.sections.section import Table
from sdqn_lab.analysis.stored_run import Run
from sdqn_lab.analysis.wandb_report import Target, build, logged, parse_target, publish
from sdqn_lab.checks.refused import Refused
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.tracking.sync import sync_run
from sdqn_lab.tracking.wandb import Address
from tests import cells
from tests.analysis.runs import LAYERS, make_run
from tests.tracking import conftest

server, no_account = conftest.server, conftest.no_account

TARGET = Target("me", "study")
GAMES = ("acrobot", "cartpole")
NORMS = ("popnorm", "none")
TABLE = Table("scores", "Scores", "By hand.", pd.DataFrame({"arm": ["a|b"], "score": ["1.5"]}))


@pytest.fixture(scope="session")
def cell(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "cell", "env=cartpole", "time_window=2")


@pytest.fixture
def trained(tmp_path_factory):
    """A run that has really happened."""
    path = tmp_path_factory.mktemp("real") / "cell"
    overrides = ["env=cartpole", "budget=smoke", "tracker=none", "time_window=2", "threads=1"]
    assert cells.run(overrides, path) == 0
    return path


def copied(cell, path, keys):
    """The run under other choices; `keys`: dotted keys of its config."""
    shutil.copytree(cell, path)
    config = yaml.safe_load((path / "config.yaml").read_text())
    for key, value in keys.items():
        *nodes, last = key.split(".")
        node = config
        for name in nodes:
            node = node[name]
        node[last] = value
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def known(path, project="study", entity="me"):
    """As the tracker leaves a run that was logged; the address."""
    address = Address(path.name, f"id-{path.name}", project, entity)
    address.write(path)
    return address


@pytest.fixture
def paths(cell, tmp_path):
    """Two games, two norms, two seeds; nothing of it was logged."""
    return [
        copied(
            cell,
            tmp_path / "norms" / f"{game}_{norm}_seed{seed}",
            {"choices.env": game, "choices.norm": norm, "seed": seed},
        )
        for game in GAMES
        for norm in NORMS
        for seed in (0, 1)
    ]


@pytest.fixture
def study(paths):
    """The same, logged."""
    for path in paths:
        known(path)
    return paths


def compared(paths, **keys):
    return Comparison([Run(path) for path in paths], **keys)


def built(paths, **keys):
    return build(compared(paths, **keys), [TABLE], TARGET, "norms")


def saved(server, report):
    """What the server has of a report."""
    server.projects.add(TARGET)
    publish(report)
    (view,) = server.views
    return view


def texts(view):
    blocks = [block for block in view.spec["blocks"] if block["type"] == "markdown-block"]
    return [block["content"] for block in blocks]


def grids(view):
    return [block["metadata"] for block in view.spec["blocks"] if block["type"] == "panel-grid"]


def panels(grid):
    return [panel["config"] for panel in grid["panelBankSectionConfig"]["panels"]]


def conditions(runset):
    """Section and name of each key, and the values that it may have."""
    assert runset["filters"]["filterFormat"] == "filterV2"
    items = runset["filters"]["filters"]
    assert [item["op"] for item in items] == ["IN"] * len(items)
    assert [item.get("connector") for item in items[1:]] == ["AND"] * (len(items) - 1)
    return {(item["key"]["section"], item["key"]["name"]): item["value"] for item in items}


def found(config, key):
    """What lies under a key of the config as the server stores it."""
    for name in key.split("."):
        config = config[name]
    return config


def upload(path):
    sync_run(RunDirectory(path), print, init_timeout_seconds=5.0, finish_timeout_seconds=5.0)


@pytest.mark.parametrize("text", ["me/study", "my-team/a project", "a.b/c_d"])
def test_a_target_is_an_entity_and_a_project(text):
    assert str(parse_target(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "study", "/study", "me/", "me/study/report", "https://wandb.ai/me/study", "me study"],
)
def test_a_target_of_another_form_is_one_line_that_says_what_to_write(text):
    with pytest.raises(Refused) as caught:
        parse_target(text)
    assert (caught.value.key, caught.value.value) == ("--wandb", text)
    assert caught.value.instead == "ENTITY/PROJECT"


def test_a_report_is_saved_in_its_project_under_its_title_at_its_address(server, study):
    server.projects.add(TARGET)
    address = publish(built(study))
    (view,) = server.views
    assert (view.entity, view.project, view.title, view.type) == ("me", "study", "norms", "runs")
    assert address == f"{server.url}/me/study/reports/norms--view1"


def test_a_reader_learns_what_is_compared(server, study):
    view = saved(server, built(study, against=["norm=none"]))
    facts = "Games: 2; arms: 2; seeds: 2; protocol: plain; baseline: norm=none"
    assert view.description == facts
    lines = texts(view)[0].splitlines()
    assert lines[:4] == [
        "- **Games:** acrobot, cartpole",
        "- **Arms**, distinguished by norm: norm=popnorm; norm=none",
        "- **Baseline:** norm=none",
        "- **Seeds:** 0, 1",
    ]
    assert lines[4].startswith("- **Protocol plain:** ")
    assert "sticky_actions=0.0" in lines[4]


def test_tables_stand_there_as_markdown(server, study):
    assert texts(saved(server, built(study)))[1] == TABLE.markdown()


def test_each_game_has_its_own_runs_in_its_own_panels(server, study):
    for game, grid in zip(GAMES, grids(saved(server, built(study))), strict=True):
        (runset,) = grid["runSets"]
        assert runset["name"] == game
        assert (runset["project"]["entityName"], runset["project"]["name"]) == TARGET
        assert conditions(runset) == {
            ("config", "choices.value.env"): [game],
            ("run", "name"): [f"id-{game}_{norm}_seed{seed}" for norm in NORMS for seed in (0, 1)],
        }
        assert runset["grouping"] == [{"section": "config", "name": "choices.value.norm"}]


def test_panels_show_means_of_arms_with_their_standard_error(server, study):
    for panel in panels(grids(saved(server, built(study)))[0]):
        assert (panel["groupAgg"], panel["groupArea"]) == ("mean", "stderr")
        assert panel["pointVisualizationMethod"] == "sampling"
        assert "groupBy" not in panel, "the run set's grouping holds, which knows all axes"


def test_panels_are_those_of_learning_firing_loss_and_speed_and_do_not_overlap(server, study):
    grid = grids(saved(server, built(study)))[0]
    assert [(panel["xAxis"], *panel["metrics"]) for panel in panels(grid)] == [
        ("step", "eval/return_mean"),
        ("frames", "eval/return_mean"),
        ("step", "train/return"),
        *(("step", f"snn/firing_rate/{layer}") for layer in LAYERS),
        *(("step", f"snn/silent_fraction/{layer}") for layer in LAYERS),
        ("step", "loss/td"),
        ("step", "time/steps_per_second"),
    ]
    places = [panel["layout"] for panel in grid["panelBankSectionConfig"]["panels"]]
    corners = [(place["x"], place["y"]) for place in places]
    assert corners == [(x, y) for y in (0, 6, 12) for x in (0, 8, 16)]
    assert {(place["w"], place["h"]) for place in places} == {(8, 6)}


def test_keys_ids_and_metrics_of_a_report_are_those_of_runs_that_were_really_logged(
    server, trained, tmp_path
):
    choices = [("popnorm", 0), ("popnorm", 1), ("none", 0)]
    paths = [
        copied(trained, tmp_path / f"{norm}{seed}", {"choices.norm": norm, "seed": seed})
        for norm, seed in choices
    ]
    for path in paths:
        upload(path)
    entity, project = "me", "sdqn_lab"
    report = build(compared(paths), [], Target(entity, project), "real")
    publish(report)
    (grid,) = grids(server.views[0])
    (runset,) = grid["runSets"]
    assert (runset["project"]["entityName"], runset["project"]["name"]) == (entity, project)
    ids, game = conditions(runset)["run", "name"], conditions(runset)["config", "choices.value.env"]
    assert sorted(ids) == sorted(server.runs)
    norms = [found(run.config, runset["grouping"][0]["name"]) for run in server.runs.values()]
    assert sorted(norms) == ["none", "popnorm", "popnorm"]
    for run in server.runs.values():
        assert [found(run.config, "choices.value.env")] == game
        keys = {key for record in run.records for key in record}
        assert {key for p in panels(grid) for key in (p["xAxis"], *p["metrics"])} <= keys


def test_every_choice_that_may_tell_arms_apart_is_logged_under_its_key(server, paths):
    upload(paths[0])
    config = server.run().config
    for axis, value in Run(paths[0]).options.items():
        assert found(config, logged(axis)) == (list(value) if isinstance(value, tuple) else value)


def test_several_axes_group_together_choices_and_settings_alike(server, paths, cell, tmp_path):
    other = {"choices.env": "acrobot", "neuron.tau": 3.0, "time_window": 4, "seed": 0}
    paths = [*paths[:4], copied(cell, tmp_path / "norms" / "other", other)]
    for path in paths:
        known(path)
    report = built(paths, by=["norm", "neuron.tau", "time_window"])
    (runset,) = grids(saved(server, report))[0]["runSets"]
    names = ["choices.value.norm", "neuron.value.tau", "time_window.value"]
    assert [key["name"] for key in runset["grouping"]] == names


def test_an_environment_of_ones_own_is_found_by_its_id(server, cell, tmp_path):
    own = {"choices.env": "gymnasium", "env.id": "my_games:Game-v1"}
    path = copied(cell, tmp_path / "own", own)
    known(path)
    (runset,) = grids(saved(server, built([path])))[0]["runSets"]
    assert conditions(runset)["config", "env.value.id"] == ["my_games:Game-v1"]


def test_a_single_arm_is_drawn_run_by_run(server, study):
    view = saved(server, built([path for path in study if "popnorm" in path.name]))
    assert grids(view)[0]["runSets"][0]["grouping"] == []
    assert texts(view)[-1] == "A line is a run."


def test_as_many_lines_are_shown_as_there_are(server, cell, tmp_path):
    paths = [copied(cell, tmp_path / f"seed{i}", {"seed": i}) for i in range(12)]
    for path in paths:
        known(path)
    assert {panel["limit"] for panel in panels(grids(saved(server, built(paths)))[0])} == {12}


def test_runs_of_several_projects_stand_side_by_side(server, paths):
    for path in paths:
        known(path, project="old" if "seed0" in path.name else "study", entity="me")
    server.projects.add(("me", "old"))
    runsets = grids(saved(server, built(paths)))[0]["runSets"]
    assert [runset["project"]["name"] for runset in runsets] == ["old", "study"]
    for runset, seed in zip(runsets, (0, 1), strict=True):
        ids = [f"id-acrobot_{norm}_seed{seed}" for norm in NORMS]
        assert conditions(runset)["run", "name"] == ids


def test_a_run_that_trained_offline_is_looked_for_at_the_reports_entity(server, paths):
    for path in paths:
        known(path, entity=None)
    (runset,) = grids(saved(server, built(paths)))[0]["runSets"]
    assert runset["project"]["entityName"] == "me"


def test_runs_that_were_never_logged_are_counted_and_games_without_any_have_no_panels(
    server, paths
):
    known(paths[0])
    (paths[1] / "wandb").mkdir()
    (paths[1] / "wandb" / "run.json").write_text("{")
    view = saved(server, built(paths))
    (grid,) = grids(view)
    assert conditions(grid["runSets"][0])["run", "name"] == [f"id-{paths[0].name}"]
    away = "runs were never logged to W&B and are missing here;** `python -m sdqn_lab.sweep sync"
    assert f"**3 of 4 {away}" in texts(view)[2]
    assert f"**4 of 4 {away}" in texts(view)[3]


def test_a_title_is_cut_to_what_the_server_takes(server, study):
    report = build(compared(study), [], TARGET, "n" * 200)
    assert saved(server, report).title == "n" * 128


def test_a_layout_needs_neither_key_nor_network(study):
    assert built(study).entity == "me"


FAULTS = {
    "no key": "no API key configured",
    "short key": "wandb login --relogin",
    "wrong key": "wandb login --relogin",
    "broken server": "HTTP 500",
    "closed port": "connection refused",
    "silent server": "exceeded",
    "unknown project": "no project me/study",
    "unknown project of the runs": "no project me/old",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_published_is_one_line(server, study, monkeypatch, capfd, fault):
    monkeypatch.setitem(wandb_report.BOUNDED, "x_graphql_timeout_seconds", 1.0)
    if fault == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    if fault == "short key":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    if fault == "wrong key":
        server.refuse_all_with = 401
    if fault == "broken server":
        server.refuse_all_with = 500
    if fault == "closed port":
        server.die()
    if fault != "unknown project":
        server.projects.add(TARGET)
    if fault == "unknown project of the runs":
        known(study[0], project="old")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if fault == "silent server":
            port = silent.getsockname()[1]
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(Refused) as caught:
            publish(built(study))
    assert caught.value.key == "--wandb me/study"
    assert FAULTS[fault] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert server.views == []
    assert capfd.readouterr() == ("", "")


def test_publishing_says_nothing_and_leaves_no_files(server, study, capfd, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    saved(server, built(study))
    assert capfd.readouterr() == ("", "")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_in_the_environment_does_not_keep_a_report_from_the_server(
    server, study, monkeypatch, mode
):
    monkeypatch.setenv("WANDB_MODE", mode)
    assert saved(server, built(study)).title == "norms"


def test_the_client_is_not_imported_before_a_report_is_built(pytestconfig):
    code = "import sys, sdqn_lab.analysis.wandb_report; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=pytestconfig.rootpath, check=True)

"""The report command on run directories whose every number is known."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sdqn_lab.analysis.figures import Figure
from sdqn_lab.analysis.find import compare
from sdqn_lab.analysis.literature import Result, columns, printed, read
from sdqn_lab.analysis.sections.page import sections
from sdqn_lab.analysis.sections.section import Table
from sdqn_lab.analysis.statistics import Interval
from sdqn_lab.analysis.text import with_interval, with_spread
from sdqn_lab.checks.refused import Refused
from sdqn_lab.launching.ledger import Entry, Ledger
from sdqn_lab.report import main
from tests.analysis.runs import make_run

pytestmark = pytest.mark.xdist_group("report")
ARMS = ("pl_sdqn", "sdqn", "dqn")
GAMES = ("minatar_breakout", "minatar_asterix")
SEEDS = 3


def score(game: str, arm: str, seed: int) -> float:
    """The score that a run ends with; it climbs there linearly."""
    return 4.0 * GAMES.index(game) + 2.0 * ARMS.index(arm) + seed


def make_study(folder: Path, seeds: int = SEEDS) -> Path:
    for game in GAMES:
        for arm in ARMS:
            for seed in range(seeds):
                end = score(game, arm, seed)
                climb = tuple(end * part / 5 for part in range(1, 6))
                arguments = (f"env={game}", f"experiment={arm}", "time_window=4")
                make_run(folder / f"{game}_{arm}_{seed}", *arguments, seed=seed, scores=climb)
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("study") / "sweep")


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    assert main([str(study), "--out", str(out)]) == 0
    return out


def made(*folders: Path, by=None, literature=()) -> tuple[dict[str, Table], dict[str, Figure]]:
    """Every table and every figure by name, without drawing anything to a file."""
    parts = sections(compare(folders, by), literature)
    return (
        {table.name: table for part in parts for table in part.tables},
        {figure.name: figure for part in parts for figure in part.figures},
    )


def data(*folders: Path, literature=()) -> dict[str, list[dict]]:
    """Name -> rows of every table, numbers as they are."""
    return {
        name: (table.shown if table.data is None else table.data).to_dict("records")
        for name, table in made(*folders, literature=literature)[0].items()
    }


def remarks(*folders: Path) -> dict[str, str]:
    """Section -> its remarks."""
    return {part.name: " ".join(part.remarks) for part in sections(compare(folders), [])}


@pytest.fixture
def copy(study, tmp_path):
    return shutil.copytree(study, tmp_path / "sweep")


def rows(out: Path, name: str) -> list[dict[str, str]]:
    with (out / "tables" / f"{name}.csv").open() as file:
        return list(csv.DictReader(file))


def test_scores_are_means_and_deviations_over_seeds(report):
    found = {(row["game"], row["arm"]): row for row in rows(report, "scores")}
    assert len(found) == len(GAMES) * len(ARMS)
    for (game, arm), row in found.items():
        ends = np.array([score(game, arm, seed) for seed in range(SEEDS)])
        assert float(row["last_mean"]) == pytest.approx(ends.mean())
        assert float(row["last_std"]) == pytest.approx(1.0)  # of 0, 1, 2 with n - 1
        assert float(row["best_mean"]) == pytest.approx(ends.mean())
        assert (row["seeds"], row["agent_steps"]) == ("3", "5000")
    breakout = found["minatar_breakout", "dqn"]  # 4 5 6
    assert float(breakout["normalized_mean"]) == pytest.approx((5.0 - 0.366) / (27.76 - 0.366))


def test_aggregates_are_those_of_the_normalized_scores_within_their_intervals(report):
    found = {row["arm"]: row for row in rows(report, "aggregates")}
    breakout = (np.array([4.0, 5.0, 6.0]) - 0.366) / (27.76 - 0.366)
    asterix = (np.array([8.0, 9.0, 10.0]) - 0.493) / (32.22 - 0.493)
    row = found["dqn"]
    assert float(row["mean_estimate"]) == pytest.approx((breakout.mean() + asterix.mean()) / 2)
    middle = np.sort([*breakout, *asterix])[1:-1]  # a quarter of six runs is one at each end
    assert float(row["IQM_estimate"]) == pytest.approx(middle.mean())
    assert float(row["optimality_gap_estimate"]) == pytest.approx(1 - float(row["mean_estimate"]))
    for name in ("IQM", "median", "mean", "optimality_gap"):
        low, middle_, high = (float(row[f"{name}_{end}"]) for end in ("low", "estimate", "high"))
        assert low < middle_ < high


def test_the_probability_of_improvement_is_over_the_dqn(report):
    found = {row["arm"]: float(row["probability_estimate"]) for row in rows(report, "improvement")}
    # sdqn against dqn: 2 3 4 against 4 5 6: of nine pairs one is a tie
    assert found == {"pl_sdqn": 0.0, "sdqn": pytest.approx(0.5 / 9)}


def test_every_run_has_a_row_with_what_is_needed_to_make_it_again(report):
    found = rows(report, "runs")
    assert len(found) == len(GAMES) * len(ARMS) * SEEDS
    first = found[0]
    assert first["sha"] == "01234567"
    assert first["hardware"] == "a processor, 1 thread"
    assert first["protocol"] == "minatar"
    assert float(first["score"]) == score(first["game"], first["arm"], int(first["seed"]))


def test_reference_rows_stand_apart_with_their_own_protocol_and_unread_ones_stay_empty(report):
    (xu,) = (report / "tables").glob("literature-*.csv")  # the others played other games
    found = {row["game"]: row for row in csv.DictReader(xu.open())}
    assert found["minatar_breakout"]["pbLN, T=4"] == "25.03 ± 2.23"
    assert "5M transitions" in xu.with_suffix(".md").read_text()


def test_what_a_paper_printed_of_a_game_and_we_could_not_read_is_an_empty_column(tmp_path):
    make_run(tmp_path / "run", "env=pong")
    tables = made(tmp_path, literature=printed())[0].values()
    (paper,) = [table for table in tables if "Sun et al. 2022" in table.title]
    assert paper.shown.to_dict("records") == [{"game": "pong", "PL-SDQN": "", "DQN": ""}]
    assert "Empty: not known to us; `--literature FILE.csv` fills it." in paper.caption


def test_a_file_fills_what_was_empty(tmp_path):
    own = tmp_path / "own.csv"
    own.write_text(
        "source,protocol,method,game,mean,spread\n"
        "Sun et al. 2022 (Front. Neurosci. 16:953368),as printed,PL-SDQN,pong,12.5,0.5\n"
    )
    make_run(tmp_path / "run", "env=pong")
    tables = data(tmp_path / "run", literature=[*printed(), *read(own)])
    filled = [r for name, rows in tables.items() if name.startswith("literature") for r in rows]
    assert {"game": "pong", "PL-SDQN": "12.5 ± 0.5"} in filled
    assert "" not in [row.get("PL-SDQN") for row in filled]
    assert {"game": "pong", "DQN": "", "PL-SDQN": "in its own table"} not in filled


def test_gaps_that_a_file_leaves_stay_empty_and_named():
    source = "Sun et al. 2022 (Front. Neurosci. 16:953368)"
    own = Result(source, "as printed", "PL-SDQN", "pong", "12.5", "0.5")
    tables = columns([*printed(), own], ["pong", "breakout", "minatar_asterix"])
    of_paper = [table.to_dict("records") for (name, _), table in tables.items() if name == source]
    assert of_paper == [
        [
            {"game": "pong", "PL-SDQN": "in its own table", "DQN": ""},
            {"game": "breakout", "PL-SDQN": "", "DQN": ""},
        ],
        [{"game": "pong", "PL-SDQN": "12.5 ± 0.5"}],
    ]


def test_the_page_is_one_file_that_asks_for_nothing(report):
    page = (report / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|\#)""", page)
    assert not re.findall(r"https?://(?!www\.w3\.org)", page)
    assert page.count("data:image/svg+xml;base64,") == len(list((report / "figures").glob("*.svg")))


def test_every_figure_is_there_as_svg_and_png_and_every_table_as_csv_and_markdown(report):
    names = {path.stem for path in (report / "figures").iterdir()}
    assert {"scores", "aggregates", "improvement", "profiles", "sample-efficiency"} <= names
    assert {"learning-curves", "learning-curves-time", "firing", "firing-over-training"} <= names
    assert {path.name for path in (report / "figures").iterdir()} == {
        f"{name}.{form}" for name in names for form in ("svg", "png")
    }
    tables = {path.stem for path in (report / "tables").iterdir()}
    assert {path.name for path in (report / "tables").iterdir()} == {
        f"{name}.{form}" for name in tables for form in ("csv", "md")
    }


def test_two_varied_axes_get_a_table_each_and_a_heat_map(tmp_path):
    for norm in ("popnorm", "none"):
        for window in (2, 4):
            arguments = (f"norm={norm}", f"time_window={window}")
            make_run(tmp_path / f"{norm}{window}", *arguments, scores=(float(window),) * 5)
    by_window = data(tmp_path)["by-time_window"]
    assert [row["runs"] for row in by_window] == [2, 2]
    expected = [(window - 0.366) / (27.76 - 0.366) for window in (2, 4)]
    assert [row["mean"] for row in by_window] == pytest.approx(expected)
    assert "pair-norm-time_window" in made(tmp_path)[1]


def test_arms_that_an_axis_pools_are_not_drawn_as_if_they_were_seeds(tmp_path):
    for norm, window, seed, end in (
        *(("popnorm", window, seed, 10.0 * window) for window in (2, 4) for seed in (0, 1)),
        *(("none", window, 0, 10.0 * window) for window in (2, 4)),
    ):
        arguments = (f"norm={norm}", f"time_window={window}")
        name = f"{norm}{window}{seed}"
        make_run(tmp_path / name, *arguments, seed=seed, scores=(end,) * 5)
    shown = made(tmp_path)[0]["by-norm"].shown
    assert dict(zip(shown["norm"], shown["mean"], strict=True)) == {
        "popnorm": "1.08 [1.08, 1.08]",  # (30 - 0.366) / (27.76 - 0.366), seeds alike
        "none": "1.08 (one seed)",
    }


def test_settings_that_by_pools_are_not_drawn_as_seeds_by_the_ablation_either(tmp_path):
    for norm in ("popnorm", "none"):
        for window in (2, 4):
            arguments = (f"norm={norm}", f"time_window={window}")
            make_run(tmp_path / f"{norm}{window}", *arguments, scores=(10.0 * window,) * 5)
    shown = made(tmp_path, by=["norm"])[0]["by-norm"].shown
    assert shown["mean"].tolist() == ["1.08 (one seed)"] * 2


def test_runs_that_are_too_young_for_a_score_do_not_count_for_firing(tmp_path):
    make_run(tmp_path / "whole", seed=0, rates=(0.25, 0.125))
    make_run(tmp_path / "young", seed=1, rates=(0.0, 0.0), scores=(1.0,), state="running")
    (row,) = data(tmp_path)["firing"]
    assert (row["conv1"], row["hidden"]) == (0.25, 0.125)


def hurry(run: Path, factor: float) -> None:
    """As if it had been so many times as fast."""
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    other = [line | {"wall_seconds": line["wall_seconds"] / factor} for line in lines]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in other))


def test_lines_over_time_go_by_the_fastest_of_the_runs_that_go_furthest(tmp_path):
    make_run(tmp_path / "slow", seed=0)
    hurry(make_run(tmp_path / "fast", seed=1), 2)
    hurry(make_run(tmp_path / "begun", seed=2, scores=(1.0, 2.0, 3.0), state="running"), 10)
    figure = made(tmp_path)[1]["learning-curves-time"]
    for line in figure.canvas.axes[0].lines:  # of all seeds, and of those that are left
        # 1,000 to 5,000 steps, 200 in a second
        np.testing.assert_allclose(line.get_xdata(), np.array([5, 10, 15, 20, 25]) / 60)


def test_a_directory_given_twice_or_within_another_is_read_once(study):
    run = next(path for path in study.iterdir() if path.is_dir())
    once = data(study)
    assert data(study, study, run)["runs"] == once["runs"]
    assert data(run, study)["runs"] == once["runs"]


def test_one_seed_gives_no_interval_and_says_so(tmp_path):
    tables = data(make_study(tmp_path, seeds=1))
    assert all(row["IQM_low"] is None and row["IQM_high"] is None for row in tables["aggregates"])
    tables, figures = made(tmp_path)
    assert tables["scores"].shown["last window"].str.endswith("(one seed)").all()
    assert "improvement" not in tables
    assert "improvement" not in figures
    assert "no probability of improvement over dqn" in remarks(tmp_path)["how-sure"]


def test_few_seeds_are_said_to_be_few(report):
    assert (
        "with 3 seeds a bootstrap interval is narrower than the truth"
        in (report / "index.html").read_text()
    )


RUN = "minatar_asterix_dqn_2"
DAMAGED = ("minatar_asterix", "dqn")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "metrics.jsonl").write_text('{"step": 1, "eval'), "not evaluated yet"),
        (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
        (lambda run: (run / "config.yaml").unlink(), "nothing says which arm it is"),
        (lambda run: (run / "config.yaml").write_text("{"), "config.yaml cannot be read"),
        (lambda run: (run / "config.yaml").write_text("a: 1"), "choices: Field required"),
        (
            lambda run: (run / "config.yaml").write_text(
                (run / "config.yaml").read_text().replace("num_envs: ", "num_envs: many #")
            ),
            "num_envs: Input should be",
        ),
        (lambda run: (run / "status.json").write_text("finished"), "not valid JSON"),
        (lambda run: (run / "probe.json").write_text("{]"), "probe.json cannot be read"),
        (
            lambda run: (run / "probe.json").write_text('{"version": 99}'),
            "version: Input should be",
        ),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1, "score": 3.0}\n' * 9),
            "it has no number `step` (and 8 more lines)",
        ),
        (
            lambda run: (run / "metrics.jsonl").write_text(
                (run / "metrics.jsonl").read_text().replace('"eval/return_mean": ', "NaN, ")
            ),
            "is not valid JSON",
        ),
    ],
)
def test_garbage_gives_a_named_warning_and_never_a_wrong_number(copy, damage, said):
    damage(copy / RUN)
    tables = data(copy)
    assert any(said in row["warning"] for row in tables["warnings"] if row["run"] == RUN)
    (mean,) = [r["last_mean"] for r in tables["scores"] if (r["game"], r["arm"]) == DAMAGED]
    whole = said in ("not valid JSON", "probe.json cannot be read", "version: Input should be")
    assert mean == pytest.approx(9.0 if whole else 8.5)  # of 8 9 10, or without the 10


def test_alien_files_are_ignored(copy):
    (copy / "notes.txt").write_text("hello")
    (copy / RUN / "core.1234").write_bytes(bytes(1000))
    (copy / "empty").mkdir()
    assert "warnings" not in data(copy)


def test_cells_that_a_sweep_never_started_are_counted_and_named(copy):
    cells = {
        path.name: Entry(overrides=["experiment=dqn"], game="minatar_asterix", seed=0, steps=5_000)
        for path in copy.iterdir()
    }
    missing = Entry(overrides=["seed=7"], game="minatar_asterix", seed=7, steps=5_000)
    Ledger(cells=cells | {"never_started": missing}).write(copy)
    tables = data(copy)
    assert "never_started" in {row["run"] for row in tables["warnings"]}
    runs = {row["run"]: row for row in tables["runs"]}
    assert runs["never_started"]["state"] == "missing"
    assert runs[RUN]["command"] == "python -m sdqn_lab.run experiment=dqn"


def test_a_sweep_of_which_nothing_has_begun_is_reported_as_such(tmp_path):
    for seed in range(2):
        path = make_run(tmp_path / f"{seed}", seed=seed, scores=(), state="pending")
        (path / "metrics.jsonl").unlink()
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert "No run was evaluated yet." in (tmp_path / "out" / "index.html").read_text()


def test_a_run_that_its_sweep_does_not_know_is_left_out_and_named(copy):
    cells = {
        path.name: Entry(overrides=[], game="?", seed=0, steps=5_000)
        for path in copy.iterdir()
        if path.name != RUN
    }
    Ledger(cells=cells).write(copy)
    tables = data(copy)
    assert RUN in {row["run"] for row in tables["warnings"]}
    assert {(r["game"], r["arm"]): r["seeds"] for r in tables["scores"]}[DAMAGED] == 2


def test_several_directories_are_compared_as_one(study, tmp_path):
    arguments = ("experiment=dqn_popnorm", "time_window=4")
    other = make_run(tmp_path / "another", *arguments, scores=(20.0,) * 5)
    seeds = {(r["game"], r["arm"]): r["seeds"] for r in data(study, other)["scores"]}
    assert seeds["minatar_breakout", "dqn_popnorm"] == 1
    assert seeds["minatar_asterix", "dqn_popnorm"] == 0
    assert seeds["minatar_asterix", "dqn"] == 3


@pytest.mark.parametrize(
    ("argv", "what", "rule"),
    [
        (["nowhere"], "nowhere", "no such directory"),
        (["empty"], "empty", "holds no run"),
        (["STUDY", "--by", "nrm"], "--by=nrm", "no run has it"),
        (["STUDY", "--against", "experiment=x"], "--against=experiment=x", "no arm fits"),
        (["STUDY", "--against", "norm=["], "--against=norm=[", "no arm fits"),
        (["STUDY", "--against", "norm={a: b}"], "--against=norm={a: b}", "no arm fits"),
        (["STUDY", "--literature", "none.csv"], "--literature none.csv", "cannot be read"),
        (["STUDY", "--literature", "bad.csv"], "--literature bad.csv", "no column source"),
        (["STUDY", "--literature", "text.csv"], "--literature text.csv, line 2", "mean=high"),
        (["STUDY", "--literature", "wide.csv"], "--literature wide.csv, line 2", "7 fields"),
        (["STUDY", "--out", "."], "--out .", "figures is not that of a report"),
        (["STUDY", "--out", "a_file"], "--out a_file", "cannot be written"),
    ],
)
def test_a_wrong_command_is_one_line_and_leaves_nothing(
    study, tmp_path, monkeypatch, capsys, argv, what, rule
):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("a_file").touch()
    Path("figures").mkdir()
    Path("figures", "my_own.pdf").touch()
    Path("wide.csv").write_text("source,protocol,method,game,mean,spread\na,b,c,pong,1,2,3\n")
    Path("bad.csv").write_text("game,score\npong,3\n")
    Path("text.csv").write_text("source,protocol,method,game,mean,spread\na,b,c,pong,high,\n")
    before = sorted(path.name for path in Path().iterdir())
    assert main([str(study) if word == "STUDY" else word for word in argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {what}: ")
    assert rule in line
    assert sorted(path.name for path in Path().iterdir()) == before


def test_runs_that_were_not_made_to_be_compared_are_refused_unless_axes_are_chosen(tmp_path):
    unlike = (
        *("norm=none", "time_window=2", "neuron.tau=3.0", "algo.gamma=0.9", "algo.n_step=3"),
        *("algo.batch_size=16", "surrogate=sigmoid", "algo.loss=mse", "algo.double=true"),
    )
    make_run(tmp_path / "common")
    for number, override in enumerate(unlike):
        make_run(tmp_path / f"{number}", override)
    with pytest.raises(Refused) as caught:
        compare([tmp_path])
    assert caught.value.key == str(tmp_path)
    assert "differ in 9 settings" in caught.value.rule
    assert len(compare([tmp_path], by=["norm"]).comparison.arms) == 2


def test_the_terminal_says_of_how_many_games_an_aggregate_is(tmp_path, capsys):
    games = {"popnorm": GAMES, "none": GAMES[:1]}
    for norm, played in games.items():
        for game in played:
            make_run(tmp_path / f"{norm}_{game}", f"norm={norm}", f"env={game}")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "aggregates are over 1 of 2 games" in printed
    assert f"not every arm has a score in {GAMES[1]}" in printed


@pytest.mark.slow  # matplotlib tries long to find room
def test_names_that_a_layout_has_no_room_for_are_no_warnings(tmp_path, capsys, recwarn):
    for letter in "ab":
        config = make_run(tmp_path / letter) / "config.yaml"
        long = config.read_text().replace("sdqn_lab.spiking.norm.PopNorm", letter * 500)
        config.write_text(long)
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    assert [str(warning.message) for warning in recwarn] == []
    assert "Warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+2", "'=1+2"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-", "-"),
        ("-12.5 ± 3.0", "-12.5 ± 3.0"),
        ("-1e-05", "-1e-05"),
        ("plain = text", "plain = text"),
    ],
)
def test_no_cell_of_a_csv_is_a_formula(tmp_path, cell, written):
    Table("t", "T", "", pd.DataFrame({"=name": [cell], "number": [-1.5]})).write(tmp_path)
    with (tmp_path / "t.csv").open() as file:
        assert list(csv.reader(file)) == [["'=name", "number"], [written, "-1.5"]]


def test_markdown_shows_names_as_they_are():
    name = "a|b`c*d\\e<script>![x](y)\n# no heading"
    shown = pd.DataFrame({name: [name]})
    text = Table("t", "T <b>", "<i>", shown).markdown()
    escaped = r"a\|b\`c\*d\\e\<script>\![x]\(y) # no heading"
    assert text.splitlines()[0] == r"### T \<b>"
    assert [line.strip("| ") for line in text.splitlines()[2:5:2]] == [escaped, escaped]
    assert text.splitlines()[-1] == r"\<i>"


def test_runs_without_counted_operations_are_counted_beside_the_energy(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / "study")
    layer = {"name": "head", "parameters": 1, "synapses": 1, "analog": True, "passes": 1}
    layer |= {"operations": 1.0, "current": None, "normalized": None, "membrane": None}
    probe = json.dumps({"version": 1, "time_window": 1, "layers": [layer]})
    for run in copy.iterdir():
        if not run.name.endswith("_0"):
            (run / "probe.json").write_text(probe)
    costs = made(copy)[0]["costs"].shown
    assert set(costs["runs counted"]) == {"4 of 6"}
    assert "12 of 18 runs" in remarks(copy)["costs"]


def test_commits_of_one_study_are_named(study, tmp_path):
    copy = shutil.copytree(study, tmp_path / "study")
    assert "commit" not in remarks(copy)["missing"]
    status = copy / RUN / "status.json"
    status.write_text(status.read_text().replace("0123456789", "abcdef0123"))
    assert "01234567; abcdef01" in remarks(copy)["missing"]


def test_an_earlier_report_is_replaced_by_the_same_page_and_other_files_beside_it_stay(
    study, report, tmp_path
):
    out = shutil.copytree(report, tmp_path / "out")
    (out / "index.html").write_text((out / "index.html").read_text() + "<!-- stale -->")
    (out / "figures" / "stale.png").touch()
    (out / "own.txt").write_text("mine")
    assert main([str(study), "--out", str(out)]) == 0
    assert (out / "index.html").read_bytes() == (report / "index.html").read_bytes()
    assert not (out / "figures" / "stale.png").exists()
    assert sorted(p.name for p in out.iterdir()) == [
        *("figures", "index.html", "own.txt", "tables")
    ]


def test_an_arm_that_has_not_begun_stands_in_every_table_without_numbers(tmp_path):
    make_run(tmp_path / "begun", "norm=none", scores=(1.0, 2.0), state="running")
    make_run(tmp_path / "waiting", "norm=popnorm", scores=(), state="pending")
    tables = data(tmp_path)
    assert [row["arm"] for row in tables["scores"]] == ["norm=none", "norm=popnorm"]


def test_what_runs_reported_of_dead_layers_is_shown_by_arm_and_kept_by_run(tmp_path):
    make_run(tmp_path / "good")
    bad = make_run(tmp_path / "bad", "norm=none")
    assert "health-events" not in data(tmp_path)
    with (bad / "metrics.jsonl").open("a") as file:
        for event in ("hidden died", "hidden fires again"):
            line = {"step": 5_000, "frames": 5_000, "wall_seconds": 50, "health/event": event}
            file.write(json.dumps(line) + "\n")
    at = {"game": "minatar_breakout", "arm": "norm=none", "run": bad.name}
    assert data(tmp_path)["health-events"] == [
        at | {"event": "step 5,000: hidden died"},
        at | {"event": "step 5,000: hidden fires again"},
    ]
    shown = made(tmp_path)[0]["health-events"].shown.to_dict("records")
    assert [(row["runs"], row["events"], row["latest"]) for row in shown] == [
        (1, 2, "step 5,000: hidden fires again")
    ]


def test_settings_that_hide_behind_others_are_data(tmp_path):
    for name, rate in (("dqn", 1e-3), ("pl_sdqn", 1e-4)):
        make_run(tmp_path / name, f"experiment={name}", f"algo.learning_rate={rate}")
    arms = {row["arm"]: row for row in data(tmp_path)["arms"]}
    assert (arms["dqn"]["algo.learning_rate"], arms["pl_sdqn"]["algo.learning_rate"]) == (
        *("0.001", "0.0001"),
    )


def test_pooled_settings_are_not_counted_as_seeds(tmp_path):
    for window in (2, 4):
        make_run(tmp_path / f"{window}", "norm=none", f"time_window={window}")
    make_run(tmp_path / "other", "norm=popnorm", "time_window=2")
    assert made(tmp_path, by=["norm"])[0]["scores"].shown["seeds"].tolist() == [
        "2 of 2 runs, 1 different",
        "1 of 1",
    ]


def test_a_failed_run_that_is_long_enough_is_counted_and_not_called_left_out(tmp_path):
    make_run(tmp_path / "good", seed=0)
    make_run(tmp_path / "bad", seed=1, state="failed", error="the disk was full")
    assert "runs failed" not in remarks(tmp_path)["missing"]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ((104.2, 104.5), "104.35 ± 0.21"),
        ((15_432.0, 15_448.0), "15,440 ± 11"),
        ((-20.96, -20.94), "-20.950 ± 0.014"),
        ((5.0, 5.0), "5 ± 0"),
        ((0.1, 0.1, 0.1), "0.1 ± 0"),
        ((0.0, 0.0), "0 ± 0"),
        ((12_345.6,), "12,346 (one seed)"),
        ((), "-"),
    ],
)
def test_a_mean_is_shown_to_the_place_of_its_spread(values, shown):
    assert with_spread(np.array(values)) == shown


def test_an_interval_has_three_digits_and_no_powers_of_ten():
    assert with_interval(Interval(0.4567, 0.3333, 0.5)) == "0.457 [0.333, 0.5]"
    assert with_interval(Interval(2315.1, 917.5, 12695.8)) == "2,315 [918, 12,696]"
    assert with_interval(Interval(2315.1, None, None)) == "2,315 (one seed)"


def test_linked_and_nested_runs_are_found_once_and_nothing_is_looked_for_inside_a_run(tmp_path):
    make_run(tmp_path / "real" / "deep" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    inner = tmp_path / "real" / "deep" / "run" / "wandb" / "files"
    inner.mkdir(parents=True)
    (inner / "config.yaml").write_text("wandb: 1")
    tables = data(tmp_path)
    assert [row["run"] for row in tables["runs"]] == ["run"]
    assert "warnings" not in tables

"""Committed results say what they were made with, and follow from the committed raw metrics.

Everything is computed here anew, with NumPy and nothing of the package.
"""

import csv
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted((ROOT / "results").rglob("sweep"))
WANTED = ("game", "arm", "seed", "steps", "score", "protocol", "sha", "hardware", "command")
ENDS = (0.025, 0.975)
MAC_PJ, AC_PJ = 4.6, 0.9
"""Horowitz 2014, 45 nm, float32: 3.7 + 0.9, and 0.9."""


@pytest.fixture(
    scope="module",
    params=STUDIES,
    ids=[str(study.parent.relative_to(ROOT / "results")) for study in STUDIES],
)
def study(request):
    return request.param


def evaluated(study):
    """One row per run, from its config and metrics: last window, best evaluation, steps."""
    rows, named = [], set(pd.read_csv(study.parent / "runs.csv")["arm"])
    for file in sorted(study.glob("*/config.yaml")):
        config = yaml.load(file.read_bytes(), yaml.CSafeLoader)
        choices = config["choices"]
        lines = [json.loads(x) for x in (file.parent / "metrics.jsonl").read_text().splitlines()]
        found = [(x["step"], x["eval/return_mean"]) for x in lines if "eval/return_mean" in x]
        steps, returns = np.array(found, float).T
        end, num_envs = config["budget"]["steps"], config["algo"]["num_envs"]
        assert abs(steps[-1] - end) <= max(0.01 * end, num_envs)
        late = returns[steps > 0.8 * end + num_envs]
        rows.append(
            {
                "run": file.parent.name,
                "game": choices["env"],
                # Where a study crosses experiments with another axis, arms are called by the axes.
                "arm": choices["experiment"]
                if choices["experiment"] in named
                else f"neuron={choices['neuron']}, norm={choices['norm']}",
                "steps": lines[-1]["step"],
                "score": late.mean(),
                "best": returns.max(),
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def raw(study):
    return evaluated(study)


@pytest.fixture(scope="module")
def normalized(raw):
    """arm -> game -> scores, 0 a random player and 1 the DQN of Xu et al. 2026."""
    file = ROOT / "sdqn_lab" / "envs" / "data" / "minatar_scores.csv"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    ends = {r["game"]: (float(r["random"]), float(r["dqn"])) for r in csv.DictReader(lines)}
    found = {}
    for (arm, game), rows in raw.groupby(["arm", "game"]):
        # A game without such scores counts as it is.
        low, high = ends.get(game, (0.0, 1.0))
        found.setdefault(arm, {})[game] = (rows["score"].to_numpy() - low) / (high - low)
    return found


def table(study, name):
    return pd.read_csv(study.parent / "report" / "tables" / f"{name}.csv")


def test_every_score_carries_what_it_was_made_with(study):
    runs = pd.read_csv(study.parent / "runs.csv", dtype={"sha": str})
    assert len(runs)
    assert not runs[list(WANTED)].isna().any(axis=None)
    assert (runs["state"] == "finished").all()
    assert runs["command"].str.startswith("python -m sdqn_lab.run ").all()
    shas = [sha for listed in runs["sha"] for sha in listed.split(", ")]
    assert all(re.fullmatch("[0-9a-f]{8}", sha) for sha in shas), "no code was changed"


def test_every_run_has_the_score_of_its_metrics(study, raw):
    for file in (study.parent / "runs.csv", study.parent / "report" / "tables" / "runs.csv"):
        runs = pd.read_csv(file).set_index("run")
        assert set(runs.index) == set(raw["run"])
        for column in ("score", "best", "steps"):
            expected = raw.set_index("run")[column].to_dict()
            assert runs[column].to_dict() == pytest.approx(expected, rel=1e-9)


def test_scores_are_means_and_deviations_over_seeds(study, raw, normalized):
    rows = {(row.game, row.arm): row for row in table(study, "scores").itertuples()}
    groups = dict(iter(raw.groupby(["game", "arm"])))
    assert rows.keys() == groups.keys()
    for (game, arm), of in groups.items():
        row = rows[game, arm]
        columns = {"last": of["score"], "best": of["best"], "normalized": normalized[arm][game]}
        if not game.startswith("minatar"):
            assert np.isnan(row.normalized_mean)
            columns.pop("normalized")
        for name, values in columns.items():
            mean, std = getattr(row, f"{name}_mean"), getattr(row, f"{name}_std")
            expected = (np.mean(values), np.std(values, ddof=1))
            assert (mean, std) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_aggregates_are_those_of_the_normalized_scores(study, normalized):
    rows = table(study, "aggregates").set_index("arm")
    assert set(rows.index) == set(normalized)
    for arm, games in normalized.items():
        every = np.sort(np.concatenate(list(games.values())))
        cut = len(every) // 4
        means = [game.mean() for game in games.values()]
        gaps = [np.maximum(1 - game, 0).mean() for game in games.values()]
        expected = {
            "IQM": every[cut : len(every) - cut].mean(),
            "median": np.median(means),
            "mean": np.mean(means),
            "optimality_gap": np.mean(gaps),
        }
        for name, value in expected.items():
            if f"{name}_low" not in rows:
                assert name == "optimality_gap", "it needs a scale"
                continue
            low, estimate, high = (
                rows.loc[arm, f"{name}_{e}"] for e in ("low", "estimate", "high")
            )
            assert estimate == pytest.approx(value, rel=1e-9)
            assert low <= estimate <= high
        if len(games) == 1 and len(every) <= 5:  # then all resamples are taken
            drawn = every[np.array(list(product(range(len(every)), repeat=len(every))))]
            middle = np.sort(drawn, axis=1)[:, cut : len(every) - cut]
            for name, value in (("IQM", middle.mean(1)), ("mean", drawn.mean(1))):
                expected = np.quantile(value, ENDS, method="averaged_inverted_cdf")
                found = rows.loc[arm, [f"{name}_low", f"{name}_high"]].to_list()
                assert found == pytest.approx(list(expected), rel=1e-9)


def test_the_probability_of_improvement_counts_pairs_of_runs(study, normalized):
    if len(normalized) == 1:  # a single arm improves on nothing
        assert not (study.parent / "report" / "tables" / "improvement.csv").exists()
        return
    rows = table(study, "improvement")
    # All others are compared with it.
    (baseline,) = set(normalized) - set(rows["arm"])
    for row in rows.itertuples():
        won = []
        for game, ours in normalized[row.arm].items():
            pairs = ours[:, None] - normalized[baseline][game]
            won.append((pairs > 0).mean() + (pairs == 0).mean() / 2)
        assert row.probability_estimate == pytest.approx(np.mean(won), rel=1e-9)


def test_energies_are_those_of_the_counted_operations(study):
    rows = table(study, "costs").set_index("run")
    counted = {
        file.parent.name: json.loads(file.read_bytes()) for file in study.glob("*/probe.json")
    }
    assert set(rows.index[rows["energy_nj"].notna()]) == set(counted)
    for run, probe in counted.items():
        layers = pd.DataFrame(probe["layers"])
        if "policy" in set(layers["name"]):  # a critic beside it decides nothing
            layers = layers[~layers["name"].str.startswith("value")]
        mac = layers.loc[layers["analog"], "operations"].sum()
        ac = layers.loc[~layers["analog"], "operations"].sum()
        dense = (layers["synapses"] * layers["passes"]).sum()
        found = rows.loc[run, ["mac", "ac", "energy_nj", "dense_energy_nj"]].to_list()
        expected = [mac, ac, (mac * MAC_PJ + ac * AC_PJ) / 1e3, dense * MAC_PJ / 1e3]
        assert found == pytest.approx(expected, rel=1e-9)


def test_a_run_that_several_studies_hold_is_the_same_in_all():
    found = {}
    for file in (ROOT / "results").rglob("sweep/*/metrics.jsonl"):
        found.setdefault(file.parent.name, set()).add(file.read_bytes())
    assert not [name for name, contents in found.items() if len(contents) > 1]


def test_no_study_says_where_on_a_machine_it_lay():
    for ledger in (ROOT / "results").rglob("ledger.json"):
        assert "hydra.sweep.dir" not in ledger.read_text(), ledger


def numbers(cell):
    """Each number of a cell, with half a unit of its last digit."""
    for text in re.findall(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?", cell):
        digits = text.partition("e")[0].partition(".")[2]
        exponent = int(text.partition("e")[2] or 0)
        yield float(text.replace(",", "")), 0.5000001 * 10.0 ** (exponent - len(digits))


def agree(cell, values):
    printed = list(numbers(cell))
    values = [value for value in values if not np.isnan(value)]
    assert len(printed) == len(values), cell
    for (number, half), value in zip(printed, values, strict=True):
        assert abs(number - value) <= half, (cell, value)


def block(study, name):
    """The rows of a table that a page shows between two marks; the page lies beside the sweep."""
    page = (study.parent / "README.md").read_text()
    (found,) = re.findall(f"<!-- {name} -->(.*?)<!-- /{name} -->", page, re.S)
    head, _, *rows = [
        [cell.strip() for cell in line.strip("| \n").split("|")]
        for line in found.strip().splitlines()
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_the_scores_that_a_page_shows_are_the_committed_ones(study):
    rows = table(study, "scores").to_dict("records")
    for shown, row in zip(block(study, "scores"), rows, strict=True):
        assert (shown["game"], shown["arm"]) == (row["game"], row["arm"])
        assert shown["seeds"] == f"{row['seeds']} of {row['runs']}"
        agree(shown["agent steps"], [row["agent_steps"]])
        for heading, name in (("last window", "last"), ("best", "best"), ("normalized",) * 2):
            agree(shown[heading], [row[f"{name}_mean"], row[f"{name}_std"]])


def test_the_aggregates_that_a_page_shows_are_the_committed_ones(study):
    rows = table(study, "aggregates").to_dict("records")
    for shown, row in zip(block(study, "aggregates"), rows, strict=True):
        assert shown.pop("arm") == row["arm"]
        for heading, cell in shown.items():
            name = heading.replace(" ", "_")
            agree(cell, [row[f"{name}_{end}"] for end in ("estimate", "low", "high")])


def test_the_table_of_the_calibration_is_its_rows_and_what_is_said_of_it_follows():
    rows = pd.read_csv(ROOT / "results" / "export" / "calibration.csv")
    page = (ROOT / "docs" / "EXPORT.md").read_text()
    shown = [line for line in page.splitlines() if re.match(r"\| [A-Z][A-Za-z ]+ \| \d \|", line)]
    for line, (game, seed, *values) in zip(shown, rows.itertuples(index=False), strict=True):
        name, number, *cells = (cell.strip() for cell in line.strip("| ").split("|"))
        assert (name, int(number)) == (game, seed)
        found = [float(value) for value in re.findall(r"[\d.]+", " ".join(cells))]
        assert found == pytest.approx([*values[:6], *(100 * share for share in values[6:])])
    draws = np.array(list(product(range(5), repeat=5)))
    for game, of_game in rows.groupby("game"):
        pattern = rf"(\d+)% \[(\d+)%, (\d+)%\] in {game}"
        ((said, *ends),) = re.findall(pattern, " ".join(page.split()))
        trained, fixed = (of_game[name].to_numpy()[draws].mean(1) for name in ("trained", "fixed"))
        expected = [1 - of_game["fixed"].mean() / of_game["trained"].mean()]
        expected += list(np.quantile(1 - fixed / trained, (0.025, 0.975)))
        # The rows are rounded, and what is said is a whole percent.
        assert [int(said), *map(int, ends)] == pytest.approx(100 * np.array(expected), abs=0.6)


def test_effects_of_neuron_and_norm_are_those_of_the_metrics():
    home, rng = ROOT / "results" / "atlas_norm" / "sweep", np.random.default_rng(1)
    low, high = {}, {}
    file = ROOT / "sdqn_lab" / "envs" / "data" / "minatar_scores.csv"
    for row in csv.DictReader(x for x in file.read_text().splitlines() if not x.startswith("#")):
        low[row["game"]], high[row["game"]] = float(row["random"]), float(row["dqn"])
    scores = {
        (arm, game): (rows["score"].to_numpy() - low[game]) / (high[game] - low[game])
        for (arm, game), rows in evaluated(home).groupby(["arm", "game"])
    }
    lif, bare_lif, relu, bare_relu = (
        f"neuron={neuron}, norm={norm}"
        for neuron in ("lif", "relu")
        for norm in ("popnorm", "none")
    )
    pairs = [(bare_lif, lif), (bare_relu, relu), (relu, lif), (bare_relu, bare_lif)]
    games = ["minatar_asterix", "minatar_breakout"]
    for row, sides in zip(block(home, "effects"), pairs, strict=True):
        each = [scores[sides[0], g].mean() - scores[sides[1], g].mean() for g in games]
        said = [float(number) for number in re.findall(r"[+-][\d.]+", row["effect"])]
        assert [float(x) for x in re.findall(r"[+-][\d.]+", row["by game"])] == pytest.approx(
            each, abs=0.0051
        )
        after, before = (
            np.mean([rng.choice(scores[arm, g], (20_000, 5)).mean(1) for g in games], axis=0)
            for arm in sides
        )
        ends = np.quantile(after - before, ENDS)
        assert said == pytest.approx([np.mean(each), *ends], abs=0.008)


def test_differences_between_engine_and_general_path_are_those_of_the_metrics():
    home = ROOT / "results" / "engine" / "sweep"
    ours, now, before = (
        evaluated(ROOT / "results" / name / "sweep").groupby(["arm", "game"])["score"].mean()
        for name in ("engine", "general_path", "minatar")
    )
    theirs = now.combine_first(before)
    for row in block(home, "difference"):
        arm = row["arm"].strip("`")
        if row["game"].startswith("all "):
            share = 100 * (ours[arm] / theirs[arm] - 1).mean()
            agree(row["difference"].split()[0], [share])
        else:
            engine, general = ours[arm, row["game"]], theirs[arm, row["game"]]
            agree(row["engine"].split()[0], [engine])
            agree(row["general path"].split()[0], [general])
            agree(row["difference"].split()[0], [engine - general])


def test_the_overview_of_algorithms_is_that_of_the_metrics():
    home = ROOT / "results" / "algorithms"
    every = np.array(list(product(range(5), repeat=5)))
    scores = {
        (arm.removeprefix("pl_").replace("sdqn", "dqn"), game, arm.startswith("pl_")): rows
        for task in home.glob("*/sweep")
        for (arm, game), rows in evaluated(task).groupby(["arm", "game"])["score"]
    }
    shown = block(home / "sweep", "overview")
    assert 2 * len(shown) == len(scores)
    for row in shown:
        game = re.findall(r"\[(\w+)\]", row["task"])[0]
        for column, spikes in (("spikes", True), ("ReLU", False)):
            found = scores[row["algorithm"].lower().replace("-", "_"), game, spikes].to_numpy()
            assert len(found) == 5
            ends = np.quantile(found[every].mean(1), ENDS, method="averaged_inverted_cdf")
            agree(row[column], [found.mean(), *ends])

"""Figures hold the numbers of the runs: what is drawn is read back and compared."""

import json
import shutil

import numpy as np
import pytest

from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.figures import Figure, looks
from sdqn_lab.analysis.scoring import Scores
from sdqn_lab.analysis.sections.costs import costs
from sdqn_lab.analysis.sections.firing import firing
from sdqn_lab.analysis.sections.learning_curves import curves_over_steps
from sdqn_lab.analysis.sections.uncertainty import uncertainty
from sdqn_lab.analysis.stored_run import Run
from tests.analysis.runs import STEPS, make_run

LAYER = {
    "name": "head",
    "parameters": 1,
    "synapses": 1,
    "analog": False,
    "passes": 1,
    "operations": 1.0,
    "current": None,
    "normalized": None,
    "membrane": None,
}


@pytest.fixture
def comparison(tmp_path):
    cells = [("popnorm", 0, 1.0), ("popnorm", 1, 3.0), ("none", 0, 2.0), ("none", 1, 2.0)]
    paths = [
        make_run(
            tmp_path / f"{norm}{seed}",
            f"norm={norm}",
            seed=seed,
            scores=tuple(slope * part for part in range(1, 6)),
            rates=(0.1 * (seed + 1), 0.4),
        )
        for norm, seed, slope in cells
    ]
    return Comparison([Run(path) for path in paths])


def lines(figure: Figure, panel: int = 0):
    return [line.get_xydata() for line in figure.canvas.axes[panel].lines]


def of(section, name) -> Figure:
    (figure,) = [figure for figure in section.figures if figure.name == name]
    return figure


def test_a_learning_curve_is_the_mean_over_seeds_and_its_band_that_of_the_bootstrap(comparison):
    figure = curves_over_steps(comparison)
    drawn = lines(figure)
    np.testing.assert_allclose(drawn[0][:, 0], STEPS)
    np.testing.assert_allclose(drawn[0][:, 1], [2, 4, 6, 8, 10])  # of slopes 1 and 3
    band = figure.canvas.axes[0].collections[0].get_paths()[0].vertices
    at_the_end = band[band[:, 0] == STEPS[-1], 1]
    # of two seeds a quarter of all draws is the lower one twice, so it is the 2.5% quantile
    assert (at_the_end.min(), at_the_end.max()) == (5.0, 15.0)


def test_where_a_seed_is_missing_the_curve_is_pale_and_has_no_band(tmp_path):
    make_run(tmp_path / "whole", seed=0)
    make_run(tmp_path / "short", seed=1, scores=(3.0, 4.0), state="running")
    figure = curves_over_steps(Comparison([Run(tmp_path / "whole"), Run(tmp_path / "short")]))
    (panel,) = figure.canvas.axes
    full, pale = panel.lines
    assert (full.get_alpha(), pale.get_alpha()) == (None, 0.35)
    np.testing.assert_allclose(full.get_ydata(), [2.0, 3.0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(pale.get_ydata(), [np.nan, 3.0, 3.0, 4.0, 5.0])
    band = panel.collections[0].get_paths()[0].vertices
    assert band[:, 0].max() == STEPS[1]


def test_a_seed_that_was_evaluated_earlier_than_the_longest_one_is_drawn_from_its_start(tmp_path):
    make_run(tmp_path / "early", seed=0)
    make_run(tmp_path / "late", seed=1, steps=(3_000, 4_000, 5_007), scores=(3.0, 4.0, 5.0))
    figure = curves_over_steps(Comparison([Run(tmp_path / name) for name in ("early", "late")]))
    full, pale = figure.canvas.axes[0].lines
    np.testing.assert_allclose(full.get_xdata(), [1_000, 2_000, 3_000, 4_000, 5_007])
    np.testing.assert_allclose(full.get_ydata(), [np.nan, np.nan, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(pale.get_ydata()[:3], [1.0, 2.0, 3.0])


def test_an_evaluation_that_was_lost_shifts_no_curve(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"{seed}", seed=seed)
    file = tmp_path / "1" / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if '"eval/return_mean": 2.0' not in line))
    figure = curves_over_steps(Comparison([Run(tmp_path / f"{seed}") for seed in range(3)]))
    (panel,) = figure.canvas.axes
    np.testing.assert_allclose(panel.lines[0].get_xydata()[:, 0], STEPS)
    np.testing.assert_allclose(panel.lines[0].get_xydata()[:, 1], [1, 2, 3, 4, 5])


def test_an_atari_curve_counts_frames_above(tmp_path):
    path = make_run(tmp_path / "run", "env=pong")
    text = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(
        "".join(
            json.dumps(record | {"frames": 4 * record["step"]}) + "\n"
            for record in map(json.loads, text.splitlines())
        )
    )
    (panel,) = curves_over_steps(Comparison([Run(path)])).canvas.axes
    (above,) = panel.child_axes
    panel.figure.draw_without_rendering()
    assert above.get_xlabel() == "emulator frames"
    np.testing.assert_allclose(above.get_xlim(), 4 * np.array(panel.get_xlim()))


def test_the_firing_figure_holds_the_rates_of_each_layer(comparison):
    section = firing(Scores(comparison))
    figure = of(section, "firing")
    first = figure.canvas.axes[0].containers[0].lines[0].get_ydata()
    np.testing.assert_allclose(first, [0.15, 0.4])  # of 0.1 and 0.2; of 0.4 twice
    (table,) = [table for table in section.tables if table.name == "firing"]
    assert table.data["conv1"].tolist() == pytest.approx([0.15, 0.15])


def test_interval_marks_are_the_estimates_of_the_table(comparison):
    section = uncertainty(Scores(comparison))
    (table,) = [table for table in section.tables if table.name == "aggregates"]
    figure = of(section, "aggregates")
    panel = next(a for a in figure.canvas.axes if a.get_title() == "IQM")
    marks = [line.get_xdata()[0] for line in panel.lines]
    assert marks == pytest.approx(table.data["IQM_estimate"].tolist())


def test_runs_that_overshoot_their_last_step_differently_end_together(tmp_path):
    for seed, end in enumerate((5_000, 5_007)):
        steps = (*STEPS[:-1], end)
        make_run(tmp_path / f"{seed}", seed=seed, steps=steps, rates=(0.1 + 0.2 * seed, 0.0))
    scores = Scores(Comparison([Run(tmp_path / f"{seed}") for seed in range(2)]))
    figure = of(firing(scores), "firing-over-training")
    np.testing.assert_allclose(lines(figure)[0][:, 1], 0.2)  # of 0.1 and 0.3, to the end


def test_histograms_are_those_of_the_probe(comparison, tmp_path):
    share = [0.0] * 64
    share[8 * 4 + 12] = 1.0  # 64 bins over [-4, 4): the bin from 1.5 on
    layer = LAYER | {"name": "conv1", "current": share, "normalized": share}
    run = comparison.runs[0]
    probe = {"version": 1, "time_window": 4, "layers": [layer]}
    (run.path / "probe.json").write_text(json.dumps(probe))
    fresh = Comparison([Run(one.path) for one in comparison.runs])
    panel = of(firing(Scores(fresh)), "potentials").canvas.axes[0]
    (steps,) = panel.patches
    values, edges, _ = steps.get_data()
    assert edges[np.argmax(values)] == pytest.approx(1.5)
    assert values.max() == 1.0


def test_costs_are_means_over_seeds_then_games_and_the_ratio_is_to_the_baseline(tmp_path):
    layers = LAYER | {"parameters": 10, "synapses": 100, "passes": 2}
    for name, norm, spikes in (("a", "popnorm", 10.0), ("b", "none", 40.0)):
        path = make_run(tmp_path / name, f"norm={norm}")
        probe = {"version": 1, "time_window": 2}
        probed = layers | {"operations": spikes}
        (path / "probe.json").write_text(json.dumps(probe | {"layers": [probed]}))
    comparison = Comparison([Run(tmp_path / name) for name in ("a", "b")], against=["norm=none"])
    (table,) = costs(Scores(comparison)).tables
    ratio = "nJ / that of norm=none"
    assert table.shown[ratio].tolist() == ["0.25", "1.00"]
    assert table.data["energy_nj"].tolist() == pytest.approx([10 * 0.9e-3, 40 * 0.9e-3])
    assert table.data["dense_energy_nj"].tolist() == pytest.approx([200 * 4.6e-3] * 2)


def test_costs_are_compared_in_the_games_that_all_arms_were_counted_in(tmp_path):
    cells = [("popnorm", "pong", 10.0), ("none", "pong", 20.0), ("none", "boxing", 1000.0)]
    for norm, game, spikes in cells:
        path = make_run(tmp_path / f"{norm}{game}", f"norm={norm}", f"env={game}")
        probe = {"version": 1, "time_window": 1, "layers": [LAYER | {"operations": spikes}]}
        (path / "probe.json").write_text(json.dumps(probe))
    section = costs(Scores(Comparison([Run(path) for path in sorted(tmp_path.iterdir())])))
    (table,) = section.tables
    assert dict(zip(table.shown["arm"], table.shown["AC"], strict=True)) == {
        "norm=none": "20",
        "norm=popnorm": "10",
    }
    assert section.remarks == [
        "Training speed without boxing: not known of every arm.",
        "Operations and energy without boxing: not counted for every arm.",
    ]


def test_the_spread_of_costs_is_that_of_the_seeds(tmp_path):
    for seed, spikes in enumerate((100.0, 200.0, 600.0)):
        path = make_run(tmp_path / f"{seed}", seed=seed)
        probe = {"version": 1, "time_window": 1, "layers": [LAYER | {"operations": spikes}]}
        (path / "probe.json").write_text(json.dumps(probe))
    (table,) = costs(Scores(Comparison([Run(p) for p in sorted(tmp_path.iterdir())]))).tables
    assert table.shown["AC"].tolist() == ["300 (100 to 600)"]


def test_layers_stand_in_the_order_of_the_network_also_beside_a_smaller_one(tmp_path):
    make_run(tmp_path / "small")
    path = make_run(tmp_path / "large", "env=pong")
    text = (path / "metrics.jsonl").read_text()
    deep = text.replace("/conv1", "/conv10").replace("/hidden", "/conv2")
    (path / "metrics.jsonl").write_text(deep)
    comparison = Comparison([Run(tmp_path / n) for n in ("small", "large")])
    figure = of(firing(Scores(comparison)), "firing")
    ticks = {
        panel.get_title(): [label.get_text() for label in panel.get_xticklabels()]
        for panel in figure.canvas.axes
    }
    assert ticks == {"minatar_breakout": ["conv1", "hidden"], "pong": ["conv2", "conv10"]}


def test_drawn_arms_differ_in_more_than_colour(tmp_path):
    """In print there is none: of any eight arms no two share dash and marker."""
    runs = [
        Run(make_run(tmp_path / f"{window}", f"time_window={window}")) for window in range(1, 9)
    ]
    (panel,) = curves_over_steps(Comparison(runs)).canvas.axes
    drawn = {(line.get_linestyle(), line.get_marker()) for line in panel.lines[::2]}
    assert len(drawn) >= 4
    neighbours = [(line.get_linestyle(), line.get_color()) for line in panel.lines[::2]]
    assert len(set(neighbours)) == 8


@pytest.mark.parametrize("number", [12, 40])
def test_no_two_arms_look_alike(tmp_path, number):
    path = make_run(tmp_path / "0")
    runs = []
    for window in range(number):
        copy = shutil.copytree(path, tmp_path / f"T{window}")
        text = (
            (copy / "config.yaml").read_text().replace("time_window: 16", f"time_window: {window}")
        )
        (copy / "config.yaml").write_text(text)
        runs.append(Run(copy))
    assert len(set(looks(Comparison(runs)).values())) == number

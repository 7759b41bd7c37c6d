"""Runs sorted into arms and tasks."""

import shutil

import pytest
from omegaconf import OmegaConf

from sdqn_lab.analysis.comparison import Comparison, arm_labels, own_label
from sdqn_lab.analysis.stored_run import Run
from sdqn_lab.checks.refused import Refused
from sdqn_lab.runs.upgrade import LATER
from tests.analysis.runs import make_run


def compare(tmp_path, *cells, **options):
    """A comparison of runs; a cell is the overrides of its config."""
    runs = [
        Run(make_run(tmp_path / f"{number}", *overrides.split(), seed=seed))
        for number, (overrides, seed) in enumerate(cells)
    ]
    return Comparison(runs, **options)


def names(comparison):
    return [str(arm) for arm in comparison.arms]


def test_an_arm_is_the_combination_of_the_choices_that_vary(tmp_path):
    comparison = compare(
        tmp_path, ("norm=popnorm", 0), ("norm=none", 0), ("norm=none", 1), ("norm=popnorm", 1)
    )
    assert comparison.axes == ("norm",)
    assert names(comparison) == ["norm=popnorm", "norm=none"]
    assert [len(runs) for runs in comparison.cells.values()] == [2, 2]


def test_what_follows_from_another_choice_names_no_arm(tmp_path):
    cells = [(f"experiment={name}", 0) for name in ("pl_sdqn", "dqn", "sdqn")]
    comparison = compare(tmp_path, *cells)
    assert comparison.axes == ("neuron", "norm")
    assert names(comparison) == ["pl_sdqn", "dqn", "sdqn"]


def test_an_experiment_and_the_same_settings_written_out_are_one_arm(tmp_path):
    plain = "neuron=lif norm=popnorm surrogate=atan"
    comparison = compare(
        tmp_path, ("experiment=pl_sdqn", 0), (plain, 1), ("experiment=dqn", 0), ("norm=none", 0)
    )
    assert [len(runs) for runs in comparison.cells.values()] == [2, 1, 1]
    assert names(comparison) == ["neuron=lif, norm=popnorm", "dqn", "neuron=lif, norm=none"]


def test_a_class_of_ones_own_is_an_arm_beside_the_option_that_it_was_written_to(tmp_path):
    own = "neuron=lif neuron._target_=sdqn_lab.spiking.neuron.PLIF"
    comparison = compare(tmp_path, ("neuron=lif", 0), (own, 0))
    assert comparison.axes == ("neuron._target_",)
    assert len(comparison.arms) == 2


def test_what_changes_no_number_makes_no_arms(tmp_path):
    comparison = compare(
        tmp_path,
        ("time_window=4", 0),
        ("time_window=4 algo.replay_device=cpu", 1),
    )
    assert comparison.axes == ()


def test_a_run_from_before_there_was_a_key_and_one_with_its_default_are_one_arm(tmp_path):
    old, new = (make_run(tmp_path / f"{seed}", "env=cartpole", seed=seed) for seed in (0, 1))
    config = OmegaConf.load(old / "config.yaml")
    for path in LATER:
        *group, key = path.split(".")
        (OmegaConf.select(config, group[0]) if group else config).pop(key, None)
    OmegaConf.save(config, old / "config.yaml")
    assert "normalize_rewards" not in (old / "config.yaml").read_text()
    assert len(Comparison([Run(old), Run(new)]).arms) == 1


def test_arms_of_several_evaluation_windows_are_named_by_them(tmp_path):
    cells = [(f"time_window=4 time_window_eval={window}", 0) for window in (4, 8)]
    comparison = compare(tmp_path, *cells, against=["time_window_eval=4"])
    assert names(comparison) == ["time_window_eval=4", "time_window_eval=8"]


def test_a_baseline_is_found_by_a_number_in_whatever_form(tmp_path):
    cells = [("algo.learning_rate=1e-05", 0), ("algo.learning_rate=1e-04", 0)]
    for word in ("1e-05", "1.0e-5", "0.00001"):
        comparison = compare(tmp_path / word, *cells, against=[f"algo.learning_rate={word}"])
        assert comparison.baseline == comparison.arms[0]


def test_settings_of_the_environment_make_arms(tmp_path):
    comparison = compare(tmp_path, ("env.observation_scale=1", 0), ("env.observation_scale=2", 0))
    assert comparison.axes == ("env.observation_scale",)


def test_lists_are_named_as_they_are_written(tmp_path):
    cells = [("network.channels=[8]", 0), ("network.channels=[16]", 0)]
    comparison = compare(tmp_path, *cells, against=["network.channels=[8]"])
    assert names(comparison) == ["network.channels=[8]", "network.channels=[16]"]
    assert comparison.baseline == comparison.arms[0]


def test_a_number_is_a_number_however_it_is_written(tmp_path):
    cells = [("neuron.tau=2.0", 0), ("neuron.tau=3.0", 0)]
    assert compare(tmp_path, *cells, against=["neuron.tau=3"]).baseline.options == (
        ("neuron.tau", 3.0),
    )


def test_single_settings_make_arms_too(tmp_path):
    comparison = compare(
        tmp_path, ("time_window=2 neuron.tau=2.0", 0), ("time_window=4 neuron.tau=3.0", 0),
        ("time_window=2 neuron.tau=3.0", 0),
    )  # fmt: skip
    assert comparison.axes == ("neuron.tau", "time_window")
    assert names(comparison)[0] == "neuron.tau=2.0, T=2"


def test_the_game_its_sizes_and_the_seed_make_no_arm(tmp_path):
    comparison = compare(
        tmp_path, ("env=minatar_breakout", 0), ("env=minatar_freeway", 1), ("env=pong", 2)
    )
    assert comparison.axes == ()
    assert names(comparison) == ["all"]
    assert [task.game for task in comparison.tasks] == [
        "minatar_breakout",
        "minatar_freeway",
        "pong",
    ]


def test_a_network_without_time_has_no_time_window_and_no_surrogate(tmp_path):
    comparison = compare(
        tmp_path, ("neuron=relu norm=none", 0), ("time_window=4", 0), ("time_window=8", 0)
    )
    assert names(comparison) == ["neuron=relu", "neuron=lif, T=4", "neuron=lif, T=8"]


def test_the_same_game_under_another_protocol_is_another_task(tmp_path):
    comparison = compare(
        tmp_path, ("protocol=minatar", 0), ("protocol=minatar protocol.sticky_actions=0.25", 0)
    )
    first, second = comparison.tasks
    assert first.game == second.game == "minatar_breakout"
    assert {"sticky_actions=0.1", "sticky_actions=0.25"} == {
        word for task in (first, second) for word in task.rules.split(", ") if "sticky" in word
    }
    assert "sticky_actions=" in str(first)
    assert comparison.axes == ()


def test_the_dqn_is_the_baseline_unless_another_arm_is_asked_for(tmp_path):
    cells = [(f"experiment={name}", 0) for name in ("pl_sdqn", "dqn", "dqn_popnorm")]
    comparison = compare(tmp_path / "a", *cells)
    assert str(comparison.baseline) == "dqn"
    chosen = compare(tmp_path / "b", *cells, against=["neuron=lif"])
    assert str(chosen.baseline) == "pl_sdqn"


@pytest.mark.parametrize(
    ("against", "rule", "instead"),
    [
        ("experiment=vanilla", "no arm fits", "pl_sdqn; dqn; dqn_popnorm"),
        ("neuron=relu", "2 arms fit", "pl_sdqn; dqn; dqn_popnorm"),
        ("dqn", "not key=value", "experiment=dqn"),
    ],
)
def test_a_baseline_that_is_not_one_arm_is_refused_with_the_arms_there_are(
    tmp_path, against, rule, instead
):
    cells = [(f"experiment={name}", 0) for name in ("pl_sdqn", "dqn", "dqn_popnorm")]
    with pytest.raises(Refused) as caught:
        compare(tmp_path, *cells, against=[against])
    error = caught.value
    assert (error.key, error.value, error.rule) == ("--against", against, rule)
    assert error.instead.endswith(instead)


def test_arms_can_differ_in_chosen_keys_alone_and_what_is_pooled_is_said(tmp_path):
    cells = [(f"norm={norm} time_window={t}", 0) for norm in ("popnorm", "none") for t in (2, 4)]
    comparison = compare(tmp_path, *cells, by=["norm"])
    assert names(comparison) == ["norm=popnorm", "norm=none"]
    (notice,) = comparison.notices
    assert "differ in time_window are counted as one arm" in notice.message


@pytest.mark.parametrize("key", ["normm", "env"])
def test_a_key_that_makes_no_arms_is_refused_with_some_that_do(tmp_path, key):
    with pytest.raises(Refused) as caught:
        compare(tmp_path, ("norm=popnorm", 0), ("norm=none", 0), by=[key])
    assert (caught.value.key, caught.value.value) == ("--by", key)
    assert caught.value.instead == "norm"


def changed_code(path, sha):
    """A sweep of two arms, made with another commit."""
    runs = [make_run(path / norm, f"norm={norm}") for norm in ("popnorm", "none")]
    for run in runs:
        status = (run / "status.json").read_text()
        (run / "status.json").write_text(status.replace("0123456789", sha))
    return [Run(run) for run in runs]


def test_the_same_arms_before_and_after_a_change_of_code_are_compared_by_sweep_or_commit(tmp_path):
    runs = [
        run
        for name, sha in (("before", "1234567890"), ("after", "abcdef0123"))
        for run in changed_code(tmp_path / name, sha)
    ]
    once = Comparison(runs)
    assert len(once.runs) == 2, "without --by two runs of the same settings and seed are one"
    assert len(once.notices) == 2
    by_commit = Comparison(runs, by=["norm", "commit"], against=["commit=12345678", "norm=none"])
    assert [dict(arm.options)["commit"] for arm in by_commit.arms] == [
        *("12345678", "12345678", "abcdef01", "abcdef01"),
    ]
    assert by_commit.baseline == by_commit.arms[1]
    assert by_commit.notices == []
    by_sweep = Comparison(runs, by=["sweep"])
    assert names(by_sweep) == [f"sweep={tmp_path / name}" for name in ("before", "after")]


def test_labels_are_the_names_of_the_arms_and_say_what_varies(tmp_path):
    cells = [
        *("experiment=dqn norm=none", "experiment=dqn norm=popnorm"),
        *("experiment=pl_sdqn norm=none", "experiment=pl_sdqn norm=popnorm"),
    ]
    runs = [
        Run(make_run(tmp_path / f"{i}", *overrides.split())) for i, overrides in enumerate(cells)
    ]
    comparison = Comparison(runs)
    assert list(arm_labels(runs).values()) == [str(comparison.arm_of(run)) for run in runs]
    assert len(set(arm_labels(runs).values())) == 4
    for i, gamma in enumerate((0.9, 0.99)):
        make_run(tmp_path / f"gamma{i}", f"algo.gamma={gamma}")
    found = arm_labels([Run(tmp_path / f"gamma{i}") for i in range(2)])
    assert list(found.values()) == ["algo.gamma=0.9", "algo.gamma=0.99"]


def test_runs_that_say_nothing_of_themselves_are_labelled_by_their_directories(tmp_path):
    runs = [Run(tmp_path / "gone"), Run(make_run(tmp_path / "whole", "norm=none"))]
    assert list(arm_labels(runs).values()) == ["gone", "all"]
    assert list(arm_labels(runs[:1]).values()) == ["gone"]


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ("experiment=dqn norm=popnorm", "relu, popnorm"),
        ("experiment=pl_sdqn time_window=4", "lif, popnorm, atan, T=4"),
    ],
)
def test_a_single_run_is_labelled_by_its_options_and_not_by_its_experiment(
    tmp_path, overrides, label
):
    run = Run(make_run(tmp_path / "run", *overrides.split()))
    assert own_label(run.choices, run.config["time_window"]) == label


def test_a_run_that_is_there_twice_counts_once_and_is_named(tmp_path):
    first = make_run(tmp_path / "first")
    shutil.copytree(first, tmp_path / "copy")
    comparison = Comparison([Run(first), Run(tmp_path / "copy")])
    assert len(comparison.runs) == 1
    (notice,) = comparison.notices
    assert notice.run == "copy"
    assert "the same settings and seed as" in notice.message


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.yaml", "seed: [", "config.yaml cannot be read"),
        ("config.yaml", "name: something else", "not that of a run: choices: Field required"),
        ("config.yaml", "BUDGET budget: 5", "not that of a run: budget"),
        ("config.yaml", "BUDGET budget: {steps: many}", "not that of a run: budget.steps"),
        ("config.yaml", "BUDGET protocol: null", "not that of a run: protocol"),
        ("config.yaml", "BUDGET env: pong", "not that of a run: env"),
        ("status.json", '{"state": "finished", "attempts": 5}', "attempts are no list"),
        ("status.json", '{"state": "finished", "attempts": [{"git_sha": 5}]}', "git_sha"),
        ("probe.json", '{"version": 2, "time_window": 1, "layers": []}', "version"),
        ("probe.json", '{"version": 1, "time_window": 1, "layers": null}', "layers"),
        ("probe.json", "[1]", "not that of a run"),
        ("status.json", '{"state": "fini', "not valid JSON"),
        ("status.json", '{"state": "done"}', "no state of pending"),
        ("metrics.jsonl", "garbage\n", "line 1 is not valid JSON"),
        ("status.json", "BRACKETS", "not valid JSON"),
        ("probe.json", "BRACKETS", "probe.json cannot be read"),
        ("config.yaml", "BRACKETS", "config.yaml cannot be read"),
        ("metrics.jsonl", "BRACKETS", "line 1 is not valid JSON"),
    ],
)
def test_a_damaged_file_is_a_notice_that_names_run_and_file(tmp_path, file, text, said):
    whole, damaged = make_run(tmp_path / "whole"), make_run(tmp_path / "damaged", seed=1)
    if text.startswith("BUDGET "):  # the rest of the file is whole
        text = (damaged / file).read_text() + text.removeprefix("BUDGET ") + "\n"
    (damaged / file).write_text("[" * 100_000 + "\n" if text == "BRACKETS" else text)
    comparison = Comparison([Run(whole), Run(damaged)])
    assert any(n.run == "damaged" and said in n.message for n in comparison.notices)


def test_failed_and_lost_runs_are_named_with_their_reason(tmp_path):
    path = make_run(tmp_path / "bad", state="failed", error="Traceback\nValueError: loss is nan")
    comparison = Comparison([Run(path)])
    (notice,) = comparison.notices
    assert notice.message == "failed at step 5,000 of 5,000: ValueError: loss is nan"


def test_a_run_from_before_there_was_an_objective_is_of_the_same_arm(tmp_path):
    make_run(tmp_path / "new")
    old = make_run(tmp_path / "old", seed=1) / "config.yaml"
    old.write_text(old.read_text().replace("objective: eval/return_mean\n", ""))
    assert "objective" not in old.read_text()
    assert Comparison([Run(tmp_path / "new"), Run(tmp_path / "old")]).axes == ()


def test_the_baseline_is_dqn_or_else_the_arm_that_a_spiking_one_is_named_after(tmp_path):
    family = [(f"experiment={name}", 0) for name in ("pl_qr_dqn", "qr_dqn")]
    assert compare(tmp_path / "a", *family).baseline.name == "qr_dqn"
    assert compare(tmp_path / "b", *family, ("experiment=dqn", 0)).baseline.name == "dqn"
    alone = [("experiment=pl_qr_dqn", 0), ("experiment=sdqn", 0)]
    assert compare(tmp_path / "c", *alone).baseline.name == "pl_qr_dqn"

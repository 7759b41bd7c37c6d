"""Scores at a common length, worked out by hand."""

import pytest

from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.scoring import Scores, suites
from sdqn_lab.analysis.stored_run import Run
from tests.analysis.runs import STEPS, make_run


def scores_of(tmp_path, **cells):
    """name -> (overrides, options of make_run)."""
    runs = [
        Run(make_run(tmp_path / name, *overrides.split(), **options))
        for name, (overrides, options) in cells.items()
    ]
    return Scores(Comparison(runs))


def last(scores, task=0):
    comparison = scores.comparison
    task = comparison.tasks[task]
    return {str(arm): scores.last(task, arm).tolist() for arm in comparison.arms}


def test_the_last_window_is_the_last_fifth_of_the_steps_and_best_the_highest(tmp_path):
    steps = tuple(range(500, 5_001, 500))
    points = (0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 7.0, 4.0, 2.0)
    scores = scores_of(tmp_path, only=("", {"scores": points, "steps": steps}))
    ((task,), (arm,)) = scores.comparison.tasks, scores.comparison.arms
    assert scores.last(task, arm).tolist() == [3.0]  # of 4,500 and 5,000; 4,000 is outside
    assert scores.best(task, arm).tolist() == [9.0]


def test_steps_that_overshoot_by_a_vector_step_change_nothing(tmp_path):
    steps = (1_003, 2_001, 3_006, 4_002, 5_007)
    scores = scores_of(tmp_path, only=("", {"steps": steps}))
    assert list(last(scores).values()) == [[5.0]]
    assert scores.comparison.notices == []


def test_a_run_of_many_environments_may_overshoot_by_a_step_of_all_of_them(tmp_path):
    for asked, steps in ((800, (400, 832)), (240, (128, 256))):
        overrides = f"algo.num_envs=64 budget.steps={asked} algo.replay_start_steps=100"
        options = {"steps": steps, "scores": (1.0, 2.0)}
        scores = scores_of(tmp_path / f"{asked}", only=(overrides, options))
        assert list(last(scores).values()) == [[2.0]]
        assert scores.comparison.notices == []


def test_the_last_window_of_many_evaluations_is_a_fifth_of_them(tmp_path):
    steps = tuple(range(50, 5_001, 50))
    points = tuple(float(step > 4_000) for step in steps)
    ramp = tuple(float(number) for number in range(100))
    for name, values, mean in (("flat", points, 1.0), ("ramp", ramp, 89.5)):
        scores = scores_of(tmp_path / name, only=("", {"steps": steps, "scores": values}))
        assert list(last(scores).values()) == [[mean]]  # (80 + ... + 99) / 20


def test_a_run_that_is_shorter_is_left_out_and_named_with_both_lengths(tmp_path):
    scores = scores_of(
        tmp_path,
        whole=("", {"seed": 0}),
        half=("", {"seed": 1, "scores": (1.0, 2.0), "state": "running"}),
    )
    assert list(last(scores).values()) == [[5.0]]
    (notice,) = scores.comparison.notices
    assert notice.run == "half"
    assert "evaluated until step 2,000, compared at 5,000" in notice.message
    assert scores.interim == []


def test_an_arm_without_a_finished_run_has_no_score_beside_finished_ones(tmp_path):
    scores = scores_of(
        tmp_path,
        whole=("norm=popnorm", {}),
        half=("norm=none", {"scores": (1.0, 2.0), "state": "running"}),
    )
    assert last(scores) == {"norm=popnorm": [5.0], "norm=none": []}


def test_while_no_run_is_finished_arms_are_compared_where_all_have_been(tmp_path):
    scores = scores_of(
        tmp_path,
        ahead=("norm=popnorm", {"scores": (1.0, 2.0, 3.0, 9.0), "state": "running"}),
        behind=("norm=none", {"scores": (4.0, 5.0, 6.0), "state": "running"}),
        waiting=("norm=batchnorm", {"scores": (), "state": "pending"}),
    )
    assert list(scores.steps.values()) == [3_000]
    assert last(scores) == {"norm=popnorm": [3.0], "norm=none": [6.0], "norm=batchnorm": []}
    assert scores.interim == scores.comparison.tasks


def test_arms_of_unequal_budgets_are_compared_at_equal_steps(tmp_path):
    scores = scores_of(
        tmp_path,
        long=("norm=popnorm", {}),
        short=("norm=none budget.steps=3000", {"scores": (7.0, 8.0, 9.0), "steps": STEPS[:3]}),
    )
    assert last(scores) == {"norm=popnorm": [3.0], "norm=none": [9.0]}
    (notice,) = scores.comparison.notices
    assert notice.run == "long"
    assert "evaluations after step 3,000 do not count" in notice.message


@pytest.mark.parametrize(
    ("env", "score", "normalized"),
    [
        ("minatar_breakout", 0.366, 0.0),
        ("minatar_breakout", 27.76, 1.0),
        ("minatar_asterix", (0.493 + 32.22) / 2, 0.5),
        ("pong", 14.6, 1.0),
    ],
)
def test_a_suite_puts_random_at_zero_and_the_reference_at_one(tmp_path, env, score, normalized):
    scores = scores_of(tmp_path, only=(f"env={env}", {"scores": (score,) * 5}))
    (suite,), (task,) = suites(scores.comparison.tasks), scores.comparison.tasks
    (arm,) = scores.comparison.arms
    assert suite.normalized
    assert suite.normalize(task, scores.last(task, arm)) == pytest.approx([normalized], abs=1e-12)


def test_games_of_unlike_scales_are_never_averaged_and_one_without_scale_stays_in_points(tmp_path):
    scores = scores_of(
        tmp_path,
        a=("env=pong", {}),
        b=("env=minatar_breakout", {}),
        c=("env=minatar_freeway", {}),
        d=("env=cartpole", {}),
    )
    found = {tuple(t.game for t in s.tasks): s.normalized for s in suites(scores.comparison.tasks)}
    assert found == {
        ("minatar_breakout", "minatar_freeway"): True,
        ("pong",): True,
        ("cartpole",): False,
    }


def test_a_run_that_was_not_evaluated_at_the_common_length_has_no_score(tmp_path):
    scores = scores_of(
        tmp_path,
        sparse=("norm=none budget.steps=6000", {"scores": (1.0, 2.0), "steps": (3_000, 6_000)}),
        dense=("norm=popnorm", {}),
    )
    assert last(scores) == {"norm=none": [], "norm=popnorm": [5.0]}
    assert any("not evaluated at step 5,000" in n.message for n in scores.comparison.notices)


def test_one_game_under_two_rules_is_never_averaged(tmp_path):
    scores = scores_of(
        tmp_path,
        a=("protocol.sticky_actions=0.1", {}),
        b=("protocol.sticky_actions=0.25", {}),
    )
    first, second = suites(scores.comparison.tasks)
    assert len(first.tasks) == len(second.tasks) == 1
    assert first.name != second.name
    assert "sticky_actions=0.25" in second.name or "sticky_actions=0.25" in first.name

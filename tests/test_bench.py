"""The bench: its counts equal a calculation by hand, its rivals equal ours, its rows are whole."""

import copy
import json
import subprocess
import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sdqn_lab import bench, build, config
from sdqn_lab.bench import benchmarks, selected
from sdqn_lab.benchmarks import counts, layers, learning, rows, training, variants
from sdqn_lab.benchmarks.counts import Rates, Work
from sdqn_lab.benchmarks.rows import Setting, compare
from sdqn_lab.benchmarks.stepwise import StepByStep
from sdqn_lab.benchmarks.timing import Effort, Spread, alternate
from sdqn_lab.benchmarks.variants import ATARI, MINATAR, Session, Variant
from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.minatar import MinAtar
from sdqn_lab.networks.nature import Nature
from sdqn_lab.spiking.encoder import Poisson
from sdqn_lab.spiking.neuron import IF, LIF, ReLU
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.readout import MeanMembrane
from sdqn_lab.spiking.surrogate import Atan, QuadraticGate
from tests.commands import refused
from tests.networks.helpers import build as network_of
from tests.networks.helpers import images, small

CPU = torch.device("cpu")
SETTING = Setting(CPU, 1, Effort(rounds=1, seconds=0.0), quick=True, compose=config.compose)
KEYS = {"name", "ours_ms", "against", "against_ms", "ratio"}


# What ours is measured against


@pytest.mark.parametrize("norm", [PopNorm, BatchNorm, NoNorm])
@pytest.mark.parametrize("time_window", [1, 2, 8])
def test_the_step_by_step_form_has_our_values_and_gradients(norm, time_window):
    network = small(lambda: LIF(tau=1.25, v_threshold=0.3), norm, time_window=time_window)
    assert_equal_forms(network, images(4))


def test_the_step_by_step_form_of_the_nature_network_has_our_values_and_gradients():
    sizes = {"shape": (4, 84, 84), "channels": (4, 4, 4), "hidden": 32, "gain": 5.0}
    network = network_of(torso=Nature, observation_scale=255.0, time_window=16, **sizes).double()
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (2, 4, 84, 84), generator=generator, dtype=torch.uint8)
    assert_equal_forms(network, frames)


def assert_equal_forms(network, observations):
    stepwise = StepByStep.of(copy.deepcopy(network))
    q, expected = network(observations), stepwise(observations)
    assert q.abs().max() > 1e-3, "a silent network would prove nothing"
    torch.testing.assert_close(q, expected, rtol=1e-9, atol=1e-10)
    weights = torch.arange(1, q.shape[1] + 1, dtype=q.dtype)
    for values in (q, expected):
        (values * weights).sum().backward()
    gradients = [[p.grad for p in form.parameters()] for form in (network, stepwise)]
    largest = max(gradient.abs().max() for gradient in gradients[0])
    assert largest > 1e-6, "no gradient would prove nothing"
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours / largest, theirs / largest, rtol=1e-9, atol=1e-10)


def test_the_step_by_step_form_runs_every_map_at_every_step():
    network = StepByStep.of(small(time_window=5))
    calls = []
    for module in (network.torso.conv1.linear, network.torso.hidden.linear, network.readout.linear):
        module.register_forward_hook(lambda module, _inputs, _out: calls.append(id(module)))
    network(images(4))
    assert sorted(calls.count(one) for one in set(calls)) == [5, 5, 5]


@pytest.mark.parametrize(
    ("network", "key"),
    [
        pytest.param(lambda: small(IF), "neuron", id="if"),
        pytest.param(lambda: small(ReLU), "neuron", id="relu"),
        pytest.param(lambda: small(lambda: LIF(reset="soft")), "neuron", id="soft reset"),
        pytest.param(lambda: small(encoder=Poisson), "encoder", id="poisson"),
        pytest.param(lambda: small(readout=MeanMembrane), "readout", id="membrane"),
    ],
)
def test_the_step_by_step_form_refuses_what_the_original_is_not(network, key):
    with pytest.raises(Refused) as caught:
        StepByStep.of(network())
    assert caught.value.key == key


@pytest.mark.parametrize("experiment", ["pl_sdqn", "pl_pqn"])
@pytest.mark.parametrize("kind", ["fused", "step-by-step", "reference"])
def test_all_variants_of_an_arm_start_with_the_same_values(kind, experiment):
    seen = torch.ones(3, 4, 10, 10, dtype=torch.uint8)
    ours, other = (
        variants.built_agent(SETTING, Variant(MINATAR, 8, experiment, form)).network
        for form in ("auto", kind)
    )
    for network in (ours, other):
        network.torso.hidden.linear.weight.data.mul_(20)  # awake
    assert ours(seen).abs().max() > 0
    torch.testing.assert_close(ours(seen), other(seen))


@pytest.mark.parametrize("kind", ["fused", "step-by-step", "reference"])
def test_a_variant_acts_and_learns_in_its_own_form_alone(kind, monkeypatch):
    agent = variants.built_agent(SETTING, Variant(MINATAR, 2, kind=kind))
    assert agent.engine is None
    asked = []
    agent.network.register_forward_hook(lambda *_: asked.append(1))
    agent.act(np.zeros((8, 4, 10, 10), np.uint8), 10**9)
    assert asked


# Counts

PIXELS, HIDDEN, ACTIONS, BATCH, T = 16, 3, 3, 2, 4


def tiny(neuron=LIF):
    """1x4x4 pixels; conv 2x3x3 to 2x2x2; 3 hidden units; 3 values."""
    return network_of(
        neuron, torso=MinAtar, shape=(1, 4, 4), channels=(2,), hidden=HIDDEN, time_window=T
    )


def test_a_decision_costs_what_a_calculation_by_hand_says():
    macs = {
        ("conv1", "map"): 2 * 8 * 9,  # once: the input is constant
        ("hidden", "map"): 2 * 4 * 3 * 8,
        ("head", "map"): 2 * 3 * 3,
    }
    conv, bytes_ = 2 * 9 + 2, {}
    bytes_["input", "scale"] = 2 * 16 * (1 + 4)
    bytes_["conv1", "map"] = 4 * (2 * 16 + conv + 2 * 8)
    bytes_["conv1", "norm, neuron"] = 4 * (2 * 8 + 2 * 8 + 2 * 4 * 8)
    bytes_["hidden", "map"] = 4 * (2 * 4 * 8 + (8 * 3 + 3) + 2 * 4 * 3)
    bytes_["hidden", "norm, neuron"] = 4 * (2 * 4 * 3 + 2 * 4 * 3)
    bytes_["head", "mean"] = 4 * (2 * 4 * 3 + 2 * 3)
    bytes_["head", "map"] = 4 * (2 * 3 + 2 * 3 + 3 * 3)
    work = counts.decision(tiny(), (1, 4, 4), BATCH)
    assert {(w.layer, w.operation): w.macs for w in work if w.macs} == macs
    assert {(w.layer, w.operation): w.bytes for w in work} == bytes_


def test_an_update_costs_what_a_calculation_by_hand_says():
    forward = counts.decision(tiny(), (1, 4, 4), BATCH)
    plain = counts.update(tiny(), (1, 4, 4), BATCH, forwards=2)
    double = counts.update(tiny(), (1, 4, 4), BATCH, forwards=3)
    assert plain[: 2 * len(forward)] == forward * 2
    assert double == forward + plain
    parameters = 20 + 16 + 27 + 9
    assert plain[2 * len(forward) :] == [
        Work("head", "map", 2 * 18, 2 * 4 * (6 + 6 + 9)),
        Work("hidden", "norm, neuron", 0, 4 * (24 + 2 * 24)),
        Work("hidden", "map, weights", 192, 4 * (64 + 27 + 24)),
        Work("hidden", "map, input", 192, 4 * (64 + 27 + 24)),
        Work("conv1", "norm, neuron", 0, 4 * (64 + 2 * 16 + 2 * 16)),
        Work("conv1", "map, weights", 144, 4 * (32 + 20 + 16)),
        Work("all", "optimizer", 0, 4 * 7 * parameters),
    ]


def test_an_agent_step_costs_its_parts_of_a_decision_and_of_an_update():
    conv, hidden, head = 16 * 64 * 36, 128 * 1024, 6 * 128
    for variant, steps in ((Variant(MINATAR, 2), 2), (Variant(MINATAR, 1, "dqn"), 1)):
        forward = conv + steps * hidden + head
        # Two networks forward, and twice a forward back, but no gradient of the observation.
        update = 32 * (2 * forward + 2 * forward - conv)
        macs = sum(work.macs for work in learning.of_step(SETTING, variant))
        assert macs == pytest.approx(forward + update / 4)
    forward = conv + 2 * hidden + head
    macs = sum(work.macs for work in learning.of_step(SETTING, Variant(MINATAR, 2, "pl_pqn")))
    assert macs == pytest.approx(forward + 2 * (3 * forward - conv)), "two epochs"


def test_the_ann_baseline_costs_a_single_step():
    work = counts.decision(tiny(ReLU), (1, 4, 4), BATCH)
    assert sum(w.macs for w in work) == 2 * (8 * 9 + 3 * 8 + 3 * 3)


def test_the_nature_network_multiplies_as_often_as_its_paper_s_sizes_say():
    network = network_of(torso=Nature, shape=(4, 84, 84), num_actions=6, time_window=16)
    conv1, conv2, conv3 = 32 * 400 * 256, 64 * 81 * 512, 64 * 49 * 576
    expected = conv1 + 16 * (conv2 + conv3 + 512 * 3136) + 512 * 6
    assert sum(w.macs for w in counts.decision(network, (4, 84, 84), 1)) == expected


def test_the_floor_binds_each_operation_by_the_slower_of_its_two_needs():
    work = [Work("a", "map", 1_000, 10), Work("a", "norm", 0, 500)]
    assert counts.floor_ms(work, Rates(macs=1e3, bytes=1e3)) == pytest.approx(1_500)
    assert counts.floor_ms(work, Rates(macs=1e6, bytes=1e3)) == pytest.approx(510)


def test_the_machine_s_rates_count_what_its_limits_move_and_multiply():
    times = {"copy": Spread(500.0, 0.0, 0.0), "convolution": Spread(2.0, 0.0, 0.0)}
    rates = counts.machine_rates(times)
    assert rates.bytes == 2 * (2 * 4 * 2**25)
    assert rates.macs == 500 * (64 * 512 * 32 * 16 * 81)


# Measuring


class Clock:
    """Stands still but for the workloads that are made by it."""

    def __init__(self):
        self.seconds, self.turns = 0.0, ""

    def __call__(self):
        return self.seconds

    def workload(self, name, milliseconds):
        def run():
            self.seconds += milliseconds / 1e3
            self.turns += name

        return run


def test_workloads_take_turns():
    clock = Clock()
    workloads = {name: clock.workload(name, 1_000.0) for name in "ab"}
    alternate(workloads, Effort(rounds=3, seconds=0.0), clock)
    assert clock.turns == "ab" + "ababab"


def test_a_comparison_goes_on_until_its_seconds_are_spent():
    clock = Clock()
    alternate({"a": clock.workload("a", 1_000.0)}, Effort(rounds=1, seconds=4.5), clock)
    assert clock.turns == "a" + "aaaaa"


def test_a_quick_workload_is_repeated_and_its_time_is_that_of_a_call():
    clock = Clock()
    times = alternate({"a": clock.workload("a", 4.0)}, Effort(2, 0.0), clock)
    assert times["a"] == pytest.approx(Spread(4.0, 4.0, 4.0))
    assert len(clock.turns) == 2 + 2 * 5


def test_the_spread_is_median_and_quartiles():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0)


def test_a_ratio_above_one_says_that_ours_is_faster(monkeypatch):
    times = {"ours": Spread(2.0, 1.0, 3.0), "slow": Spread(8.0, 8.0, 8.0)}
    monkeypatch.setattr(rows, "alternate", lambda *_: dict(times))
    (row,) = compare("x", SETTING, lambda: object, {"slow": lambda: object}, 2)
    assert (row.ours, row.theirs) == (Spread(1.0, 0.5, 1.5), Spread(4.0, 4.0, 4.0))
    assert row.ratio == 4.0


def test_what_is_not_installed_is_a_row_that_says_so():
    def missing():
        raise ImportError("No module named 'other'")

    others = {"other": missing, "own": lambda: object}
    present, absent = compare("x", SETTING, lambda: object, others)
    assert (present.against, absent.against) == ("own", "other")
    assert absent.theirs is absent.ratio is None
    assert "No module named 'other'" in absent.note


def test_other_errors_of_a_competitor_are_not_taken_for_a_missing_library():
    def broken():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        compare("x", SETTING, lambda: object, {"other": broken})


def test_a_row_without_a_competitor_stands_alone():
    (row,) = compare("x", SETTING, lambda: object)
    assert row.record()["against_ms"] is row.record()["ratio"] is None


# Benchmarks


@pytest.mark.parametrize("experiment", ["pl_sdqn", "pl_pqn"])
def test_a_session_trains_at_its_ratio_and_continues_where_it_stopped(experiment):
    session = Session(SETTING, variant := Variant(MINATAR, 2, experiment))
    cfg, seen = variants.composed(SETTING, variant), []
    chunk, ratio = variants.rhythm(cfg).chunk_steps, variants.rhythm(cfg).updates_per_step
    for _ in range(3):
        session()
        seen.append((session.trainer.counters.steps, session.trainer.counters.updates))
    steps, updates = np.array(seen).T
    begin = cfg.algo.get("replay_start_steps", chunk)
    assert all(0 <= s - begin - n * chunk < cfg.algo.num_envs for n, s in zip(count(1), steps))
    assert updates[-1] - updates[0] == pytest.approx((steps[-1] - steps[0]) * ratio, rel=0.1)


@pytest.mark.parametrize("game", [ATARI, MINATAR])
def test_the_bare_emulator_is_stepped_as_often_as_our_environment(game, monkeypatch):
    env = training.environment(SETTING, Variant(game, 1))
    monkeypatch.setattr(training, "environment", lambda *_: env)
    rows = []
    if game == ATARI:
        monkeypatch.setattr(env, "_emulators", SimpleNamespace(step=rows.append))
    else:
        monkeypatch.setattr(training, "play", lambda _, row: rows.append(row))
    bare = training.stepping(SETTING, Variant(game, 1), 40, bare=True)
    monkeypatch.setattr(env, "step", rows.append)
    ours = training.stepping(SETTING, Variant(game, 1), 40)
    bare()
    assert len(rows) == 40 // env.num_envs
    ours()
    drawn = np.array(rows).reshape(2, -1, env.num_envs)
    assert (drawn[0] == drawn[1]).all()


def test_minatar_s_own_games_play_one_action_each():
    env = training.environment(SETTING, Variant(MINATAR, 1))
    before = [game._environment.state().copy() for game in env._games]
    training.play(env, np.zeros(env.num_envs, np.int64))
    after = [game._environment.state() for game in env._games]
    assert all((one != other).any() for one, other in zip(before, after, strict=True))


def test_the_shapes_of_the_bench_are_those_of_the_games():
    for game, shape in variants.SHAPES.items():
        env = build.build_env(variants.composed(SETTING, Variant(game, 1)), 1)
        assert (env.observation_shape, env.num_actions) == (shape, variants.ACTIONS)
        assert training.STEPS % variants.composed(SETTING, Variant(game, 1)).algo.num_envs == 0
        env.close()


@pytest.mark.slow  # 20 s
def test_the_peak_of_an_update_is_measured_in_a_process_of_its_own():
    spikes = 8 * 32 * 16 * 8 * 8 * 4
    assert learning.peak_in_process(SETTING, Variant(MINATAR, 8, kind="fused")) > spikes


@pytest.mark.slow  # 20 s
def test_cells_train_at_the_same_time_and_are_summed():
    (pair,) = training.cells_rows("x", SETTING, Variant(MINATAR, 1), (2,), seconds=0.2)
    assert (pair.name, pair.against, pair.ratio) == ("x/cells=2", "cells=2", 1.0)
    assert pair.more["ours_steps_per_second"] == pytest.approx(1e3 / pair.ours.median)


def test_a_surrogate_that_others_lack_is_compared_with_the_plain_steps_alone():
    size = layers.Neurons(2, (1, 3))
    against = [
        [row.against for row in layers.neuron_rows("x", SETTING, size, surrogate)]
        for surrogate in (Atan(), QuadraticGate())
    ]
    assert against[1] == ["reference"]
    assert sorted(against[0]) == ["reference", "snntorch", "spikingjelly"]


# The command


def test_names_are_unique_and_quick_is_a_part_of_all():
    full = [one.name for one in benchmarks(replace(SETTING, quick=False))]
    quick = [one.name for one in benchmarks(SETTING)]
    assert len(set(full)) == len(full)
    assert set(quick) < set(full)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("dqn/T=1/", ["update/atari/pl_sdqn/T=1/cpu"]),
        ("replay/*/sample/cpu", ["replay/atari/sample/cpu", "replay/minatar/sample/cpu"]),
        ("replay/*/sample", []),
    ],
)
def test_only_takes_a_part_of_a_name_or_a_pattern(pattern, names):
    assert [one.name for one in selected(benchmarks(SETTING), pattern)] == names


def test_cells_are_for_gpus_alone():
    gpu = replace(SETTING, device=torch.device("cuda"))
    assert selected(benchmarks(gpu), "cells/")
    assert not selected(benchmarks(SETTING), "cells/")


def test_the_command_writes_rows_and_prints_a_table(tmp_path):
    arguments = ["--quick", "--only", "lif/hidden", "--threads", "1", "--json", "rows.json"]
    command = [sys.executable, "-m", "sdqn_lab.bench", *arguments, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    records = json.loads((tmp_path / "rows.json").read_text())
    assert isinstance(records, list)
    for record in records:
        assert record.keys() >= KEYS | {"device", "threads", "machine", "git_sha", "note"}
        assert record["name"] in done.stdout
        assert record["ours_ms"] > 0
        if record["against_ms"] is None:
            assert "not installed" in record["note"]
            continue
        assert record["ratio"] == pytest.approx(record["against_ms"] / record["ours_ms"])
    assert records[0]["against"] == "reference"
    assert records[0]["against_ms"] is not None


@pytest.mark.parametrize(
    ("row", "against"),
    [
        ("update/minatar/pl_sdqn/T=4", {"fused", "step-by-step", "spikingjelly", "ann", "floor"}),
        ("training/minatar/dqn", {"fused", "floor"}),
    ],
)
def test_an_arm_has_rows_for_every_competitor_and_the_floor(row, against, capsys, tmp_path):
    assert bench.main(["--quick", "--only", row, "--json", "rows.json"]) == 0
    records = {
        record["against"]: record for record in json.loads((tmp_path / "rows.json").read_text())
    }
    assert records.keys() == against
    assert records["floor"]["macs"] > 0
    assert records["floor"]["bytes"] > 0
    assert records["fused"]["ratio"] > 0
    if row.startswith("training"):
        rates = [records["fused"][f"{who}_steps_per_second"] for who in ("ours", "against")]
        assert rates[0] / rates[1] == pytest.approx(records["fused"]["ratio"])


def test_list_names_every_benchmark_and_measures_nothing(carry_out):
    answer = carry_out(bench.main, "--quick", "--list", "--device", "cpu")
    assert answer.code == 0
    assert answer.out.split() == [one.name for one in benchmarks(SETTING)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--only", "nothing"], "--only"),
        (["--threads", "0"], "--threads"),
        (["--threads", "two"], "--threads"),
        (["--json", "no/rows.json"], "--json"),
        (["--json", "."], "--json"),
        (["--device", "tpu"], "--device"),
        (["--fast"], "--fast"),
    ],
)
def test_a_bad_argument_gets_one_line_that_names_it(arguments, named, carry_out):
    refused(carry_out(bench.main, *arguments), named)


def test_a_gpu_that_is_not_there_is_refused(carry_out, no_gpu):
    refused(carry_out(bench.main, "--device", "cuda", "--list"), "--device")

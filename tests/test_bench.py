"""The bench: its counts equal a calculation by hand, its rival equals ours, its rows are whole."""

import copy
import json
import subprocess
import sys
from itertools import count

import pytest
import torch

from sdqn_lab import bench
from sdqn_lab.benchmarks import arms, cells, counts, layer, machine, rows, storage
from sdqn_lab.benchmarks.catalogue import benchmarks, selected
from sdqn_lab.benchmarks.counts import Rates, Work
from sdqn_lab.benchmarks.memory import peak_in_process
from sdqn_lab.benchmarks.rows import Row, Setting, contest
from sdqn_lab.benchmarks.session import Plan, Session
from sdqn_lab.benchmarks.stepwise import StepByStep
from sdqn_lab.benchmarks.timing import Effort, Spread, alternate
from sdqn_lab.benchmarks.training import bare_form
from sdqn_lab.networks.minatar import MinAtar
from sdqn_lab.networks.nature import Nature
from sdqn_lab.spiking.encoder import Poisson
from sdqn_lab.spiking.neuron import IF, LIF, ReLU
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.readout import MeanMembrane
from sdqn_lab.spiking.surrogate import Atan, QuadraticGate
from tests.networks.helpers import build, images, small

CPU = torch.device("cpu")
SETTING = Setting(CPU, threads=1, effort=Effort(rounds=1, seconds=0.0), quick=True)
KEYS = {"name", "ours_ms", "against", "against_ms", "ratio"}


# What ours is measured against


@pytest.mark.parametrize("norm", [PopNorm, BatchNorm, NoNorm])
@pytest.mark.parametrize("time_window", [1, 2, 8])
def test_the_step_by_step_form_has_our_values_and_gradients(norm, time_window):
    network = small(lambda: LIF(tau=1.25, v_threshold=0.3), norm, time_window=time_window)
    assert_equal_forms(network, images(4))


def test_the_step_by_step_form_of_the_nature_network_has_our_values_and_gradients():
    sizes = {"shape": (4, 84, 84), "channels": (4, 4, 4), "hidden": 32, "gain": 5.0}
    network = build(torso=Nature, observation_scale=255.0, time_window=16, **sizes).double()
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
    "network",
    [
        pytest.param(lambda: small(IF), id="if"),
        pytest.param(lambda: small(ReLU), id="relu"),
        pytest.param(lambda: small(lambda: LIF(reset="soft")), id="soft reset"),
        pytest.param(lambda: small(encoder=Poisson), id="poisson"),
        pytest.param(lambda: small(readout=MeanMembrane), id="membrane"),
    ],
)
def test_the_step_by_step_form_refuses_what_the_original_is_not(network):
    with pytest.raises(ValueError, match="step-by-step"):
        StepByStep.of(network())


@pytest.mark.parametrize("kind", ["step-by-step", "reference"])
def test_all_forms_of_an_agent_start_with_the_same_values(kind):
    seen = torch.ones(3, 4, 10, 10, dtype=torch.uint8)
    ours, other = (arms.network(form, "minatar_breakout", 8, CPU) for form in ("fused", kind))
    for network in (ours, other):
        network.torso.hidden.linear.weight.data.mul_(20)  # awake
    assert ours(seen).abs().max() > 0
    torch.testing.assert_close(ours(seen), other(seen))


# Counts

PIXELS, HIDDEN, ACTIONS, BATCH, T = 16, 3, 3, 2, 4


def tiny(neuron=LIF):
    """1x4x4 pixels; conv 2x3x3 to 2x2x2; 3 hidden units; 3 values."""
    return build(
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
    plain = counts.update(tiny(), (1, 4, 4), BATCH, double=False)
    double = counts.update(tiny(), (1, 4, 4), BATCH, double=True)
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


def test_the_artificial_twin_costs_a_single_step():
    work = counts.decision(tiny(ReLU), (1, 4, 4), BATCH)
    assert sum(w.macs for w in work) == 2 * (8 * 9 + 3 * 8 + 3 * 3)


def test_the_nature_network_multiplies_as_often_as_its_paper_s_sizes_say():
    network = build(torso=Nature, shape=(4, 84, 84), num_actions=6, time_window=16)
    conv1, conv2, conv3 = 32 * 400 * 256, 64 * 81 * 512, 64 * 49 * 576
    expected = conv1 + 16 * (conv2 + conv3 + 512 * 3136) + 512 * 6
    assert sum(w.macs for w in counts.decision(network, (4, 84, 84), 1)) == expected


def test_the_floor_binds_each_operation_by_the_slower_of_its_two_needs():
    work = [Work("a", "map", 1_000, 10), Work("a", "norm", 0, 500)]
    assert counts.floor_ms(work, Rates(macs=1e3, bytes=1e3)) == pytest.approx(1_500)
    assert counts.floor_ms(work, Rates(macs=1e6, bytes=1e3)) == pytest.approx(510)


def test_the_machine_s_rates_count_what_the_probes_move_and_multiply():
    times = {machine.COPY: Spread(500.0, 0.0, 0.0), machine.CONVOLUTION: Spread(2.0, 0.0, 0.0)}
    rates = machine.rates(times)
    assert rates.bytes == 2 * (2 * 4 * 2**25)
    assert rates.macs == 500 * (64 * 512 * 32 * 16 * 81)


# Measuring


def test_forms_take_turns():
    turns = []
    forms = {name: lambda name=name: turns.append(name) for name in "ab"}
    alternate(forms, Effort(rounds=3, seconds=0.0), clock(1_000.0))
    assert "".join(turns) == "ab" + "ababab"


def test_a_quick_form_is_repeated_and_told_per_call():
    calls = []
    times = alternate({"a": lambda: calls.append(1)}, Effort(2, 0.0), clock(4.0))
    assert times["a"] == Spread(4.0, 4.0, 4.0)
    assert len(calls) == 2 + 2 * 5


def test_the_spread_is_median_and_quartiles():
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, low=2.0, high=4.0)


def test_a_ratio_above_one_says_that_ours_is_faster(monkeypatch):
    times = {"ours": Spread(2.0, 1.0, 3.0), "slow": Spread(8.0, 8.0, 8.0)}
    monkeypatch.setattr(rows, "alternate", lambda *_: times)
    (row,) = contest("x", object, {"slow": lambda: object}, SETTING, per=2)
    assert (row.ours, row.theirs) == (Spread(1.0, 0.5, 1.5), Spread(4.0, 4.0, 4.0))
    assert row.ratio == 4.0


def test_what_is_not_installed_is_a_row_that_says_so():
    def missing():
        raise ImportError("No module named 'other'")

    present, absent = contest("x", object, {"other": missing, "own": lambda: object}, SETTING)
    assert (present.against, absent.against) == ("own", "other")
    assert absent.theirs is absent.ratio is None
    assert absent.note == "not installed (No module named 'other')"


def test_other_errors_of_a_rival_are_not_taken_for_a_missing_library():
    def broken():
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        contest("x", object, {"other": broken}, SETTING)


def clock(milliseconds):
    """Every call of a form takes so long."""

    def watch(form, repeats):
        for _ in range(repeats):
            form()
        return milliseconds * repeats

    return watch


# Benchmarks


def test_a_session_trains_at_its_ratio_and_continues_where_it_stopped():
    cfg = arms.composed("minatar_breakout", "fused", "cpu", 1)
    session = Session(Plan("fused", "minatar_breakout", 2, 10, 40), cfg)
    seen = []
    for _ in range(3):
        session()
        seen.append((session.trainer.counters.steps, session.trainer.counters.updates))
    steps, updates = zip(*seen, strict=True)
    assert all(
        320 + 40 * n <= s < 320 + 40 * n + cfg.algo.num_envs for n, s in zip(count(1), steps)
    )
    assert list(updates) == [(s - 320) // 10 for s in steps]


def test_a_session_that_never_learns_asks_no_network(monkeypatch):
    cfg = arms.composed("minatar_breakout", "fused", "cpu", 1)
    session = Session(Plan("fused", "minatar_breakout", 2, None, 80), cfg)
    monkeypatch.setattr(session.trainer.agent, "network", None)
    session()
    assert session.trainer.counters.updates == 0


@pytest.mark.parametrize("game", arms.SHAPES)
def test_the_bare_emulator_plays_the_game_of_our_environment(game):
    bare_form(SETTING, game, steps=3)()


def test_the_shapes_of_the_bench_are_those_of_the_games():
    from sdqn_lab import build as root

    for game, shape in arms.SHAPES.items():
        env = root.build_env(arms.composed(game, "fused", "cpu", 1), 1)
        assert (env.observation_shape, env.num_actions) == (shape, arms.ACTIONS)
        env.close()


def test_a_transition_on_atari_weighs_one_frame_and_its_columns():
    (row,) = storage.weight_rows("x", SETTING, "pong")
    columns = 1 + 4 + 1 + 1 + 1
    assert row.ours.median == 84 * 84 + columns
    assert row.theirs.median == 8 * 84 * 84 + columns
    assert row.record()["ours_ms"] is None


def test_the_peak_of_an_update_is_measured_in_a_process_of_its_own():
    spikes = 8 * 32 * 16 * 8 * 8 * 4
    assert peak_in_process(SETTING, "fused", "minatar_breakout", 8, 32) > spikes


def test_cells_train_at_the_same_time_and_are_summed():
    plan = Plan("fused", "minatar_breakout", 1, 10, 40)
    (pair,) = cells.cells_rows("x", SETTING, plan, (2,), seconds=0.2)
    assert (pair.name, pair.against, pair.ratio) == ("x/cells=2", "cells=2", 1.0)
    assert pair.more["ours_steps_per_second"] == pytest.approx(1e3 / pair.ours.median)


def test_a_surrogate_that_others_lack_is_compared_with_the_plain_steps_alone():
    size = layer.Size(2, (1, 3))
    against = [
        [row.against for row in layer.layer_rows("x", SETTING, size, surrogate)]
        for surrogate in (Atan(), QuadraticGate())
    ]
    assert against[1] == ["reference"]
    assert sorted(against[0]) == ["reference", "snntorch", "spikingjelly"]


# The command


def test_names_are_unique_and_quick_is_a_part_of_all():
    full = [one.name for one in benchmarks(Setting(CPU, 1, SETTING.effort, quick=False))]
    quick = [one.name for one in benchmarks(SETTING)]
    assert len(set(full)) == len(full)
    assert set(quick) < set(full)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("every=4", ["training/atari/T=16/every=4/cpu", "training/minatar/T=8/every=4/cpu"]),
        ("replay/*/bytes/cpu", ["replay/atari/bytes/cpu", "replay/minatar/bytes/cpu"]),
        ("replay/*/bytes", []),
    ],
)
def test_only_takes_a_word_or_a_pattern(pattern, names):
    assert [one.name for one in selected(benchmarks(SETTING), pattern)] == names


def test_cells_are_for_gpus_alone():
    gpu = Setting(torch.device("cuda"), 1, SETTING.effort, quick=True)
    assert selected(benchmarks(gpu), "cells/")
    assert not selected(benchmarks(SETTING), "cells/")


def test_the_command_writes_rows_and_prints_a_table(tmp_path):
    words = ["--quick", "--only", "lif/minatar", "--threads", "1", "--json", "rows.json"]
    command = [sys.executable, "-m", "sdqn_lab.bench", *words, "--device", "cpu"]
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


def test_an_update_has_rows_for_every_rival_and_the_floor(capsys, tmp_path):
    assert bench.main(["--quick", "--only", "update/minatar", "--json", "rows.json"]) == 0
    records = {
        record["against"]: record for record in json.loads((tmp_path / "rows.json").read_text())
    }
    assert records.keys() == {"step-by-step", "reference", "spikingjelly", "dqn", "floor"}
    assert records["floor"]["macs"] > 0
    assert records["floor"]["bytes"] > 0
    assert records["step-by-step"]["ratio"] > 0


def test_list_names_every_benchmark_and_measures_nothing(capsys):
    assert bench.main(["--quick", "--list", "--device", "cpu"]) == 0
    names = [one.name for one in benchmarks(SETTING)]
    assert capsys.readouterr().out.split() == names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "nothing"], "--only must match a name of --list, got nothing"),
        (["--threads", "0"], "--threads must be >= 1, got 0"),
        (["--threads", "two"], "invalid int value: 'two'"),
        (["--json", "no/rows.json"], "--json must lie in a folder"),
        (["--json", "."], "--json must be a file"),
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_a_bad_argument_gets_one_line(words, says, capsys):
    assert bench.main(words) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("error: ")
    assert says in seen.err
    assert seen.err.count("\n") == 1


def test_a_gpu_that_is_not_there_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bench.main(["--device", "cuda", "--list"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_a_row_without_a_rival_stands_alone():
    row = Row("x", Spread(1.0, 1.0, 1.0), "-", None)
    assert row.record()["against_ms"] is row.record()["ratio"] is None

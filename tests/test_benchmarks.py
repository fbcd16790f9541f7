"""The benchmarks' own arithmetic: epochs from steps, reading progress.txt, medians and ratios, tables."""

import importlib.util
import inspect
import json
import math
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


def load(name):
    """A script of benchmarks/, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


learning, speed = load("learning"), load("speed")


def rows_of(*rows):
    """(TotalEnvInteracts, AverageEpRet, EpLen) as rows of progress.txt."""
    return [
        dict(zip(("TotalEnvInteracts", "AverageEpRet", "EpLen", "Time"), (*row, row[0]), strict=True)) for row in rows
    ]


# ---- learning.py: jobs


@pytest.mark.parametrize(
    ("steps", "per_epoch", "num_envs", "epochs"),
    [(100_000, 2048, 8, 48), (1_000_000, 4000, 8, 250), (4000, 4000, 1, 1), (100, 4000, 8, 1), (1000, 100, 3, 9)],
)
def test_epochs_stay_within_the_steps(steps, per_epoch, num_envs, epochs):
    assert learning.epochs_within(steps, per_epoch, num_envs) == epochs


def test_read_flags_knows_the_aliases():
    flags = learning.read_flags(["--preset", "spinningup", "--steps", "1000", "--quiet", "--gamma=0.9"])
    assert flags == {"preset": "spinningup", "steps_per_epoch": "1000", "quiet": None, "gamma": "0.9"}


def test_a_flag_beats_the_preset_and_the_preset_the_default(monkeypatch):
    def ppo(env_fn, *, steps_per_epoch=2048, num_envs=8):
        pass

    fake = type(sys)("spinup.algos.ppo")
    fake.ppo, fake.PRESETS = ppo, {"spinningup": {"steps_per_epoch": 4000}}
    monkeypatch.setitem(sys.modules, "spinup.algos.ppo", fake)
    preset = {"preset": "spinningup"}
    assert learning.setting("ppo", {}, "steps_per_epoch") == 2048
    assert learning.setting("ppo", preset, "steps_per_epoch") == 4000
    assert learning.setting("ppo", preset, "num_envs") == 8
    assert learning.setting("ppo", {**preset, "steps_per_epoch": "1e3"}, "steps_per_epoch") == 1000


def test_suites_can_be_narrowed():
    args = learning.parse(["--suite", "mujoco", "--algos", "ppo", "--seeds", "7", "--dir", "d", "--", "--gamma", "0.9"])
    jobs = learning.make_jobs(args)
    assert [job["env"] for job in jobs] == ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
    assert all(job["seed"] == 7 and job["budget"] == 1_000_000 and job["flags"] == ["--gamma", "0.9"] for job in jobs)
    assert len({learning.job_name(job) for job in jobs}) == 3


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite", "classic"], "--dir DIR"),
        (["--dir", "d", "--algos", "ppo"], "--suite, or all of"),
        (["--dir", "d", "--suite", "classic", "--", "--epochs", "3"], "--epochs is set by this script"),
        (["--dir", "d", "--suite", "classic", "--", "-s", "3"], "-s is set by this script"),
        (["--dir", "d", "--suite", "classic", "--", "--lam", "0.9", "1"], "--lam has 2 values"),
        (["--dir", "d", "--suite", "classic", "--envs", "Ant-v5"], "no job"),
    ],
)
def test_mistakes_on_the_command_line(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        learning.parse(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_done_jobs_are_left_out_and_failed_ones_repeated(tmp_path, monkeypatch):
    job = {"algo": "ppo", "env": "CartPole-v1", "budget": 1000, "flags": []}
    jobs, outcomes = [{**job, "seed": seed} for seed in range(3)], {0: "ok", 1: "failed", 2: "ok"}
    ran = []

    def train_and_evaluate(job, folder):
        ran.append(job["seed"])
        if outcomes[job["seed"]] == "failed":
            raise learning.JobFailed("training ended with status 1")
        return {"eval_mean": 500.0}

    monkeypatch.setattr(learning, "train_and_evaluate", train_and_evaluate)
    assert learning.run_all(jobs, tmp_path, workers=1) == 1
    assert ran == [0, 1, 2]
    outcomes[1] = "ok"
    assert learning.run_all(jobs, tmp_path, workers=1) == 0
    assert ran == [0, 1, 2, 1]
    assert {record["status"] for record in learning.read_results(tmp_path).values()} == {"ok"}
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4


def test_only_a_run_of_all_epochs_counts_as_finished(tmp_path):
    for name, last in (("a", 2), ("b", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "progress.txt").write_text("Epoch\n" + "".join(f"{i}\n" for i in range(1, last + 1)))
    assert learning.finished_run(tmp_path, 3) == tmp_path / "b"
    assert learning.finished_run(tmp_path, 4) is None


# ---- learning.py: reading a run


def test_read_progress_makes_nan_of_blanks(tmp_path):
    (tmp_path / "progress.txt").write_text("Epoch\tAverageEpRet\n1\t\n2\t3.5\n3\tnan\n")
    rows = learning.read_progress(tmp_path / "progress.txt")
    assert [row["Epoch"] for row in rows] == [1, 2, 3]
    assert rows[1]["AverageEpRet"] == 3.5
    assert math.isnan(rows[0]["AverageEpRet"])
    assert math.isnan(rows[2]["AverageEpRet"])


def test_return_at_is_the_mean_of_the_tenth_before_the_mark():
    rows = rows_of((90, 1, 1), (95, 2, 1), (98, math.nan, 1), (100, 4, 1), (105, 100, 1))
    assert learning.return_at(rows, 100) == 3
    assert learning.return_at(rows, 200) is None
    assert learning.return_at(rows_of((48, 5, 1), (96, 7, 1)), 100) == 7  # whole epochs, just short of the mark
    assert learning.return_at([{**rows[0], "TotalEnvInteracts": 100, "AverageTestEpRet": 9}], 100) == 9


def test_last_episodes_are_weighted_by_their_number_in_each_row():
    # 10 episodes in the last row, none in the one before, 20 in the first: 10 of them still count
    rows = rows_of((2000, 1.0, 100), (3000, math.nan, math.nan), (4000, 4.0, 100))
    assert learning.last_episodes_return(rows, 20) == pytest.approx(2.5)
    assert learning.last_episodes_return(rows, 1000) == pytest.approx(2.0)  # all 30
    assert learning.last_episodes_return(rows_of((10, math.nan, math.nan))) is None


# ---- learning.py: the report


def test_mean_std():
    assert learning.mean_std([1.0, 2.0, 3.0]) == "2 ± 1"
    assert learning.mean_std([2.0]) == "2"
    assert learning.mean_std([2.0, None]) == "-"


def test_report_groups_seeds_and_adds_the_published_rows():
    job = {"algo": "ppo", "env": "Hopper-v5", "budget": 1_000_000, "flags": [], "status": "ok"}
    returns = {"100000": 500.0, "300000": 1000.0, "1000000": 3000.0}
    result = {"return_at": returns, "last_100_episodes": 2900.0, "steps_per_second": 2000.0}
    records = [{**job, **result, "seed": seed, "eval_mean": 3000.0 + 100 * seed} for seed in range(3)]
    records.append({**job, "seed": 3, "status": "failed", "error": "training ended with status 1"})
    lines = learning.report(json.loads(json.dumps(records))).splitlines()
    assert lines[2].startswith("| ppo | Hopper-v5 | 1,000,000 steps | 3 | 500 ± 0 | 1000 ± 0 | 3000 ± 0 | 2900 ± 0 |")
    assert lines[2].endswith("| 3100 ± 100 | 3000 | 2000 |")
    assert lines[3].startswith("| ppo | Hopper-v5 | published: S | 10 | 249 | 517 | 1770 ± 535 |")
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[-1].startswith("failed: ppo_Hopper-v5_1000000_s3: training ended")


# ---- speed.py


def test_spread_is_median_and_range():
    assert speed.spread([3.0, 1.0, 11.0]) == "3 (1..11)"
    assert speed.spread([0.25, 0.5], 3) == "0.375 (0.250..0.500)"


def test_ratio_is_of_medians_with_the_range_within_rounds():
    assert speed.ratio([30, 20, 40], [10, 10, 5]) == "3.00 (2.00..8.00)"


def test_speed_table_names_and_pairs_the_contestants():
    speeds = {who: [100.0 * i, 100.0 * i] for i, who in enumerate(speed.CONTESTANTS, 1)}
    header, row = speed.speed_header(), speed.speed_row("fullbatch", "CartPole-v1", speeds)
    assert len(header) == len(row)
    cells = dict(zip(header, row, strict=True))
    assert cells["sb3, 1 env"] == "400 (400..400)"
    assert cells["spinup, 8 envs / sb3, 1 env"] == "0.25 (0.25..0.25)"
    assert cells["spinup, 8 envs / sb3, 8 envs"] == "0.50 (0.50..0.50)"
    assert cells["spinup, 1 env / sb3, 1 env"] == "0.75 (0.75..0.75)"
    assert speed.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_shares_add_up():
    result = {"wall": 10.0, "seconds": {"env": 5.0, "inference": 2.0}}
    assert speed.share_row("fullbatch", "CartPole-v1", result)[2:] == ["50%", "20%", "30%"]


@pytest.mark.parametrize("setting", speed.SETTINGS)
@pytest.mark.parametrize("num_envs", [1, 8])
def test_both_sides_get_the_same_settings(setting, num_envs):
    sb3_defaults = {"batch_size": 64, "n_epochs": 10, "gae_lambda": 0.95}
    ours, theirs = speed.spinup_kwargs(setting), {**sb3_defaults, **speed.sb3_kwargs(setting, num_envs)}
    assert theirs["n_steps"] * num_envs == ours["steps_per_epoch"]
    assert theirs["batch_size"] == (ours["minibatch_size"] or ours["steps_per_epoch"])
    assert theirs["n_epochs"] == ours["train_pi_iters"] == ours["train_v_iters"]
    assert theirs["gae_lambda"] == ours["lam"]


def test_the_settings_are_arguments_of_ppo():
    from spinup.algos.ppo import ppo

    for setting in speed.SETTINGS:
        assert set(speed.spinup_kwargs(setting)) <= set(inspect.signature(ppo).parameters)

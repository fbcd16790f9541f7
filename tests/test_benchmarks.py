"""The benchmark scripts' arithmetic: epochs from steps, reading progress.txt, medians and ratios, tables."""

import importlib.metadata
import importlib.util
import inspect
import json
import math
import re
import statistics
import sys
from importlib import import_module
from pathlib import Path

import pytest

from spinup.algorithm import Algorithm
from spinup.run import main as run_cli

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts outside of any package
names = ("learning", "speed", "speed_offpolicy", "third_party", "hindsight", "sb3", "policy_steps", "step_times")
learning, speed, offpolicy, third_party, hindsight, sb3, policy_steps, step_times = map(import_module, names)


def as_cells(table):
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


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


def test_flags_override_presets_and_presets_defaults(monkeypatch):
    def ppo(env_fn, *, steps_per_epoch=2048, num_envs=8):
        pass

    fake = type(sys)("spinup.algos.ppo")
    preset = {"steps_per_epoch": 4000}
    fake.ALGORITHM = Algorithm(ppo, on_policy=True, actions=(), presets={"spinningup": preset})
    monkeypatch.setitem(sys.modules, "spinup.algos.ppo", fake)
    preset = {"preset": "spinningup"}
    assert learning.setting("ppo", {}, "steps_per_epoch") == 2048
    assert learning.setting("ppo", preset, "steps_per_epoch") == 4000
    assert learning.setting("ppo", preset, "num_envs") == 8
    assert learning.setting("ppo", {**preset, "steps_per_epoch": "1e3"}, "steps_per_epoch") == 1000


def test_suites_can_be_narrowed():
    args = learning.parse(
        ["--suite", "onpolicy", "--algos", "trpo", "--seeds", "7", "--dir", "d", "--", "--gamma", "0.9"]
    )
    jobs = learning.make_jobs(args)
    assert [job["env"] for job in jobs] == ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"]
    assert all(job["seed"] == 7 and job["budget"] == 1_000_000 and job["flags"] == ["--gamma", "0.9"] for job in jobs)
    assert len({learning.job_name(job) for job in jobs}) == 3


def test_a_suites_tasks_have_seeds_of_their_own():
    jobs = learning.make_jobs(learning.parse(["--suite", "offpolicy", "--algos", "sac", "td3", "--dir", "d"]))
    seeds = {task: [job["seed"] for job in jobs if (job["algo"], job["env"]) == task] for task in
             (("sac", "Ant-v5"), ("td3", "Ant-v5"), ("td3", "Pendulum-v1"))}  # fmt: skip
    assert [*seeds.values()] == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1, 2, 3, 4]]
    assert [job["seed"] for job in jobs] == sorted(job["seed"] for job in jobs)  # early results cover all tasks


def test_the_report_lists_what_a_suite_lacks(monkeypatch):
    tasks = [learning.Task("ppo", "A-v1", 100_000, 2), learning.Task("vpg", "A-v1", 100_000, 1, ("--gamma", "0.9"))]
    monkeypatch.setattr(learning, "SUITES", {"ours": tasks, "theirs": [learning.Task("dqn", "B-v1", 100_000)]})
    run = {"algo": "ppo", "env": "A-v1", "budget": 100_000, "flags": []}
    first, second, other = {**run, "seed": 0}, {**run, "seed": 1}, {**run, "seed": 0, "algo": "vpg"}
    head = "| suite | algo | env | steps | seeds done |\n| --- | --- | --- | --- | --- |\n"
    vpg = "| ours | vpg | A-v1 | 100,000 `--gamma 0.9` | 0 of 1 |"
    assert learning.unfinished([first]) == f"{head}| ours | ppo | A-v1 | 100,000 | 1 of 2 |\n{vpg}"
    assert learning.unfinished([first, second, other]) == head + vpg  # its flags differ
    assert learning.unfinished([first, second, dict(other, flags=["--gamma", "0.9"])]) == ""
    assert learning.unfinished([]) == ""


def test_a_task_may_have_flags_of_its_own():
    args = learning.parse(["--suite", "memory", "--seeds", "0", "--dir", "d", "--", "--pi_lr", "1e-3"])
    wrapper = ["--wrapper", "spinup.wrappers:SelectObservation(0,2)"]
    assert [(job["algo"], job["flags"]) for job in learning.make_jobs(args)] == [
        (algo, [*wrapper, "--pi_lr", "1e-3"]) for algo in ("ppo_rnn", "ppo")
    ]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--suite", "classic"], "--dir DIR"),
        (["--dir", "d", "--algos", "ppo"], "--suite, or all of"),
        (["--dir", "d", "--suite", "classic", "--", "--epochs", "3"], "--epochs is set by this script"),
        (["--dir", "d", "--suite", "classic", "--", "-s", "3"], "-s is set by this script"),
        (["--dir", "d", "--suite", "classic", "--", "--lam", "0.9", "1"], "--lam has 2 values"),
        (["--dir", "d", "--suite", "classic", "--envs", "Ant-v5"], "no job"),
        (["--dir", "d", "--suite", "offpolicy", "--", "--lr", "1e-3"], "sb3-sac runs by its own defaults"),
    ],
)
def test_command_line_errors(argv, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        learning.parse(argv)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_done_jobs_are_skipped_and_failed_ones_repeated(tmp_path, monkeypatch):
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


def test_a_run_that_was_begun_is_resumed(tmp_path, monkeypatch):
    job = {"algo": "ppo", "env": "CartPole-v1", "seed": 0, "budget": 16_384, "flags": []}
    commands = []

    def child(args, log):
        commands.append(args)
        return 1

    monkeypatch.setattr(learning, "child", child)
    run = tmp_path / "runs" / learning.job_name(job) / "ppo" / "ppo_s0"
    for _ in range(2):
        with pytest.raises(learning.JobFailed, match="training ended with status 1"):
            learning.train_and_evaluate(job, tmp_path)
        (run / "checkpoint" / "1").mkdir(parents=True, exist_ok=True)
        for name in ("progress.txt", "checkpoint/1/manifest.json"):
            (run / name).touch()
    assert commands[0][:5] == ["-m", "spinup.run", "ppo", "--env", "CartPole-v1"]
    assert commands[1] == ["-m", "spinup.run", "resume", str(run)]


def test_a_job_of_a_peer(tmp_path, monkeypatch):
    """Its record is that of our runs, with a package for the commit."""
    job = {"algo": "sb3-sac", "env": "Pendulum-v1", "seed": 3, "budget": 8000, "flags": []}
    run = tmp_path / "runs" / learning.job_name(job)

    def child(args, log):
        assert [str(arg) for arg in args] == [
            *(str(ROOT / "benchmarks" / "sb3.py"), "sac", "--env", "Pendulum-v1", "--seed", "3"),
            *("--steps", "8000", "--dir", str(run)),
        ]
        run.mkdir(parents=True)
        rows = [sb3.COLUMNS, (1, -900, 200, -800, 4000, 1.5), (2, -400, 200, -300, 8000, 3.5)]
        (run / "progress.txt").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
        (run / "evaluation.json").write_text(json.dumps(learning.evaluation([-200, -400])))
        return 0

    monkeypatch.setattr(learning, "child", child)
    monkeypatch.setattr(importlib.metadata, "version", {"stable-baselines3": "2.9.2"}.get)
    record = learning.train_and_evaluate(job, tmp_path)
    assert record["command"] == "python benchmarks/sb3.py sac --env Pendulum-v1 --seed 3 --steps 8000"
    assert record["package"] == "stable-baselines3 2.9.2"
    assert (record["steps"], record["seconds"], record["eval_mean"]) == (8000, 3.5, -300)
    assert (record["return_at"]["4000"], record["return_at"]["8000"]) == (-800, -300)
    assert record["last_100_episodes"] == pytest.approx((20 * -400 + 20 * -900) / 40)


def test_a_peer_runs_by_its_defaults(tmp_path, monkeypatch):
    if not importlib.util.find_spec("stable_baselines3"):
        pytest.skip("stable_baselines3 is not installed in this environment")
    monkeypatch.setattr(sb3, "STEPS_PER_EPOCH", 150)
    sb3.train("sac", "Pendulum-v1", seed=0, steps=450, folder=tmp_path)
    rows = learning.read_progress(tmp_path / "progress.txt")
    assert [(row["Epoch"], row["TotalEnvInteracts"], row["EpLen"]) for row in rows[1:]] == [
        (2, 300, 200),
        (3, 450, 200),
    ]
    assert all(-2000 < row["AverageTestEpRet"] < 0 for row in rows)
    evaluation = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(evaluation["eval_returns"]) == learning.EVAL_EPISODES


# ---- learning.py: reading a run


def test_read_progress_reads_blanks_as_nan(tmp_path):
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


def test_summary_has_the_steps_and_seconds_of_the_last_row():
    rows = [{**row, "Time": 3.5 * i} for i, row in enumerate(rows_of((50, 1, 10), (100, 2, 10)), 1)]
    summary = learning.curve_summary(rows)
    assert (summary["steps"], summary["seconds"], summary["last_100_episodes"]) == (100, 7.0, 1.5)


def test_last_episodes_are_weighted_by_their_number_in_each_row():
    # 10 episodes in the last row, none in the one before, 20 in the first: 10 of them still count
    rows = rows_of((2000, 1.0, 100), (3000, math.nan, math.nan), (4000, 4.0, 100))
    assert learning.last_episodes_return(rows, 20) == pytest.approx(2.5)
    assert learning.last_episodes_return(rows, 1000) == pytest.approx(2.0)  # all 30
    assert learning.last_episodes_return(rows_of((10, math.nan, math.nan))) is None


# ---- learning.py: the report


def test_mean_std():
    assert learning.mean_std([10.0, 20.0, 30.0]) == "20 ± 10"
    assert learning.mean_std([20.0]) == "20"
    assert learning.mean_std([-4.0, -4.2, -4.4]) == "-4.2 ± 0.2"  # small returns get a decimal
    assert learning.mean_std([990.0, 1010.0, 1000.0]) == "1000 ± 10"
    assert learning.mean_std([1001.0, 999.0, 1000.0]) == "1000 ± 1"  # the size of the mean decides
    assert learning.mean_std([2.0, None]) == "-"


def test_report_groups_seeds_and_adds_the_published_rows():
    job = {"algo": "ppo", "env": "Hopper-v5", "budget": 1_000_000, "flags": [], "status": "ok"}
    returns = {"100000": 500.0, "300000": 1000.0, "1000000": 3000.0}
    result = {"return_at": returns, "last_100_episodes": 2900.0}
    records = [
        {**job, **result, "seed": seed, "eval_mean": 3000.0 + 100 * seed, "seconds": 540.0 + 60 * seed}
        for seed in range(3)
    ]
    records.append({**job, "seed": 3, "status": "failed", "error": "training ended with status 1"})
    lines = learning.report(json.loads(json.dumps(records))).splitlines()
    assert lines[2].startswith("| ppo | Hopper-v5 | 1,000,000 steps | 3 | 500 ± 0 | 1000 ± 0 | 3000 ± 0 | 2900 ± 0 |")
    assert lines[2].endswith("| 3100 ± 100 | 3000 | 10 ± 1 |")
    assert lines[3].startswith("| ppo | Hopper-v5 | published: S | 10 | 249 | 517 | 1770 ± 535 |")
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[-1].startswith("failed: ppo_Hopper-v5_1000000_s3: training ended")
    flagged = learning.report([{**records[0], "flags": ["--num_envs", "64"]}]).splitlines()[2]
    assert flagged.startswith("| ppo | Hopper-v5 | 1,000,000 steps `--num_envs 64` | 1 | 500 |")  # as it is typed


def test_report_has_a_table_of_its_own_for_short_runs():
    job = {"algo": "sac", "env": "HalfCheetah-v5", "flags": [], "status": "ok", "seed": 0, "eval_mean": 7000.0}
    job |= {"last_100_episodes": 1.0}
    short = {**job, "budget": 100_000, "return_at": {str(mark): mark / 100 for mark in learning.SHORT_MARKS}}
    long = {**job, "budget": 300_000, "return_at": {"100000": 1.0, "300000": 2.0, "1000000": None}}
    first, second, unfinished = learning.report([short, long]).split("\n\n")
    assert "| offpolicy | sac | HalfCheetah-v5 | 100,000 | 1 of 5 |" in unfinished
    assert "return at 20k | return at 40k | return at 60k | return at 80k | return at 100k" in first.splitlines()[0]
    assert "| 200 | 400 | 600 | 800 | 1000 | 1.0 | 7000 | 7000 | - |" in first.splitlines()[2]
    assert "published: T | 10 | - | - | - | - | 6515 |" in first.splitlines()[4]
    assert "return at 100k | return at 300k | return at 1M" in second.splitlines()[0]
    assert "| 1.0 | 2.0 | - |" in second.splitlines()[2]
    assert "published: T | 10 | 6515 | 9059 | 12120 ± 1010 |" in second.splitlines()[4]


def test_comparisons_by_hand():
    def runs(algo, flags, *returns):
        return [dict(algo=algo, env="E", budget=1000, flags=flags, eval_mean=float(r)) for r in returns]

    records = [*runs("sac", [], 1, 2, 3), *runs("sac", ["--lr", "1e-4"], 4, 5, 3), *runs("td3", [], 0, 0, 0)]
    records += [*runs("td3", ["--lr", "1e-4"], 9, 9), *runs("td3", ["--gamma", "0.9"], 7, 7, 7)]
    rows = [line.strip("| ").split(" | ") for line in learning.comparisons(records).splitlines()[2:]]
    # not compared: a setting of two seeds, two settings, and settings of different algorithms
    assert [(row[2], row[4]) for row in rows] == [
        ("td3 `--gamma 0.9`", "td3"),
        ("sac `--lr 1e-4`", "sac"),
        ("sac", "td3"),
    ]
    # of three values: their mean
    assert [row[3] for row in rows] == ["7.0 (7.0 to 7.0)", "4.0 (3.0 to 5.0)", "2.0 (1.0 to 3.0)"]
    assert rows[0][6] == "1.00 (1.00 to 1.00)"
    assert rows[1][6].startswith("0.94 (")  # 8.5 of 9 pairs: 3 and 3 are a tie
    assert learning.comparisons(runs("sac", [], 1, 2, 3)) == ""


# ---- data/benchmarks: our results


RECORDS = learning.read_results(ROOT / "data" / "benchmarks").values()


def test_a_report_replaces_the_tables_of_a_page():
    page = "# Runs\n\n| a |\n| --- |\n| 1 |\n\nWords.\n\n| b |\n| --- |\n\nMore.\n"
    assert learning.with_tables(page, "| x |\n| 2 |\n\n| y |") == "# Runs\n\n| x |\n| 2 |\n\nWords.\n\n| y |\n\nMore.\n"
    with pytest.raises(ValueError, match="the page has 2 tables, and the report 3 parts"):
        learning.with_tables(page, "| x |\n\n| y |\n\nfailed: a run")


def test_the_results_page_matches_the_records():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert [table for table in learning.report(list(RECORDS)).split("\n\n") if table not in page] == []
    assert len(re.findall(r"^\| ---", page, re.MULTILINE)) == 4


FORMER = (  # on Hopper
    "--polyak 0.995 --policy_delay 1 --start_steps 10000 --update_after 1000 --normalize_obs False "
    "--ac_kwargs:layer_norm False --target_entropy -3 --anneal_lr 0"
)
DEFAULTS = (
    "--polyak 0.9 --policy_delay 3 --start_steps 5000 --normalize_obs True --target_entropy -1.5 "
    "--ac_kwargs:layer_norm True --anneal_lr 0.2"
)
CONSTANT = f"{DEFAULTS} --anneal_lr 0"


def settings_of(*flags):
    """All that counts, as one hashable value; a later flag replaces an earlier one."""
    words = " ".join(flags).split()
    settings = dict(zip(words[::2], words[1::2], strict=True))
    settings["--update_after"] = settings.get("--update_after", settings["--start_steps"])
    if "--alpha" in settings:
        del settings["--target_entropy"]
    return frozenset(settings.items())


def test_the_tables_of_hopper_have_every_run():
    page = (ROOT / "docs" / "algorithms" / "sac.md").read_text(encoding="utf-8")
    assert f"`{FORMER}`" in page.replace("\n", " ")
    shown = {}
    for base, head in (
        (FORMER, "changes to the former defaults"),
        (CONSTANT, "changes to the defaults with `--anneal_lr 0`"),
        (CONSTANT, "the same, other seeds"),
    ):
        seeds, table = page.split(f"| {head} | ")[1].split("\n\n")[0].split("\n", 1)
        seeds = [int(seed) for seed in re.findall(r"seed (\d)", seeds)]
        for flags, returns in re.findall(r"^\| (none|`--.+?`) \|((?: *\d* \|)+)$", table, re.MULTILINE):
            settings = settings_of(base, flags.replace("`", "").replace("none", ""))
            returns = zip(seeds, returns.split("|")[:-1], strict=True)
            shown |= {(settings, seed): int(text) for seed, text in returns if text.strip()}
    records = learning.read_results(ROOT / "data" / "benchmarks").values()
    runs = [r for r in records if (r["algo"], r["env"]) == ("sac", "Hopper-v5")]
    made = {(settings_of(DEFAULTS, *r["flags"]), r["seed"]): round(r["eval_mean"]) for r in runs}
    assert shown == made


def test_the_table_of_ablations():
    marks = {"2000 steps": "2000", "4000": "4000", "6000": "6000", "8000": "8000", "10,000": "10000"}
    page = (ROOT / "docs" / "algorithms" / "crossq.md").read_text(encoding="utf-8")
    (table,) = [part for part in page.split("\n\n") if part.startswith("| switched off |")]
    records, wanted = learning.read_results(ROOT / "data" / "benchmarks").values(), []
    for off in learning.WITHOUT:
        flags = [*learning.SMALL.split(), *off.split()]
        runs = [r for r in records if (r["algo"], r["env"], r["flags"]) == ("crossq", "Pendulum-v1", flags)]
        columns = {head: [r["return_at"][mark] for r in runs] for head, mark in marks.items()}
        columns["evaluation"] = [r["eval_mean"] for r in runs]
        if runs:
            means = {head: f"{statistics.fmean(returns):.0f}" for head, returns in columns.items()}
            wanted.append({"switched off": f"`{off}`" if off else "nothing", **means, "seeds": str(len(runs))})
    assert as_cells(table) == wanted


ACTIONS = {"HalfCheetah-v5": 6, "Hopper-v5": 3, "Walker2d-v5": 6, "Ant-v5": 8, "Pendulum-v1": 1}


def test_the_table_of_crossq_on_robots():
    page = (ROOT / "docs" / "algorithms" / "crossq.md").read_text(encoding="utf-8")
    (table,) = [part for part in page.split("\n\n") if part.startswith("| | CrossQ |")]
    wanted = []
    for env in learning.FOUR_ROBOTS:
        entropy = f"--target_entropy -{ACTIONS[env]}"
        single = f"--policy_average 0 {entropy}"
        constant = f"--anneal_lr 0 {single}"
        columns = {
            "CrossQ": ("crossq", ""),
            "SAC": ("sac", ""),
            "target entropy $-A$": ("crossq", entropy),
            "and single policies": ("crossq", single),
            "and a constant rate": ("crossq", constant),
            "and `critic_width` 1.5": ("crossq", f"--ac_kwargs:critic_width 1.5 {constant}"),
            "and `critic_width` 2": ("crossq", f"--ac_kwargs:critic_width 2 {constant}"),
        }
        wanted.append({"": env})
        for name, (algo, flags) in columns.items():
            runs = [r["eval_mean"] for r in RECORDS if (r["algo"], r["env"], r["flags"]) == (algo, env, flags.split())]
            wanted[-1][name] = f"{statistics.fmean(runs):.0f} ({len(runs)})" if runs else ""
    assert as_cells(table) == wanted


def test_the_table_of_crossq_with_both_target_entropies():
    page = (ROOT / "docs" / "algorithms" / "crossq.md").read_text(encoding="utf-8")
    (table,) = [part for part in page.split("\n\n") if part.startswith("| evaluations of seeds")]
    wanted = []
    for env in learning.FOUR_ROBOTS:
        wanted.append({"evaluations of seeds 0, 1, ...": env})
        for head, flags in (("target entropy $-A/2$", []), ("$-A$", ["--target_entropy", f"-{ACTIONS[env]}"])):
            runs = {
                r["seed"]: f"{r['eval_mean']:.0f}"
                for r in RECORDS
                if (r["algo"], r["env"], r["flags"]) == ("crossq", env, flags)
            }
            wanted[-1][head] = ", ".join(runs.get(seed, "-") for seed in range(max(runs) + 1))
    assert as_cells(table) == wanted


def test_the_table_of_sac_with_both_learning_rates():
    page = (ROOT / "docs" / "algorithms" / "sac.md").read_text(encoding="utf-8")
    (table,) = [part for part in page.split("\n\n") if part.startswith("| evaluations of seeds")]
    for row in as_cells(table):
        for head, flags in (("constant learning rate", ["--anneal_lr", "0"]), ("defaults", [])):
            env = row["evaluations of seeds 0, 1, ..."]
            runs = {
                r["seed"]: r["eval_mean"] for r in RECORDS if (r["algo"], r["env"], r["flags"]) == ("sac", env, flags)
            }
            assert row[head] == ", ".join(f"{runs[seed]:.0f}" for seed in sorted(runs))


def test_the_table_of_sac_on_five_tasks():
    page = (ROOT / "docs" / "algorithms" / "sac.md").read_text(encoding="utf-8")
    (table,) = [part for part in page.split("\n\n") if part.startswith("| | defaults |")]
    records, wanted = learning.read_results(ROOT / "data" / "benchmarks").values(), []
    for env, actions in ACTIONS.items():
        row = {"": f"{env}, 20,000 steps" if env == "Pendulum-v1" else env}
        for head, flags in (
            ("defaults", ""),
            ("constant learning rate", "--anneal_lr 0"),
            ("former defaults", FORMER.replace("-3", f"-{actions}")),
        ):
            runs = [r for r in records if (r["algo"], r["env"], " ".join(r["flags"])) == ("sac", env, flags)]
            returns = [r["return_at"][str(r["budget"])] for r in runs]
            row[head] = f"{statistics.fmean(returns):.0f} ({len(runs)})" if runs else ""
        published = learning.PUBLISHED.get(("sac", env.split("-")[0]), {}).get("T", "")
        wanted.append({**row, "published": published.split("/")[0]})
    assert as_cells(table) == wanted


def test_the_sparse_page_matches_the_records():
    page = (ROOT / "docs" / "sparse.md").read_text(encoding="utf-8")
    lines = learning.report(list(RECORDS)).splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| td3") and "--batch_size 100`" in line]
    assert len(rows) == 3
    for row in rows:
        assert f"| {' | '.join([row[4], row[6], row[8], *row[10:]])}\n" in page


@pytest.mark.parametrize("record", RECORDS, ids=learning.job_name)
def test_a_record_describes_its_run(record):
    assert record["status"] == "ok"
    wanted = f"--env {record['env']} --seed {record['seed']} "
    if record["algo"] in learning.PEERS:
        assert re.fullmatch(r"stable-baselines3 2\.\d+\.\d+", record["package"])
        assert record["command"].startswith(f"python benchmarks/sb3.py {record['algo'].removeprefix('sb3-')} {wanted}")
    else:
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
        assert record["command"].startswith(f"python -m spinup.run {record['algo']} {wanted}--epochs ")
    flags = record["flags"]  # changes to today's defaults; the command also names what was no default at the time
    pairs = zip(flags[::2], flags[1::2], strict=True)
    assert all(f" {name} {value} " in f"{record['command']} " for name, value in pairs)
    assert record["eval_mean"] == pytest.approx(statistics.fmean(record["eval_returns"]))
    assert len(record["eval_returns"]) == learning.EVAL_EPISODES
    assert 0.95 * record["budget"] <= record["steps"] <= record["budget"]


# ---- policy_steps.py


def test_a_policy_is_tested_after_each_of_its_steps(tmp_path):
    """After the last one of an epoch it is the policy that the run itself tests."""
    flags = "--steps 40 --start_steps 20 --hid 4 --batch_size 4 --num_test_episodes 1 --checkpoint_freq 1 --quiet"
    command = ["sac", "--env", "Pendulum-v1", "--epochs", "2", *flags.split(), "--data_dir", str(tmp_path)]
    run_cli(command)
    run = tmp_path / "cmd_sac" / "cmd_sac_s0"
    start, returns = policy_steps.returns_after_steps(run, steps=100)
    assert start == 80
    assert len(returns) == 13  # the epoch's updates are 61 to 100, and 63, 66, ..., 99 step the policy
    run_cli(["resume", str(run), "--epochs", "3", "--anneal_lr", "0"])
    assert returns[-1] == pytest.approx(learning.read_progress(run / "progress.txt")[-1]["AverageTestEpRet"])


# ---- speed.py


def test_spread_is_median_and_range():
    assert speed.spread([3.0, 1.0, 11.0]) == "3 (1..11)"
    assert speed.spread([0.25, 0.5], 3) == "0.375 (0.250..0.500)"


def test_ratio_is_of_medians_with_the_range_within_rounds():
    assert speed.ratio([30, 20, 40], [10, 10, 5]) == "3.00 (2.00..8.00)"


def as_runs(job, kind, results):
    """results: per contestant, a list of the measurements of its rounds."""
    return [
        {**job, "package": package, "num_envs": num_envs, "seed": seed} | result
        for (package, num_envs), rounds in zip(kind.contestants, results, strict=True)
        for seed, result in enumerate(rounds)
    ]


COMMON = {"epochs": 5, "threads": 1, "matmul_precision": "highest"}
PPO = {"setting": "fullbatch", "algo": "ppo", "env_id": "CartPole-v1", **COMMON}
SAC = {"setting": "offpolicy-256", "algo": "sac", "env_id": "HalfCheetah-v5", **COMMON}


def test_speed_table_names_and_pairs_the_contestants():
    results = [[{"steps_per_second": 100.0 * i}] * 2 for i in (1, 2, 3, 4)]
    (cells,) = as_cells(speed.speed_table(speed.ON_POLICY, [PPO], as_runs(PPO, speed.ON_POLICY, results)))
    assert cells["setting"] == "fullbatch"
    assert cells["algo"] == "ppo"
    assert cells["sb3, 1 env"] == "400 (400..400)"
    assert cells["spinup, 8 envs / sb3, 1 env"] == "0.25 (0.25..0.25)"
    assert cells["spinup, 8 envs / sb3, 8 envs"] == "0.50 (0.50..0.50)"
    assert cells["spinup, 1 env / sb3, 1 env"] == "0.75 (0.75..0.75)"
    assert speed.table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_speed_table_separates_jobs():
    td3 = SAC | {"algo": "td3"}
    runs = as_runs(SAC, speed.OFF_POLICY, [[{"steps_per_second": x}] for x in (300.0, 100.0, 200.0)])
    runs += as_runs(td3, speed.OFF_POLICY, [[{"steps_per_second": x}] for x in (600.0, 300.0, 800.0)])
    first, second = as_cells(speed.speed_table(speed.OFF_POLICY, [SAC, td3], runs))
    assert first["algo"] == "sac"
    assert first["spinup, 1 env / sb3, 1 env"] == "3.00 (3.00..3.00)"
    assert first["spinup, 1 env / sbx, 1 env"] == "1.50 (1.50..1.50)"
    assert second["algo"] == "td3"
    assert second["spinup, 1 env / sbx, 1 env"] == "0.75 (0.75..0.75)"


def test_shares_add_up():
    seconds = {"env": 5.0, "inference": 2.0}
    runs = as_runs(PPO, speed.ON_POLICY, [[{"wall": 10.0, "seconds": seconds}], [], [], []])
    (cells,) = as_cells(speed.share_table(speed.ON_POLICY, [PPO], runs))
    assert [cells[name] for name in ("env.step and reset", "inference", "update and rest")] == ["50%", "20%", "30%"]


def test_floor_table_compares_an_update_with_its_products():
    run = {"steps": 1000, "seconds": {"update": 3.0}, "products": 0.0015}
    runs = as_runs(SAC, speed.OFF_POLICY, [[run, run | {"products": 0.001}, run], [], []])
    (cells,) = as_cells(speed.floor_table([SAC], runs))
    assert cells["update, ms"] == "3.000 (3.000..3.000)"
    assert cells["its matrix products, ms"] == "1.500 (1.000..1.500)"
    assert cells["update / products"] == "2.00 (2.00..3.00)"


def test_jobs_follow_the_command_line():
    def jobs(*argv):
        args = speed.parse(argv)
        return [(job["setting"], job["algo"], job["env_id"], job["epochs"]) for job in speed.make_jobs(args)]

    assert len(jobs()) == 2 * 2 + 2 * 3
    assert jobs("--settings", "startup") == []
    assert jobs("--settings", "sb3-defaults", "--envs", "Hopper-v5") == [("sb3-defaults", "ppo", "Hopper-v5", 10)]
    assert jobs("--algos", "td3", "--steps", "1500") == [
        ("offpolicy-256", "td3", "HalfCheetah-v5", 2),
        ("offpolicy-100", "td3", "HalfCheetah-v5", 2),
    ]


def test_more_threads_than_cores_are_refused(monkeypatch, capsys):
    monkeypatch.setattr(speed, "cores", lambda: [2, 5])
    assert speed.parse(["--threads", "2"]).threads == 2
    for threads in ("0", "3"):
        with pytest.raises(SystemExit):
            speed.parse(["--threads", threads])
    assert "may use 2 cores" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["fullbatch", "sb3-defaults"])
@pytest.mark.parametrize("num_envs", [1, 8])
def test_ppo_gets_the_same_settings_on_both_sides(setting, num_envs):
    sb3_defaults = {"batch_size": 64, "n_epochs": 10, "gae_lambda": 0.95}
    ours, theirs = speed.spinup_kwargs(setting), {**sb3_defaults, **speed.sb3_kwargs(setting, num_envs)}
    assert theirs["n_steps"] * num_envs == ours["steps_per_epoch"] == speed.STEPS_PER_EPOCH[setting]
    assert theirs["batch_size"] == (ours["minibatch_size"] or ours["steps_per_epoch"])
    assert theirs["n_epochs"] == ours["train_pi_iters"] == ours["train_v_iters"]
    assert theirs["gae_lambda"] == ours["lam"]


# ---- speed_offpolicy.py

ALGOS = speed.OFF_POLICY.algos
NAMES = {  # ours: the peers'
    "replay_size": "buffer_size",
    "start_steps": "learning_starts",
    "batch_size": "batch_size",
    "gamma": "gamma",
    "update_every": "train_freq",
    "replay_ratio": "gradient_steps",
    "n_step": "n_steps",
    "lr": "learning_rate",
    "pi_lr": "learning_rate",
    "q_lr": "learning_rate",
    "alpha": "ent_coef",
    "policy_delay": "policy_delay",
    "target_noise": "target_policy_noise",
    "noise_clip": "target_noise_clip",
}


@pytest.mark.parametrize("setting", offpolicy.BATCH)
@pytest.mark.parametrize("algo", ALGOS)
def test_off_policy_algorithms_get_the_same_settings_on_all_sides(algo, setting):
    ours, theirs = offpolicy.spinup_kwargs(algo, setting), offpolicy.peer_kwargs(algo, setting)
    if algo == "sac":  # the peers' has no such argument
        assert ours.pop("policy_delay") == 1
    pairs = {name: NAMES[name] for name in ours if name in NAMES}
    assert {name: ours[name] for name in pairs} == {name: theirs[peer] for name, peer in pairs.items()}
    assert 1 - ours["polyak"] == pytest.approx(theirs["tau"])
    assert ours["normalize_obs"] is False
    assert ours["update_after"] == theirs["learning_starts"] + 1  # they update when there are more steps than that
    assert ours["ac_kwargs"] == {
        "hidden_sizes": tuple(theirs["policy_kwargs"]["net_arch"]),
        "activation": "ReLU",
        "layer_norm": False,
    }
    assert ours.get("act_noise", offpolicy.NOISE) == offpolicy.NOISE
    assert set(theirs) == {*pairs.values(), "tau", "policy_kwargs"} | ({"target_entropy"} if algo == "sac" else set())
    assert speed.STEPS_PER_EPOCH[setting] == ours["steps_per_epoch"] > ours["update_after"]


def test_the_settings_are_arguments_of_our_algorithms():
    for setting, kind in speed.SETTINGS.items():
        for algo in kind.algos:
            function = getattr(import_module(f"spinup.algos.{algo}"), algo)
            given = speed.spinup_kwargs(setting) if algo == "ppo" else offpolicy.spinup_kwargs(algo, setting)
            assert set(given) <= set(inspect.signature(function).parameters)


@pytest.mark.parametrize("package", speed.MODULES.values())
def test_the_settings_are_arguments_of_the_peers(package):
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed in this environment")
    names = [algo.upper() for algo in ALGOS]
    asked = f"{{name: list(inspect.signature(getattr({package}, name)).parameters) for name in {names}}}"
    parameters = json.loads(speed.child("-c", f"import inspect, json, {package}; print(json.dumps({asked}))"))
    for algo, name in zip(ALGOS, names, strict=True):
        given = {*offpolicy.peer_kwargs(algo, "offpolicy-256"), "action_noise", "device", "seed"}
        assert given <= set(parameters[name])


def small(monkeypatch, steps, random_steps):
    """Shrink the off-policy settings for a test, with layer sizes that give every product a shape of its own."""
    monkeypatch.setattr(offpolicy, "STEPS_PER_EPOCH", steps)
    monkeypatch.setattr(offpolicy, "RANDOM_STEPS", random_steps)
    monkeypatch.setattr(offpolicy, "HIDDEN", (24, 40))
    for setting in offpolicy.BATCH:
        monkeypatch.setitem(offpolicy.BATCH, setting, 16)
        monkeypatch.setitem(speed.STEPS_PER_EPOCH, setting, steps)


@pytest.mark.parametrize("algo", ALGOS)
def test_products_match_a_real_update(algo, monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    from spinup.buffers import ReplayBuffer
    from spinup.runs.logger import EpochLogger

    small(monkeypatch, steps=14, random_steps=10)
    sample, store, counters = ReplayBuffer.sample, EpochLogger.store, []

    def sample_and_count(self, batch_size):
        batch = sample(self, batch_size)
        counters.append(FlopCounterMode(display=False))
        counters[-1].__enter__()
        return batch

    def stop_and_store(self, **values):
        if "LossQ" in values:
            counters[-1].__exit__(None, None, None)
        store(self, **values)

    monkeypatch.setattr(ReplayBuffer, "sample", sample_and_count)
    monkeypatch.setattr(EpochLogger, "store", stop_and_store)
    function = getattr(import_module(f"spinup.algos.{algo}"), algo)
    function("Pendulum-v1", epochs=1, **offpolicy.spinup_kwargs(algo, "offpolicy-100"))
    counted = [counter.get_total_flops() for counter in counters]
    assert len(counted) == 4

    products, updates = offpolicy.update_products(algo, observations=3, actions=1)
    assert sum(2 * 16 * n * m for _, n, m in products) == sum(counted[:updates])
    assert counted[:updates] == counted[updates : 2 * updates]
    assert (len(products), updates) == {"sac": (45, 1), "td3": (64, 2), "ddpg": (28, 1)}[algo]


@pytest.mark.parametrize(
    ("algo", "setting", "env_id", "num_envs"),
    [("ppo", "fullbatch", "CartPole-v1", 8), *((algo, "offpolicy-256", "Pendulum-v1", 1) for algo in ALGOS)],
)
def test_spinup_is_measured_after_the_first_epoch(algo, setting, env_id, num_envs, monkeypatch):
    from spinup import nets
    from spinup.buffers import ReplayBuffer
    from spinup.envs import VecEnv
    from spinup.runs.logger import EpochLogger

    classes = {
        "ppo": "ActorCritic",
        "sac": "SoftActorCritic",
        "td3": "TwinActorCritic",
        "ddpg": "DeterministicActorCritic",
    }
    patched = {VecEnv: ("step", "reset_done"), EpochLogger: ("dump_tabular", "store")}
    patched |= {ReplayBuffer: ("store", "sample"), getattr(nets, classes[algo]): ("act",)}
    for owner, names in patched.items():
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))  # so that it is restored
    small(monkeypatch, steps=40, random_steps=20)
    monkeypatch.setitem(speed.STEPS_PER_EPOCH, "fullbatch", 40)
    job = {**COMMON, "setting": setting, "algo": algo, "env_id": env_id, "num_envs": num_envs, "epochs": 2}
    started, stopped, extra = speed.measure_spinup(package="spinup", **job, seed=0)
    assert started < stopped
    assert set(extra["seconds"]) == set(speed.SETTINGS[setting].shares)
    assert all(seconds > 0 for seconds in extra["seconds"].values())
    assert sum(extra["seconds"].values()) < stopped[0] - started[0]
    assert ("products" in extra) == (algo != "ppo")


# ---- other packages' environments


def test_the_page_lists_the_commands_that_are_run():
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    rows = [(package, command) for package, commands in third_party.COMMANDS.items() for command in commands]
    assert re.findall(r"^\| ([\w-]+) [^|]*\| `(\w+ --env [^`]+)` \|$", page, re.MULTILINE) == rows


@pytest.mark.parametrize(("env", "status"), [("CartPole-v1", 0), ("NoSuch-v1", 2)])
def test_a_short_run(tmp_path, env, status):
    assert third_party.train(f"ppo --env {env}", tmp_path)[0] == status


# ---- hindsight.py


def test_the_page_of_hindsight_has_what_the_records_say():
    page = (ROOT / "docs" / "algorithms" / "her.md").read_text(encoding="utf-8")
    assert hindsight.report(list(hindsight.read(ROOT / "data" / "benchmarks").values())) in page


def test_each_record_of_hindsight_says_what_was_run():
    for (task, share, seed), record in hindsight.read(ROOT / "data" / "benchmarks").items():
        algo, flags, _ = hindsight.RUNS[task]
        assert record["command"] == f"python -m spinup.run {algo} {flags} --hindsight {share:g} --seed {seed}"
        assert re.fullmatch(r"[0-9a-f]{40}", record["commit"])
        assert list(map(int, record["success"])) == sorted(map(int, record["success"]))


def test_report_of_hindsight_by_hand():
    runs = [
        {"task": "Reach sac", "hindsight": h, "seed": seed, "success": {"1000": 0.5, "2000": final}}
        for h, seed, final in [(0.8, 0, 1.0), (0.0, 0, 0.02), (0.8, 1, 0.9)]
    ]
    last = "| Reach, SAC | 2,000 | 0.95 (1.00, 0.90) | 0.02 (0.02) |"
    assert hindsight.report(runs).splitlines()[2:] == [last]
    assert hindsight.report(runs[:1]).endswith(" | 1.00 (1.00) | - |")


# ---- step_times.py


def test_step_time_by_hand():
    """250 steps an epoch; the first three epochs, of 1, 9 and 9 s, don't count, and the median of the others is 4 s."""
    assert step_times.step_time([1.0, 10.0, 19.0, 22.0, 26.0, 36.0]) == 16.0


def test_table_of_step_times_by_hand():
    lines = step_times.table(["sac", "crossq"], [[10.0, 20.0], [8.0, 32.0], [10.0, 30.0]]).splitlines()
    assert lines[2:] == ["| `sac` | 10.0 | 1 |", "| `crossq` | 30.0 | 3.00 (2.00 to 4.00) |"]


def test_step_times_of_a_run(monkeypatch):
    monkeypatch.setattr(step_times, "FLAGS", "--steps_per_epoch 20 --epochs 5 --start_steps 10 --eval_freq 0")
    assert step_times.measure("sac --hid 8 --batch_size 4", "Pendulum-v1", 0) > 0
    with pytest.raises(SystemExit) as status:
        step_times.measure("sac --hidd 8", "Pendulum-v1", 0)
    assert status.value.code == 2

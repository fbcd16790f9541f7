"""Train algorithms on environments with several seeds, evaluate the policies, and compare with published results.

    python benchmarks/learning.py --suite classic --dir data/classic --jobs 2
    python benchmarks/learning.py --suite onpolicy --algos ppo --dir data/onpolicy --jobs 2 -- --preset spinningup
    python benchmarks/learning.py --algos ppo --envs Hopper-v5 --seeds 0 1 --steps 300000 --dir data/try
    python benchmarks/learning.py --algos sac sb3-sac --envs Hopper-v5 --steps 100000 --dir data/peer    # needs SB3
    python benchmarks/learning.py --report data/classic data/onpolicy
    python benchmarks/learning.py --report data/benchmarks    # the results we got
    python benchmarks/learning.py --report data/benchmarks --into docs/results.md

Each job is `python -m spinup.run ALGO --env ENV --seed S` in a process of its own, with everything after `--` passed
on. Stable-Baselines3's algorithms (sb3-sac, sb3-td3, sb3-ddpg) run by their own defaults: see sb3.py. A job's output
goes to DIR/<job>.log, its result to DIR/results.jsonl. Started again, the command skips jobs that are done and repeats
those that failed. Closing the terminal doesn't stop it (progress: DIR/learning.log), but Ctrl-C does.
benchmarks/README.md has the protocol.
"""

import argparse
import csv
import importlib.metadata
import itertools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this checkout, not an installed copy

from spinup.algorithm import files, find  # noqa: E402
from spinup.analysis.stats import improvement, iqm, iqm_interval  # noqa: E402
from spinup.errors import UserError  # noqa: E402
from spinup.experiments.cli import split_flags  # noqa: E402
from spinup.run import ALIASES  # noqa: E402
from spinup.system.files import newest_checkpoint  # noqa: E402
from spinup.system.terminal import say  # noqa: E402

MARKS = (100_000, 300_000, 1_000_000)  # steps at which the learning curve is read
SHORT_MARKS = (20_000, 40_000, 60_000, 80_000, 100_000)  # for runs of at most 100k steps
FIRST_MARKS = (2_000, 4_000, 6_000, 8_000, 10_000)  # in the records only, for figures of the shortest runs
EVAL_EPISODES = 20
EVAL_SEED = 1_000_000  # the same 20 initial states for every policy, far from the seeds of training
PEERS = ("sb3-sac", "sb3-td3", "sb3-ddpg")  # Stable-Baselines3's, by their own defaults

POSITIONS = ("--wrapper", "spinup.wrappers:SelectObservation(0,2)")  # CartPole without its two velocities
THREE_ROBOTS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
FOUR_ROBOTS = (*THREE_ROBOTS, "Ant-v5")
SEVEN_TASKS = (*FOUR_ROBOTS, "Swimmer-v5", "Reacher-v5", "InvertedDoublePendulum-v5")
SMALL = "--hid 64,64 --steps_per_epoch 1000 --start_steps 1000"
INGREDIENTS = (  # CrossQ's, each switched off, and the paper's target entropy and wider critics
    "--ac_kwargs:batch_norm False",
    "--ac_kwargs:actor_batch_norm False",
    "--joint False",
    "--polyak 0.995",
    "--target_entropy -1",
    "--ac_kwargs:critic_width 2",
    "--policy_delay 1",
    "--beta1 0.9",
)
SINGLE = "--policy_average 0"  # tests single policies: an average would hide how noisy they are
WITHOUT = ("", SINGLE, *(f"{SINGLE} {off}" for off in INGREDIENTS))  # "": the defaults


class Task(NamedTuple):
    """One algorithm on one environment, with seeds 0 to seeds - 1."""

    algo: str
    env: str
    steps: int
    seeds: int = 5
    flags: tuple[str, ...] = ()


SUITES = {
    "classic": [
        Task("ppo", "CartPole-v1", 100_000),
        Task("trpo", "CartPole-v1", 100_000),
        Task("vpg", "CartPole-v1", 300_000),
        Task("ppo", "Acrobot-v1", 300_000),
        Task("ppo", "Pendulum-v1", 300_000),
    ],
    "dqn": [Task("dqn", "CartPole-v1", 50_000), Task("dqn", "LunarLander-v3", 300_000)],
    "memory": [Task(algo, "CartPole-v1", 100_000, flags=POSITIONS) for algo in ("ppo_rnn", "ppo")],
    "ablations": [Task("crossq", "Pendulum-v1", 10_000, flags=(*SMALL.split(), *off.split())) for off in WITHOUT],
    "offpolicy": [
        *(Task(algo, "Pendulum-v1", 20_000) for algo in ("sac", "crossq", "td3", "ddpg")),
        *(Task(algo, env, 100_000) for env in FOUR_ROBOTS for algo in ("sac", "crossq")),
        *(Task("td3", env, 100_000, seeds=3) for env in FOUR_ROBOTS),
        Task("ddpg", "HalfCheetah-v5", 100_000, seeds=3),
        Task("sb3-sac", "Hopper-v5", 100_000),
    ],
    "onpolicy": [
        *(Task("ppo", env, 1_000_000) for env in SEVEN_TASKS),
        *(Task(algo, env, 1_000_000, seeds=3) for algo in ("trpo", "vpg") for env in THREE_ROBOTS),
    ],
}

# Published returns at 100k / 300k / 1M steps, +- one standard deviation over seeds. Sources: benchmarks/README.md.
PUBLISHED = {
    ("ppo", "HalfCheetah"): {"S": "-60/559/1733+-533", "T": "910/3927/5650+-1230", "CleanRL": "-/-/1443+-46"},
    ("ppo", "Hopper"): {"S": "249/517/1770+-535", "T": "369/884/2483+-852", "CleanRL": "-/-/2383+-272"},
    ("ppo", "Walker2d"): {"S": "291/343/1211+-327", "T": "363/1986/3410+-686", "CleanRL": "-/-/2288+-572"},
    ("trpo", "HalfCheetah"): {"S": "-576/-330/720+-278", "T": "365/2601/4527+-603"},
    ("trpo", "Hopper"): {"S": "248/458/1161+-321", "T": "326/508/2006+-928"},
    ("trpo", "Walker2d"): {"S": "45/220/556+-298", "T": "391/1696/3507+-714"},
    ("sac", "HalfCheetah"): {"S": "6081/9163/11496+-792", "T": "6515/9059/12120+-1010", "CleanRL": "-/-/9635+-1424"},
    ("sac", "Hopper"): {"S": "1164/2887/3535+-106", "T": "2613/3388/3532+-43", "CleanRL": "-/-/2310+-343"},
    ("sac", "Walker2d"): {"S": "771/2958/4111+-508", "T": "1305/3387/4961+-327", "CleanRL": "-/-/3591+-911"},
    ("sac", "Ant"): {"S": "802/1737/3949+-1050", "T": "1020/3561/5714+-369"},
    ("td3", "HalfCheetah"): {"S": "5242/7625/9755+-763", "T": "5336/7546/10130+-692", "F": "5514/7697/9567+-833"},
    ("ddpg", "HalfCheetah"): {"S": "4339/7757/10109+-979", "T": "6308/9137/11650+-430", "CleanRL": "-/-/10374"},
    ("vpg", "HalfCheetah"): {"S": "-269/-209/-49+-103"},
    ("vpg", "Hopper"): {"S": "99/202/391+-40"},
    ("vpg", "Walker2d"): {"S": "42/190/293+-14"},
}
PUBLISHED_SEEDS = {"S": "10", "T": "10", "F": "10", "CleanRL": "3"}


# ---- reading a run


def read_progress(file):
    """progress.txt as one dict of floats per row, with NaN for what isn't a number."""

    def number(text):
        try:
            return float(text)
        except (TypeError, ValueError):
            return math.nan

    with open(file, newline="") as lines:
        return [{key: number(text) for key, text in row.items()} for row in csv.DictReader(lines, delimiter="\t")]


def return_at(rows, mark):
    """Mean return over the last tenth of the steps before `mark`; None if the run is shorter.

    A run of whole epochs may end a little early, so 95% of the mark is enough. Uses the deterministic test episodes if
    the run has them, otherwise the training episodes.
    """
    if rows[-1]["TotalEnvInteracts"] < 0.95 * mark:
        return None
    column = "AverageTestEpRet" if "AverageTestEpRet" in rows[0] else "AverageEpRet"
    window = [row[column] for row in rows if 0.9 * mark < row["TotalEnvInteracts"] <= mark]
    window = [value for value in window if not math.isnan(value)]
    return statistics.fmean(window) if window else None


def last_episodes_return(rows, episodes=100):
    """Mean training return over about the last 100 episodes. A row has (its steps / its EpLen) of them."""
    total, count = 0.0, 0.0
    for i in range(len(rows) - 1, -1, -1):
        before = rows[i - 1]["TotalEnvInteracts"] if i else 0.0
        finished = (rows[i]["TotalEnvInteracts"] - before) / rows[i]["EpLen"]
        if math.isnan(finished) or math.isnan(rows[i]["AverageEpRet"]):
            continue  # no episode ended in this row
        finished = min(finished, episodes - count)
        total += finished * rows[i]["AverageEpRet"]
        count += finished
        if count >= episodes:
            break
    return total / count if count else None


def curve_summary(rows):
    last = rows[-1]
    return {
        "steps": int(last["TotalEnvInteracts"]),
        "seconds": last["Time"],
        "last_100_episodes": last_episodes_return(rows),
        "return_at": {str(mark): return_at(rows, mark) for mark in sorted({*MARKS, *SHORT_MARKS, *FIRST_MARKS})},
    }


# ---- jobs


def read_flags(words):
    """The flags for `spinup.run` as {name: text}, without aliases: {"steps_per_epoch": "4000"} for --steps 4000.

    Raises UserError for a malformed flag, for several values (a job is one run), and for a flag that this script sets.
    """
    flags = {}
    for name, _, values in split_flags(words):
        key = ALIASES.get(name, name)
        if len(values) > 1:
            raise UserError(f"--{name} has {len(values)} values; a job is one run and takes one")
        if key in ("env_name", "seed", "epochs", "data_dir", "exp_name"):
            raise UserError(f"--{name} is set by this script; use its own --envs, --seeds, --steps or --dir")
        flags[key] = values[0] if values else None
    return flags


def setting(algo, flags, name):
    """The value of a run's integer argument: from the flag, the preset or the algorithm's default, in this order."""
    if name in flags:
        return int(float(flags[name]))
    algorithm = find(algo)
    return {**algorithm.defaults, **algorithm.presets.get(flags.get("preset"), {})}[name]


def epochs_within(steps, steps_per_epoch, num_envs):
    """The largest number of whole epochs within `steps`, but at least one. '100k steps' is never more than 100k.

    An epoch's steps are rounded up to a multiple of the number of environments.
    """
    return max(1, steps // (math.ceil(steps_per_epoch / num_envs) * num_envs))


def job_name(job):
    """The name of the job's files: ppo_Hopper-v5_1000000_preset-spinningup_s0."""
    flags = "-".join(word.removeprefix("--") for word in job["flags"])
    parts = [job["algo"], job["env"], str(job["budget"]), flags, f"s{job['seed']}"]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in "_".join(filter(None, parts)))


def job_key(job):
    return job["algo"], job["env"], job["seed"], job["budget"], tuple(job["flags"])


def make_jobs(args):
    """The suite's jobs, filtered or changed by --algos, --envs, --seeds, --steps; without a suite, their product."""
    if args.suite:
        tasks = [
            t
            for t in SUITES[args.suite]
            if (not args.algos or t.algo in args.algos) and (not args.envs or t.env in args.envs)
        ]
    else:
        tasks = [Task(algo, env, args.steps, seeds=3) for algo in args.algos for env in args.envs]
    most = max((task.seeds for task in tasks), default=0)
    return [
        {"algo": t.algo, "env": t.env, "seed": seed, "budget": args.steps or t.steps, "flags": [*t.flags, *args.flags]}
        for seed in args.seeds or range(most)  # seed by seed, so that early results cover all tasks
        for t in tasks
        if args.seeds or seed < t.seeds
    ]


def read_results(folder):
    """{job_key: the job's last record in DIR/results.jsonl}."""
    file = Path(folder) / "results.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {job_key(record): record for record in records}


def child(args, log):
    env = {**dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"), **os.environ}
    env["PYTHONPATH"] = str(ROOT)  # this checkout, not an installed copy
    return subprocess.run([sys.executable, *args], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log).returncode


class JobFailed(Exception):
    pass


def progress_files(data_dir):
    """The tables of the runs below data_dir, the newest first."""
    return sorted(data_dir.rglob("progress.txt"), key=lambda file: file.stat().st_mtime, reverse=True)


def finished_run(data_dir, epochs):
    """The newest folder below data_dir with a run that reached its last epoch, or None."""
    for file in progress_files(data_dir):
        rows = read_progress(file)
        if rows and rows[-1]["Epoch"] == epochs:
            return file.parent
    return None


def unfinished_run(data_dir):
    """The newest folder below data_dir with a run that can be resumed, or None."""
    return next((file.parent for file in progress_files(data_dir) if newest_checkpoint(file.parent)), None)


def train_and_evaluate(job, folder):
    """Run one job. Returns the rest of its record; raises JobFailed with one line."""
    return (train_peer if job["algo"] in PEERS else train_ours)(job, folder)


def train_peer(job, folder):
    """Run one job of Stable-Baselines3, from the start."""
    name = job_name(job)
    run = folder / "runs" / name
    command = ["benchmarks/sb3.py", job["algo"].removeprefix("sb3-"), "--env", job["env"], "--seed", str(job["seed"])]
    command += ["--steps", str(job["budget"])]
    with open(folder / f"{name}.log", "a") as log:
        if status := child([ROOT / command[0], *command[1:], "--dir", str(run)], log):
            raise JobFailed(f"training ended with status {status}; see {name}.log")
    package = f"stable-baselines3 {importlib.metadata.version('stable-baselines3')}"
    return {"command": " ".join(["python", *command]), "package": package, **summary_of(run, folder)}


def train_ours(job, folder):
    """Run one job of spinup.

    A run that an earlier call began is resumed from its checkpoint, and one that it finished is only evaluated.
    """
    name, flags = job_name(job), read_flags(job["flags"])
    data_dir = folder / "runs" / name
    sizes = [setting(job["algo"], flags, argument) for argument in ("steps_per_epoch", "num_envs")]
    epochs = epochs_within(job["budget"], *sizes)
    command = ["-m", "spinup.run", job["algo"], "--env", job["env"], "--seed", str(job["seed"])]
    command += ["--epochs", str(epochs), "--exp_name", job["algo"], *job["flags"]]
    with open(folder / f"{name}.log", "a") as log:
        run = finished_run(data_dir, epochs)
        if run is None:
            begun = unfinished_run(data_dir)
            resume = begun and ["-m", "spinup.run", "resume", str(begun)]
            if status := child(resume or [*command, "--data_dir", str(data_dir)], log):
                raise JobFailed(f"training ended with status {status}; see {name}.log")
            run = finished_run(data_dir, epochs)
        if run is None:
            raise JobFailed(f"training left no run of {epochs} epochs; see {name}.log")
        if status := child([__file__, "--evaluate", str(run)], log):
            raise JobFailed(f"evaluation ended with status {status}; see {name}.log")
    return {"command": " ".join(["python", *command]), "commit": commit_of(run), **summary_of(run, folder)}


def summary_of(run, folder):
    """What a record has of the learning curve and of the evaluation."""
    curve, evaluation = curve_summary(read_progress(run / "progress.txt")), (run / "evaluation.json").read_text()
    return {"run": str(run.relative_to(folder)), **curve, **json.loads(evaluation)}


def commit_of(run):
    """The commit of spinup that did a run, from its config.json; None if it wasn't in git."""
    record = json.loads((run / "config.json").read_text())["run"]
    return (record.get("git_spinup") or record.get("git") or {}).get("commit")


def evaluate_run(run):
    """In a child process: deterministic episodes of the saved policy, on seeds not used in training."""
    import torch

    import spinup

    torch.set_num_threads(1)
    config = json.loads((run / "config.json").read_text())
    ac = spinup.load(run, env_fn=config["env_fn"])
    options = {key: config[key] for key in ("max_ep_len", "env_kwargs", "wrappers") if config.get(key) is not None}
    returns = spinup.evaluate(
        ac, config["env_fn"], episodes=EVAL_EPISODES, deterministic=True, seed=EVAL_SEED, **options
    )["EpRet"]
    (run / "evaluation.json").write_text(json.dumps(evaluation(returns)))


def evaluation(returns):
    """The part of a record that is about the final policy, from the returns of EVAL_EPISODES episodes."""
    returns = [float(value) for value in returns]
    return {"eval_mean": statistics.fmean(returns), "eval_std": statistics.pstdev(returns), "eval_returns": returns}


def run_all(jobs, folder, workers):
    """Run the jobs, `workers` at a time. Returns the number that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = threading.Lock()
    failed = []

    def log(text):
        with lock:
            with open(folder / "learning.log", "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            say(text)

    def work(job):
        log(f"start {job_name(job)}")
        try:
            record = {**job, "status": "ok", **train_and_evaluate(job, folder)}
        except Exception as error:  # record any failure of this job and continue with the others
            text = str(error) if isinstance(error, JobFailed) else f"{type(error).__name__}: {error}"
            record = {**job, "status": "failed", "error": text}
            failed.append(job)
        with lock, open(folder / "results.jsonl", "a") as results:
            results.write(json.dumps(record) + "\n")
        outcome = f"evaluation {record['eval_mean']:.1f}" if record["status"] == "ok" else record["error"]
        log(f"{record['status']} {job_name(job)}: {outcome}")

    done = {key for key, record in read_results(folder).items() if record["status"] == "ok"}
    todo = [job for job in jobs if job_key(job) not in done]
    log(f"{len(todo)} jobs to run, {len(jobs) - len(todo)} already done, {workers} at a time")
    pool = ThreadPoolExecutor(workers)
    try:
        list(pool.map(work, todo))
    except KeyboardInterrupt:  # the children get it too
        pool.shutdown(cancel_futures=True)
        sys.exit("learning.py: stopped; the same command continues from here")
    return len(failed)


# ---- the report


def mean_std(values):
    """'mean ± std' (of the sample), or '-' if a seed has no value."""
    if not values or any(value is None or math.isnan(value) for value in values):
        return "-"
    mean = statistics.fmean(values)
    return f"{rounded(mean)} ± {rounded(statistics.stdev(values), mean)}" if len(values) > 1 else rounded(mean)


def rounded(value, size=None):
    """The value without decimals, or with one if `size` (None: the value itself) is below 10, as Reacher's returns."""
    return f"{value:.{int(abs(value if size is None else size) < 10)}f}"


def published_rows(algo, env, marks):
    rows = []
    for source, text in PUBLISHED.get((algo, env.rpartition("-v")[0]), {}).items():
        published = dict(zip(MARKS, text.replace("+-", " ± ").split("/"), strict=True))
        at_marks = [published.get(mark, "-") for mark in marks]
        rows.append([algo, env, f"published: {source}", PUBLISHED_SEEDS[source], *at_marks, "", "", "", ""])
    return rows


def report(records):
    """Markdown tables: runs of at most 100k steps, longer ones, pairs of algorithms, and what the suites still lack;
    then the jobs that failed."""
    ok = [record for record in records if record["status"] == "ok"]
    short = [record for record in ok if record["budget"] <= SHORT_MARKS[-1]]
    long = [record for record in ok if record["budget"] > SHORT_MARKS[-1]]
    tables = [table(runs, marks) for runs, marks in ((short, SHORT_MARKS), (long, MARKS)) if runs]
    tables += [pairs] if (pairs := comparisons(ok)) else []
    tables += [rest] if (rest := unfinished(ok)) else []
    failures = [f"failed: {job_name(record)}: {record['error']}" for record in records if record["status"] != "ok"]
    return "\n\n".join([*tables, *failures])


def with_tables(page, text):
    """The page with its tables replaced, in their order, by those of a report; ValueError if it has another number."""
    old, new = re.compile(r"(?:^\|.*\n)+", re.MULTILINE), text.split("\n\n")
    if (count := len(old.findall(page))) != len(new):
        raise ValueError(f"the page has {count} tables, and the report {len(new)} parts")
    parts = iter(new)
    return old.sub(lambda _: next(parts) + "\n", page)


def table(records, marks):
    """A row for each algorithm, environment and set of flags, and the published ones below each environment."""
    groups = {}
    for record in records:
        key = record["algo"], record["env"], record["budget"], " ".join(record["flags"])
        groups.setdefault(key, []).append(record)
    names = [f"{mark // 1000}k" if mark < 1_000_000 else f"{mark // 1_000_000}M" for mark in marks]
    header = ["algo", "env", "run", "seeds", *(f"return at {name}" for name in names)]
    header += ["last 100 episodes", "evaluation", "worst seed", "minutes"]
    rows, keys = [], sorted(groups)
    for i, key in enumerate(keys):
        algo, env, budget, flags = key
        runs = groups[key]
        row = [algo, env, f"{budget:,} steps" + f" `{flags}`" * bool(flags), str(len(runs))]
        row += [mean_std([run["return_at"].get(str(mark)) for run in runs]) for mark in marks]
        evaluations = [run["eval_mean"] for run in runs]
        row += [mean_std([run["last_100_episodes"] for run in runs]), mean_std(evaluations), rounded(min(evaluations))]
        row.append(mean_std([run["seconds"] / 60 if "seconds" in run else None for run in runs]))
        rows.append(row)
        if i + 1 == len(keys) or keys[i + 1][:2] != (algo, env):
            rows += published_rows(algo, env, marks)
    return markdown(header, rows)


def comparisons(records):
    """A row for each pair on the same task with at least three seeds each: two algorithms by their defaults, or an
    algorithm with flags and by its defaults."""
    tasks = {}
    for record in records:
        runs = tasks.setdefault((record["env"], record["budget"]), {})
        runs.setdefault((record["algo"], " ".join(record["flags"])), []).append(record["eval_mean"])
    rows = []
    for (env, budget), runs in sorted(tasks.items()):
        scores = {key: np.array(values) for key, values in sorted(runs.items()) if len(values) >= 3}
        for pair in itertools.combinations(sorted(scores, key=lambda key: -iqm(scores[key])), 2):
            (algo, flags), (other, other_flags) = pair
            if (flags or other_flags) if algo != other else (flags and other_flags):
                continue
            x, y = scores[pair[0]], scores[pair[1]]
            p, low, high = improvement(x, y, np.zeros(len(x)), np.zeros(len(y)))
            names = [algo + f" `{flags}`" * bool(flags) for algo, flags in pair]
            row = [env, f"{budget:,}", names[0], iqm_text(x), names[1], iqm_text(y)]
            rows.append([*row, f"{p:.2f} ({low:.2f} to {high:.2f})"])
    return markdown(["env", "steps", "X", "IQM of X", "Y", "IQM of Y", "P(X > Y)"], rows) if rows else ""


def unfinished(records):
    """A row for each task that still lacks seeds, of the suites that have been begun."""
    done = {job_key(record) for record in records}
    rows = []
    for name, tasks in SUITES.items():
        counts = [sum((t.algo, t.env, s, t.steps, t.flags) in done for s in range(t.seeds)) for t in tasks]
        rows += [
            [name, t.algo, t.env, f"{t.steps:,}" + f" `{' '.join(t.flags)}`" * bool(t.flags), f"{count} of {t.seeds}"]
            for t, count in zip(tasks, counts, strict=True)
            if any(counts) and count < t.seeds
        ]
    return markdown(["suite", "algo", "env", "steps", "seeds done"], rows) if rows else ""


def iqm_text(values):
    """'IQM (low to high)': the interquartile mean and its 95% bootstrap interval."""
    low, high = iqm_interval(values[:, None], np.zeros(len(values)))
    value = iqm(values)
    return f"{rounded(value)} ({rounded(low[0], value)} to {rounded(high[0], value)})"


def markdown(header, rows):
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows])


# ---- command line


def parse(argv):
    split = argv.index("--") if "--" in argv else len(argv)
    own, flags = argv[:split], argv[split + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], epilog="Everything after -- goes to python -m spinup.run."
    )
    parser.add_argument(
        "--suite", choices=SUITES, help="a named set of jobs; the next four options filter or change it"
    )
    parser.add_argument("--algos", nargs="+", choices=[*files(), *PEERS])
    parser.add_argument("--envs", nargs="+", metavar="ENV")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="S")
    parser.add_argument("--steps", type=lambda text: int(float(text)), help="environment steps per run, at most")
    parser.add_argument("--dir", type=Path, help="where runs, logs and results.jsonl go")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--report", nargs="+", type=Path, metavar="DIR", help="print the table of these folders")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="replace this page's tables by those of --report")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)  # in a child process
    args = parser.parse_args(own)
    args.flags = flags
    if args.into and not args.report:
        parser.error("--into PAGE needs --report DIR: the folders whose tables it gets")
    if args.report or args.evaluate:
        return args
    if not args.dir:
        parser.error("--dir DIR is needed: the folder for the results")
    if not args.suite and not (args.algos and args.envs and args.steps):
        parser.error("give --suite, or all of --algos, --envs and --steps")
    try:
        read_flags(flags)
    except UserError as error:
        parser.error(str(error))
    jobs = make_jobs(args)
    if flags and (peers := sorted({job["algo"] for job in jobs} & {*PEERS})):
        parser.error(f"{', '.join(peers)} runs by its own defaults, so leave it out by --algos, or all after --")
    if not jobs:
        parser.error(f"suite '{args.suite}' has no job for these --algos and --envs")
    return args


def main():
    args = parse(sys.argv[1:])
    if args.evaluate:
        evaluate_run(args.evaluate)
        return 0
    if args.report:
        missing = [str(folder) for folder in args.report if not (folder / "results.jsonl").exists()]
        if missing:
            sys.exit(f"learning.py: no results.jsonl in {', '.join(missing)}")
        text = report([record for folder in args.report for record in read_results(folder).values()])
        if not args.into:
            say(text)
            return 0
        try:
            args.into.write_text(with_tables(args.into.read_text("utf-8"), text), "utf-8")
        except (OSError, ValueError) as error:
            sys.exit(f"learning.py: {args.into}: {error.strerror if isinstance(error, OSError) else error}")
        return 0
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # sent when the terminal is closed; the children inherit this
    return 1 if run_all(make_jobs(args), args.dir.resolve(), args.jobs) else 0


if __name__ == "__main__":
    sys.exit(main())

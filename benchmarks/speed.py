"""Steps per second of spinup, of Stable-Baselines3 and, for SAC, TD3 and DDPG, of SBX (JAX), end to end.

    python benchmarks/speed.py [--settings fullbatch sb3-defaults offpolicy-256 offpolicy-100 startup] [--threads 1]
        [--algos ppo sac td3 ddpg] [--envs ...] [--repeats 5] [--matmul_precision medium] [--json FILE]

Each measurement is a process of its own, limited to as many cores as it has threads. The contestants take turns, round
by round, so that a slow minute of the machine affects all of them; seed = round. The clock runs from the end of the
first epoch to the end of training, which excludes imports, building the environments and the first updates. An epoch is
one update of PPO, or 1000 steps of the others. benchmarks/README.md says what is measured and why the work is equal.
"""

import argparse
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import speed_offpolicy as offpolicy

ROOT = Path(__file__).resolve().parent.parent
MODULES = {"sb3": "stable_baselines3", "sbx": "sbx"}
DISTRIBUTIONS = ("torch", "gymnasium", "numpy", "stable-baselines3", "sbx-rl", "jax")  # their versions are recorded
STARTUP = {
    "python -m spinup.run --help": ["-m", "spinup.run", "--help"],
    "python -c 'import spinup'": ["-c", "import spinup"],
    "python -c pass (for comparison)": ["-c", "pass"],
}


class Kind(NamedTuple):
    """What the settings for one kind of algorithm share."""

    algos: tuple
    envs: tuple  # unless the command line names others
    steps: int  # timed in each run, unless the command line gives another number
    contestants: tuple  # (package, environments), in running order
    ratios: tuple  # of two contestants each
    shares: dict  # parts of the first contestant's time: {key: column}
    rest: str  # the column of the remaining time


ON_POLICY = Kind(
    algos=("ppo",),
    envs=("CartPole-v1", "HalfCheetah-v5"),
    steps=20_000,
    contestants=(("spinup", 8), ("sb3", 8), ("spinup", 1), ("sb3", 1)),
    ratios=((("spinup", 8), ("sb3", 1)), (("spinup", 8), ("sb3", 8)), (("spinup", 1), ("sb3", 1))),
    shares={"env": "env.step and reset", "inference": "inference"},
    rest="update and rest",
)
OFF_POLICY = Kind(
    algos=("sac", "td3", "ddpg"),
    envs=("HalfCheetah-v5",),
    steps=5000,
    contestants=(("spinup", 1), ("sb3", 1), ("sbx", 1)),
    ratios=((("spinup", 1), ("sb3", 1)), (("spinup", 1), ("sbx", 1))),
    shares={"env": "env.step and reset", "inference": "inference", "buffer": "replay buffer", "update": "update"},
    rest="rest",
)
SETTINGS = {"fullbatch": ON_POLICY, "sb3-defaults": ON_POLICY, **dict.fromkeys(offpolicy.BATCH, OFF_POLICY)}
STEPS_PER_EPOCH = {
    "fullbatch": 4000,
    "sb3-defaults": 2048,
    **dict.fromkeys(offpolicy.BATCH, offpolicy.STEPS_PER_EPOCH),
}


# ---- the measurements: each runs in a child process


def sb3_kwargs(setting, num_envs):
    """The arguments of stable_baselines3.PPO that differ from its defaults; none in "sb3-defaults" with one env."""
    kwargs = {"n_steps": STEPS_PER_EPOCH[setting] // num_envs}
    if setting == "fullbatch":
        kwargs |= {"batch_size": STEPS_PER_EPOCH[setting], "n_epochs": 80, "gae_lambda": 0.97}
    return kwargs


def spinup_kwargs(setting):
    """The arguments of spinup.ppo that give it the same updates as SB3 with `sb3_kwargs`."""
    kwargs = {
        "steps_per_epoch": STEPS_PER_EPOCH[setting],
        "lam": 0.95,
        "train_pi_iters": 10,
        "train_v_iters": 10,
        "minibatch_size": 64,
        "clip_ratio": 0.2,
        "pi_lr": 3e-4,
        "vf_lr": 3e-4,
        "max_grad_norm": 0.5,
        "target_kl": None,
        "anneal_lr": False,
        "normalize_obs": False,
        "normalize_rew": False,
        "normalize_adv": True,
        "recompute_adv": False,
        "value_target": "gae",
    }
    if setting == "fullbatch":
        kwargs |= {"lam": 0.97, "train_pi_iters": 80, "train_v_iters": 80, "minibatch_size": None}
    return kwargs


def clock():
    return time.perf_counter(), time.process_time()


def measure_peer(package, algo, setting, env_id, num_envs, seed, epochs, threads, matmul_precision):
    """Train with SB3 or SBX, whose products are always float32. Returns when the clock starts and stops."""
    import numpy as np
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.noise import NormalActionNoise

    torch.set_num_threads(threads)
    started = []

    class Clock(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):  # a rollout is the steps of one update, with SAC, TD3 and DDPG one step
            if not started and self.model.num_timesteps >= STEPS_PER_EPOCH[setting]:
                started.append(clock())

    envs = make_vec_env(env_id, n_envs=num_envs, seed=seed)  # a DummyVecEnv, SB3's default
    kwargs = sb3_kwargs(setting, num_envs) if algo == "ppo" else offpolicy.peer_kwargs(algo, setting)
    if algo in ("td3", "ddpg"):
        zeros = np.zeros(envs.action_space.shape)
        kwargs["action_noise"] = NormalActionNoise(zeros, zeros + offpolicy.NOISE)
    algorithm = getattr(importlib.import_module(MODULES[package]), algo.upper())
    model = algorithm("MlpPolicy", envs, seed=seed, device="cpu", **kwargs)
    model.learn(STEPS_PER_EPOCH[setting] * (epochs + 1), callback=Clock())
    return started[0], clock(), {}


def measure_spinup(package, algo, setting, env_id, num_envs, seed, epochs, threads, matmul_precision):
    """Train with spinup. Returns when the clock starts and stops, and how the seconds in between were spent.

    An off-policy update lasts from sampling the replay buffer to logging its results. "products" is the time of one
    update's matrix products in seconds, measured right after training.
    """
    from spinup.buffers import ReplayBuffer
    from spinup.envs import VecEnv, make_envs
    from spinup.runs.logger import EpochLogger

    algorithm = getattr(importlib.import_module(f"spinup.algos.{algo}"), algo)
    actor_critic = inspect.signature(algorithm).parameters["actor_critic"].default
    if algo == "ppo":
        kwargs = spinup_kwargs(setting)
    else:
        kwargs = offpolicy.spinup_kwargs(algo, setting) | {"matmul_precision": matmul_precision}
    seconds = dict.fromkeys(SETTINGS[setting].shares, 0.0)
    started, drawn = [], []

    def timed(function, key):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[key] += time.perf_counter() - start
            return result

        return wrapper

    def before(first, function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            first()
            return function(*args, **kwargs)

        return wrapper

    def after(function, then):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            result = function(*args, **kwargs)
            then()
            return result

        return wrapper

    def epoch_ends():
        if not started:
            started.append(clock())
            seconds.update(dict.fromkeys(seconds, 0.0))

    def update_begins():
        drawn.append(time.perf_counter())

    def update_ends():
        if drawn:
            seconds["update"] += time.perf_counter() - drawn.pop()

    EpochLogger.dump_tabular = after(EpochLogger.dump_tabular, epoch_ends)
    VecEnv.step = timed(VecEnv.step, "env")
    VecEnv.reset_done = timed(VecEnv.reset_done, "env")
    actor_critic.act = timed(actor_critic.act, "inference")
    if algo != "ppo":
        ReplayBuffer.store = timed(ReplayBuffer.store, "buffer")
        ReplayBuffer.sample = after(timed(ReplayBuffer.sample, "buffer"), update_begins)
        EpochLogger.store = before(update_ends, EpochLogger.store)
    with tempfile.TemporaryDirectory() as folder:
        algorithm(
            env_id,
            seed=seed,
            num_envs=num_envs,
            epochs=epochs + 1,
            threads=threads,
            logger_kwargs={"output_dir": f"{folder}/run", "exp_name": "speed", "quiet": True},
            **kwargs,
        )
        stopped = clock()
    extra = {"seconds": seconds}
    if algo != "ppo":
        envs = make_envs(env_id)
        sizes = envs.observation_space.shape[0], envs.action_space.shape[0]
        extra["products"] = offpolicy.time_products(algo, offpolicy.BATCH[setting], *sizes)
    return started[0], stopped, extra


def measure(job):
    """Train once. Returns the job with steps per second, wall and CPU time, and the other measurements."""
    if hasattr(os, "sched_setaffinity"):  # before torch and JAX count cores: XLA has no other limit
        os.sched_setaffinity(0, cores()[-job["threads"] :])
    (wall, cpu), (wall_end, cpu_end), extra = (measure_spinup if job["package"] == "spinup" else measure_peer)(**job)
    wall, cpu, steps = wall_end - wall, cpu_end - cpu, job["epochs"] * STEPS_PER_EPOCH[job["setting"]]
    return {**job, "steps": steps, "wall": wall, "cpu": cpu, "steps_per_second": steps / wall, **extra}


# ---- the parent


def cores():
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count()))


def child(*args, threads=1):
    """Run this interpreter with `args` in the checkout, on the CPU. Returns the last line of its output."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    env = {**os.environ, **limits, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}  # this checkout, not a copy
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}speed.py: a measurement failed: {' '.join(args)}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def make_jobs(args):
    """The arguments that the contestants share, for each comparison."""
    jobs = []
    for setting, kind in SETTINGS.items():
        epochs = math.ceil((args.steps or kind.steps) / STEPS_PER_EPOCH[setting])
        for algo in kind.algos if setting in args.settings else ():
            for env_id in (args.envs or kind.envs) if algo in args.algos else ():
                job = {"setting": setting, "algo": algo, "env_id": env_id, "epochs": epochs}
                jobs.append(job | {"threads": args.threads, "matmul_precision": args.matmul_precision})
    return jobs


def run_round(job, seed):
    """One measurement of each contestant, in turn."""
    results = []
    for package, num_envs in SETTINGS[job["setting"]].contestants:
        run = {**job, "package": package, "num_envs": num_envs, "seed": seed}
        results.append(json.loads(child(__file__, "--measure", json.dumps(run), threads=job["threads"])))
    return results


def measure_startup(args, repeats=10):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        child(*args)
        times.append(time.perf_counter() - start)
    return times


def spread(values, digits=0):
    """'median (min..max)'."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low}..{high})"


def ratio(ours, theirs):
    """The ratio of the medians, and the smallest and largest ratio within one round."""
    rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    middle = statistics.median(ours) / statistics.median(theirs)
    return f"{middle:.2f} ({min(rounds):.2f}..{max(rounds):.2f})"


def table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def runs_of(runs, job, who):
    """The runs of one job and one contestant, (package, environments), in the order of the rounds."""
    runs = [run for run in runs if all(run[key] == job[key] for key in job)]
    return [run for run in runs if (run["package"], run["num_envs"]) == who]


def speed_table(kind, jobs, runs):
    def name(who):
        return f"{who[0]}, {who[1]} env{'s' if who[1] > 1 else ''}"

    contestants, ratios = kind.contestants, kind.ratios
    header = ["setting", "algo", "env", *map(name, contestants), *(f"{name(a)} / {name(b)}" for a, b in ratios)]
    rows = []
    for job in jobs:
        speeds = {who: [run["steps_per_second"] for run in runs_of(runs, job, who)] for who in contestants}
        row = [job["setting"], job["algo"], job["env_id"], *(spread(speeds[who]) for who in contestants)]
        rows.append([*row, *(ratio(speeds[ours], speeds[theirs]) for ours, theirs in ratios)])
    return table(header, rows)


def share_table(kind, jobs, runs):
    """How the first contestant spends its time: medians over the rounds."""
    rows = []
    for job in jobs:
        ours = runs_of(runs, job, kind.contestants[0])
        parts = [statistics.median(run["seconds"][key] / run["wall"] for run in ours) for key in kind.shares]
        percent = [f"{100 * part:.0f}%" for part in (*parts, 1 - sum(parts))]
        rows.append([job["setting"], job["algo"], job["env_id"], *percent])
    return table(["setting", "algo", "env", *kind.shares.values(), kind.rest], rows)


def floor_table(jobs, runs):
    """The time of spinup's updates and of their matrix products."""
    rows = []
    for job in jobs:
        ours = runs_of(runs, job, OFF_POLICY.contestants[0])
        update = [1000 * run["seconds"]["update"] / run["steps"] for run in ours]  # one update after each step
        products = [1000 * run["products"] for run in ours]
        times = [spread(update, 3), spread(products, 3), ratio(update, products)]
        rows.append([job["setting"], job["algo"], job["env_id"], *times])
    return table(["setting", "algo", "env", "update, ms", "its matrix products, ms", "update / products"], rows)


def report(jobs, runs, threads, rounds):
    for kind in (ON_POLICY, OFF_POLICY):
        mine = [job for job in jobs if SETTINGS[job["setting"]] is kind]
        if mine:
            precision = f", matmul_precision {mine[0]['matmul_precision']}" if kind is OFF_POLICY else ""
            print(f"Steps per second, threads: {threads}{precision}, median (min..max) of {rounds}:\n")
            print(speed_table(kind, mine, runs), "\n")
            package, num_envs = kind.contestants[0]
            print(f"How {package} spends its time (environments: {num_envs}), medians:\n")
            print(share_table(kind, mine, runs), "\n")
            if kind is OFF_POLICY:
                print(floor_table(mine, runs), "\n")
    waited = sum(run["cpu"] < 0.9 * run["wall"] for run in runs)
    if waited:
        print(f"The machine was busy: {waited} of {len(runs)} runs had a core for less than 90% of their time.\n")


def machine():
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system(), **versions}


def write(record, path):
    if path:
        path.write_text(json.dumps(record, indent=1) + "\n")


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    settings, algos = (*SETTINGS, "startup"), (*ON_POLICY.algos, *OFF_POLICY.algos)
    parser.add_argument("--settings", nargs="+", choices=settings, default=settings, help="what to measure")
    parser.add_argument("--algos", nargs="+", choices=algos, default=algos, help="restrict the settings to these")
    parser.add_argument("--envs", nargs="+", metavar="ENV", help="environment ids")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every contestant runs once per round")
    parser.add_argument("--steps", type=int, help="timed steps per run, rounded up to whole epochs")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores of each contestant")
    precisions = ("highest", "high", "medium")
    parser.add_argument("--matmul_precision", choices=precisions, default="highest", help="of spinup's SAC, TD3, DDPG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all measurements to FILE")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)  # in a child process
    args = parser.parse_args(argv)
    if not 1 <= args.threads <= len(cores()):
        parser.error(f"--threads {args.threads}: this process may use {len(cores())} cores")
    return args


def main():
    args = parse()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    jobs = make_jobs(args)
    packages = {package for job in jobs for package, _ in SETTINGS[job["setting"]].contestants} - {"spinup"}
    missing = [package for package in sorted(packages) if not importlib.util.find_spec(MODULES[package])]
    if missing:
        sys.exit(f"speed.py: not installed: {', '.join(missing)}; run: pip install -c constraints.txt -e '.[peers]'")

    record = {"machine": machine(), "runs": [], "startup": {}}
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items()), "\n", flush=True)
    for job in jobs:
        for seed in range(args.repeats):
            record["runs"] += run_round(job, seed)
        write(record, args.json)
    report(jobs, record["runs"], args.threads, args.repeats)
    if "startup" in args.settings:
        for name, command in STARTUP.items():
            record["startup"][name] = measure_startup(command)
        rows = [[f"`{name}`", spread(times, 3)] for name, times in record["startup"].items()]
        print("Start-up, seconds, median (min..max) of 10:\n")
        print(table(["command", "wall time"], rows))
    write(record, args.json)


if __name__ == "__main__":
    main()

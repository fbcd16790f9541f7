"""Steps per second of spinup.ppo beside Stable-Baselines3's PPO, end to end, on one thread.

    python benchmarks/speed.py [--settings fullbatch sb3-defaults startup] [--envs ...] [--repeats 5] [--json FILE]

Each measurement is a process of its own. The contestants take turns, round by round, so that a slow minute of the
machine falls on all of them; seed = round. The clock runs from the end of the first update to the end of training:
imports, building the environments and the first update's warm-up are left out on every side. What is measured and
why it is the same work: benchmarks/README.md.
"""

import argparse
import importlib.metadata
import importlib.util
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

ROOT = Path(__file__).resolve().parent.parent
ENVS = ("CartPole-v1", "HalfCheetah-v5")
SETTINGS = ("fullbatch", "sb3-defaults")
STEPS_PER_UPDATE = {"fullbatch": 4000, "sb3-defaults": 2048}
CONTESTANTS = (("spinup", 8), ("sb3", 8), ("spinup", 1), ("sb3", 1))  # (package, environments), in running order
RATIOS = ((("spinup", 8), ("sb3", 1)), (("spinup", 8), ("sb3", 8)), (("spinup", 1), ("sb3", 1)))
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
STARTUP = {
    "python -m spinup.run --help": ["-m", "spinup.run", "--help"],
    "python -c 'import spinup'": ["-c", "import spinup"],
    "python -c pass (for comparison)": ["-c", "pass"],
}


# ---- the measurements: each runs in a child process


def sb3_kwargs(setting, num_envs):
    """The arguments of stable_baselines3.PPO that are not its defaults; "sb3-defaults" changes none with one env."""
    kwargs = {"n_steps": STEPS_PER_UPDATE[setting] // num_envs}
    if setting == "fullbatch":
        kwargs |= {"batch_size": STEPS_PER_UPDATE[setting], "n_epochs": 80, "gae_lambda": 0.97}
    return kwargs


def spinup_kwargs(setting):
    """The arguments of spinup.ppo that make its updates those of SB3 with `sb3_kwargs`."""
    kwargs = {
        "steps_per_epoch": STEPS_PER_UPDATE[setting],
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


def measure_sb3(setting, env_id, num_envs, seed, updates):
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    torch.set_num_threads(1)
    rollout_starts = []

    class Clock(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_start(self):
            rollout_starts.append((time.perf_counter(), time.process_time()))

    envs = make_vec_env(env_id, n_envs=num_envs, seed=seed)  # a DummyVecEnv, SB3's default
    model = PPO("MlpPolicy", envs, seed=seed, device="cpu", **sb3_kwargs(setting, num_envs))
    model.learn(STEPS_PER_UPDATE[setting] * (updates + 1), callback=Clock())
    return rollout_starts[1], {}  # the second rollout starts where the first update ended


def measure_spinup(setting, env_id, num_envs, seed, updates, shares=False):
    import spinup
    from spinup.envs import VecEnv
    from spinup.logger import EpochLogger
    from spinup.nets import ActorCritic

    epoch_ends, seconds = [], {"env": 0.0, "inference": 0.0}

    def timed(function, key):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            seconds[key] += time.perf_counter() - start
            return result

        return wrapper

    dump_tabular = EpochLogger.dump_tabular

    def dump_and_clock(self):
        dump_tabular(self)
        epoch_ends.append((time.perf_counter(), time.process_time()))
        if len(epoch_ends) == 1:
            seconds.update(dict.fromkeys(seconds, 0.0))

    EpochLogger.dump_tabular = dump_and_clock
    if shares:
        VecEnv.step = timed(VecEnv.step, "env")
        VecEnv.reset_done = timed(VecEnv.reset_done, "env")
        ActorCritic.act = timed(ActorCritic.act, "inference")
    with tempfile.TemporaryDirectory() as folder:
        spinup.ppo(
            env_id,
            seed=seed,
            num_envs=num_envs,
            epochs=updates + 1,
            logger_kwargs={"output_dir": f"{folder}/run", "exp_name": "speed", "quiet": True},
            **spinup_kwargs(setting),
        )
    return epoch_ends[0], seconds if shares else {}


def measure(package, **job):
    """Trains once and returns the steps per second, wall and CPU, and the seconds spent where shares are asked for."""
    function = {"spinup": measure_spinup, "sb3": measure_sb3}[package]
    (wall, cpu), seconds = function(**job)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    steps = job["updates"] * STEPS_PER_UPDATE[job["setting"]]
    return {"steps": steps, "wall": wall, "cpu": cpu, "steps_per_second": steps / wall, "seconds": seconds}


# ---- the parent


def child(*args):
    """Runs this interpreter on `args` in the checkout, one thread; the last line of its output."""
    env = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}  # this checkout, not an installed copy
    done = subprocess.run([sys.executable, *args], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr}speed.py: a measurement failed: {' '.join(args)}")
    return (done.stdout.strip().splitlines() or [""])[-1]


def run_round(setting, env_id, seed, updates):
    """One measurement of each contestant, in turn: {(package, num_envs): result}."""
    results = {}
    for package, num_envs in CONTESTANTS:
        job = {
            "package": package,
            "setting": setting,
            "env_id": env_id,
            "num_envs": num_envs,
            "seed": seed,
            "updates": updates,
        }
        results[package, num_envs] = json.loads(child(__file__, "--measure", json.dumps(job)))
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


def speed_row(setting, env_id, speeds):
    """speeds: {(package, num_envs): [steps per second of each round]}."""
    row = [setting, env_id, *(spread(speeds[who]) for who in CONTESTANTS)]
    return [*row, *(ratio(speeds[ours], speeds[theirs]) for ours, theirs in RATIOS)]


def speed_header():
    def name(who):
        return f"{who[0]}, {who[1]} env{'s' if who[1] > 1 else ''}"

    return ["setting", "env", *map(name, CONTESTANTS), *(f"{name(a)} / {name(b)}" for a, b in RATIOS)]


def share_row(setting, env_id, result):
    parts = [result["seconds"]["env"], result["seconds"]["inference"]]
    parts.append(result["wall"] - sum(parts))
    return [setting, env_id, *(f"{100 * part / result['wall']:.0f}%" for part in parts)]


def machine():
    versions = {name: importlib.metadata.version(name) for name in ("torch", "gymnasium", "numpy")}
    versions = {"python": platform.python_version(), **versions}
    if importlib.util.find_spec("stable_baselines3"):
        versions["stable-baselines3"] = importlib.metadata.version("stable-baselines3")
    return {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system(), **versions}


def parse(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    every = (*SETTINGS, "startup")
    parser.add_argument("--settings", nargs="+", choices=every, default=every, help="what to measure")
    parser.add_argument("--envs", nargs="+", default=ENVS, metavar="ENV", help="environment ids")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every contestant runs once per round")
    parser.add_argument("--steps", type=int, default=20_000, help="timed steps per run, rounded up to whole updates")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single measurement to FILE")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)  # the child's side
    return parser.parse_args(argv)


def main():
    args = parse()
    if args.measure:
        print(json.dumps(measure(**args.measure)))
        return
    settings = [setting for setting in SETTINGS if setting in args.settings]
    if settings and not importlib.util.find_spec("stable_baselines3"):
        sys.exit("speed.py: the peer is not installed; run: pip install -c constraints.txt -e '.[peers]'")

    record = {"machine": machine(), "runs": [], "shares": [], "startup": {}}
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items()), "\n", flush=True)
    speed_rows, share_rows = [], []
    for setting in settings:
        updates = math.ceil(args.steps / STEPS_PER_UPDATE[setting])
        for env_id in args.envs:
            speeds = {who: [] for who in CONTESTANTS}
            for seed in range(args.repeats):
                for who, result in run_round(setting, env_id, seed, updates).items():
                    speeds[who].append(result["steps_per_second"])
                    run = {"setting": setting, "env": env_id, "package": who[0], "num_envs": who[1], "seed": seed}
                    record["runs"].append(run | result)
            speed_rows.append(speed_row(setting, env_id, speeds))
            job = {"package": "spinup", "setting": setting, "env_id": env_id, "num_envs": 8, "seed": 0}
            job |= {"updates": updates, "shares": True}
            result = json.loads(child(__file__, "--measure", json.dumps(job)))
            share_rows.append(share_row(setting, env_id, result))
            record["shares"].append({"setting": setting, "env": env_id} | result)
    if settings:
        print(f"Steps per second, 1 thread, median (min..max) of {args.repeats}:\n")
        print(table(speed_header(), speed_rows), "\n")
        waited = sum(run["cpu"] < 0.9 * run["wall"] for run in record["runs"])
        if waited:
            print(f"{waited} of {len(record['runs'])} runs got the core for less than 90% of the time: busy machine.\n")
        print("Where spinup's time goes (8 envs, a run of its own):\n")
        print(table(["setting", "env", "env.step and reset", "inference", "update and rest"], share_rows), "\n")
    if "startup" in args.settings:
        for name, command in STARTUP.items():
            record["startup"][name] = measure_startup(command)
        rows = [[f"`{name}`", spread(times, 3)] for name, times in record["startup"].items()]
        print("Start-up, seconds, median (min..max) of 10:\n")
        print(table(["command", "wall time"], rows))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Continue a run of SAC, and test its policy after each gradient step: how much does one step change the return?

    python benchmarks/policy_steps.py data/learning/runs/sac_Hopper-v5_100000_s4/sac/sac_s4 --steps 300

Works on a copy, from the newest checkpoint. A test is one episode, the same for all steps. Prints a record, a line of
JSON with the returns; data/benchmarks/policy-steps.jsonl has those of the figure on SAC's page.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

from learning import commit_of

import spinup.algos.sac as module
from spinup.envs import play_test_episodes
from spinup.experiments.resume import resume
from spinup.runs.run import Run
from spinup.system.files import newest_checkpoint


def returns_after_steps(run: Path, steps: int, lr: float | None = None) -> tuple[int, list[float]]:
    """The environment steps of the checkpoint, and the return after each of so many steps of the policy.

    lr: the learning rate, which stays; None: the run's own
    """
    returns: list[float] = []
    runs: list[Run] = []
    captured, begin = module.captured, Run.begin

    def begin_and_remember(self, *args, **parts):
        o = begin(self, *args, **parts)
        runs.append(self)
        return o

    def tested(update):
        def update_and_test(batch, skip_policy):
            metrics = update(batch, skip_policy)
            if not skip_policy and len(returns) < steps:
                returns.append(float(play_test_episodes(runs[0].policy, runs[0].envs, 1)["TestEpRet"][0]))
            return metrics

        return update_and_test

    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(run, Path(folder) / run.name)
        start = int(newest_checkpoint(copy).name)
        config = json.loads((copy / "config.json").read_text())
        module.captured = lambda flag: lambda update: tested(captured(flag)(update))
        Run.begin = begin_and_remember
        try:
            with contextlib.redirect_stdout(sys.stderr):
                resume(copy, start // config["steps_per_epoch"] + 1, lr=lr or config["lr"], anneal_lr=0.0)
        finally:
            module.captured, Run.begin = captured, begin
    return start, returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of a run of SAC, with a checkpoint")
    parser.add_argument("--steps", type=int, default=300, help="steps of the policy to test")
    parser.add_argument("--lr", type=float, help="another learning rate than the run's")
    args = parser.parse_args()
    if not newest_checkpoint(args.run):
        parser.error(f"{args.run} has no checkpoint")
    start, returns = returns_after_steps(args.run, args.steps, args.lr)
    config = json.loads((args.run / "config.json").read_text())
    job = {
        "env": config["env_fn"],
        "seed": config["seed"],
        "start": start,
        "lr": args.lr or config["lr"],
        "commit": commit_of(args.run),
    }
    print(json.dumps(job | {"returns": [round(value, 1) for value in returns]}))


if __name__ == "__main__":
    sys.exit(main())

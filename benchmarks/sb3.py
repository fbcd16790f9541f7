"""Train an algorithm of Stable-Baselines3 by its own defaults; its tests and its evaluation are those of our runs.

    python benchmarks/sb3.py sac --env Hopper-v5 --seed 0 --steps 100000 --dir data/sb3

Writes progress.txt, with the columns that `learning.py` reads, and evaluation.json. `learning.py --algos sb3-sac` calls
it once for each seed. A run can't be resumed.
"""

import argparse
import csv
import json
import time
from pathlib import Path

from learning import EVAL_EPISODES, EVAL_SEED, PEERS, evaluation

STEPS_PER_EPOCH = 4000  # SAC's, TD3's and DDPG's here: tests follow each
TEST_EPISODES = 10
COLUMNS = ("Epoch", "AverageEpRet", "EpLen", "AverageTestEpRet", "TotalEnvInteracts", "Time")


class Policy:
    """What `spinup.evaluate` needs of a model of Stable-Baselines3."""

    def __init__(self, model):
        self.model = model

    def act(self, o, deterministic):
        return self.model.predict(o, deterministic=deterministic)[0]


def mean(values):
    return sum(values) / len(values) if values else float("nan")


def train(algo, env, seed, steps, folder):
    import stable_baselines3
    import torch
    from stable_baselines3.common.callbacks import BaseCallback

    import spinup

    torch.set_num_threads(1)

    class Epochs(BaseCallback):
        """Writes a row after each epoch."""

        def _on_training_start(self):
            self.episodes, self.rows, self.start = [], [], time.time()

        def _on_step(self):
            self.episodes += [info["episode"] for info in self.locals["infos"] if "episode" in info]
            if self.num_timesteps % STEPS_PER_EPOCH == 0:
                self.write_row()
            return True

        def write_row(self):
            tests = spinup.evaluate(Policy(self.model), env, TEST_EPISODES, seed=2 * EVAL_SEED + seed)["EpRet"]
            returns, lengths = ([episode[key] for episode in self.episodes] for key in "rl")
            t = self.num_timesteps
            row = (t // STEPS_PER_EPOCH, mean(returns), mean(lengths), mean(tests), t, time.time() - self.start)
            self.rows.append(row)
            self.episodes = []
            with open(folder / "progress.txt", "w", newline="") as file:
                csv.writer(file, delimiter="\t").writerows([COLUMNS, *self.rows])

    folder.mkdir(parents=True, exist_ok=True)
    model = getattr(stable_baselines3, algo.upper())("MlpPolicy", env, seed=seed, device="cpu")
    model.learn(steps, callback=Epochs())
    result = evaluation(spinup.evaluate(Policy(model), env, EVAL_EPISODES, seed=EVAL_SEED)["EpRet"])
    (folder / "evaluation.json").write_text(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("algo", choices=[peer.removeprefix("sb3-") for peer in PEERS])
    parser.add_argument("--env", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--dir", type=Path, required=True, help="where progress.txt and evaluation.json go")
    args = parser.parse_args()
    train(args.algo, args.env, args.seed, args.steps, args.dir)


if __name__ == "__main__":
    main()

"""Exercise 3.3: prints the answers for the runs in data/ex33, or in the folder that is named after it."""

import json
from pathlib import Path

from spinup.analysis import results, stats
from spinup.exercises.experiments import better, print_answers, scores_by_value, updates_after


def answers(folder: str = "data/ex33") -> str:
    """The answers file for the runs below `folder`."""
    few, many = scores_by_value(folder, "replay_ratio", [0.25, 1.0]).values()
    df = results.load([folder])
    config = {run: json.loads((Path(run) / "config.json").read_text()) for run in df["run"].unique()}
    seconds = df.groupby("run")["Time"].max()
    time = seconds.groupby(lambda run: config[run]["replay_ratio"]).mean()
    one = next(iter(config.values()))
    steps = one["epochs"] * one["steps_per_epoch"] - updates_after(one)
    return (
        f'folder = "{folder}"\niqm_025 = {stats.iqm(few):.2f}\niqm_1 = {stats.iqm(many):.2f}\n'
        f'better = "{better(("0.25", "1.0"), few, many)}"\n'
        f"times_longer = {time[1.0] / time[0.25]:.2f}\ngradient_steps = {round(steps, -2)}\n"
    )


if __name__ == "__main__":
    print_answers(answers)

"""Exercise 3.3: prints the answers for the runs in a folder, as in: python exercise_3_3_solution.py data/ex33."""

import json
import sys
from pathlib import Path

from spinup import results


def answers(folder: str) -> str:
    """The answers file for the runs below `folder`."""
    df = results.load([folder])
    config = {run: json.loads((Path(run) / "config.json").read_text()) for run in df["run"].unique()}
    df["group"] = df["run"].map(lambda run: str(float(config[run]["replay_ratio"])))  # a group for each value
    table = results.table(df).set_index("group")
    few, many = table.loc["0.25"], table.loc["1.0"]
    overlap = max(few.final_low, many.final_low) <= min(few.final_high, many.final_high)
    better = "undecided" if overlap else "1.0" if many.final_iqm > few.final_iqm else "0.25"
    time = df.groupby(["group", "run"])["Time"].max().groupby("group").mean()
    one = next(iter(config.values()))
    steps = one["epochs"] * one["steps_per_epoch"] - one["update_after"]
    return (
        f'folder = "{folder}"\niqm_025 = {few.final_iqm:.2f}\niqm_1 = {many.final_iqm:.2f}\nbetter = "{better}"\n'
        f"times_longer = {time['1.0'] / time['0.25']:.2f}\ngradient_steps = {round(steps, -2)}\n"
    )


if __name__ == "__main__":
    print(answers(sys.argv[1]))

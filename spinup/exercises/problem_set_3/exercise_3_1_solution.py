"""Exercise 3.1: prints the answers for the runs in a folder, as in: python exercise_3_1_solution.py data/ex31."""

import json
import sys
from pathlib import Path

from spinup import results


def answers(folder: str) -> str:
    """The answers file for the runs below `folder`."""
    df = results.load([folder])
    config = {run: json.loads((Path(run) / "config.json").read_text()) for run in df["run"].unique()}
    df["group"] = df["run"].map(lambda run: str(config[run]["train_v_iters"]))  # a group for each value
    table = results.table(df).set_index("group")
    none, many = table.loc["0"], table.loc["80"]
    overlap = max(none.final_low, many.final_low) <= min(none.final_high, many.final_high)
    better = "undecided" if overlap else "80" if many.final_iqm > none.final_iqm else "0"
    one = next(iter(config.values()))
    return (
        f'folder = "{folder}"\niqm_0 = {none.final_iqm:.2f}\niqm_80 = {many.final_iqm:.2f}\nbetter = "{better}"\n'
        f"horizon = {1 / (1 - one['gamma'] * one['lam']):.1f}\n"
    )


if __name__ == "__main__":
    print(answers(sys.argv[1]))

"""Exercise 3.2: prints the answers for the runs in a folder, as in: python exercise_3_2_solution.py data/ex32."""

import json
import sys
from pathlib import Path

from spinup import results


def answers(folder: str) -> str:
    """The answers file for the runs below `folder`."""
    df = results.load([folder])
    clip = {run: json.loads((Path(run) / "config.json").read_text())["clip_ratio"] for run in df["run"].unique()}
    df["group"] = df["run"].map(lambda run: f"{clip[run]:g}")  # a group for each value
    table = results.table(df).set_index("group")

    def better(a: str, b: str) -> str:
        x, y = table.loc[f"{float(a):g}"], table.loc[f"{float(b):g}"]
        if max(x.final_low, y.final_low) <= min(x.final_high, y.final_high):
            return "undecided"
        return a if x.final_iqm > y.final_iqm else b

    names = {"0.01": "0.01", "0.2": "0.2", "2": "2.0"}
    means = df.groupby("group")[["KL", "ClipFrac"]].mean()
    lines = [f'folder = "{folder}"']
    lines += [
        f"iqm_{key} = {table.loc[group].final_iqm:.2f}" for key, group in zip(("001", "02", "2"), names, strict=True)
    ]
    lines += [f'largest_kl = "{names[means.KL.idxmax()]}"', f'most_clipped = "{names[means.ClipFrac.idxmax()]}"']
    lines += [f'better_001_or_02 = "{better("0.01", "0.2")}"', f'better_02_or_2 = "{better("0.2", "2.0")}"']
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(answers(sys.argv[1]))

"""Exercise 3.2: prints the answers for the runs in data/ex32, or in the folder that is named after it."""

import json
from pathlib import Path

from spinup.analysis import results, stats
from spinup.exercises.experiments import better, print_answers, scores_by_value


def answers(folder: str = "data/ex32") -> str:
    """The answers file for the runs below `folder`."""
    names = {0.01: "0.01", 0.2: "0.2", 2.0: "2.0"}
    small, usual, large = scores_by_value(folder, "clip_ratio", names).values()
    df = results.load([folder])
    clip = {run: json.loads((Path(run) / "config.json").read_text())["clip_ratio"] for run in df["run"].unique()}
    means = df.groupby(df["run"].map(clip))[["KL", "ClipFrac"]].mean()
    return (
        f'folder = "{folder}"\n'
        f"iqm_001 = {stats.iqm(small):.2f}\niqm_02 = {stats.iqm(usual):.2f}\niqm_2 = {stats.iqm(large):.2f}\n"
        f'largest_kl = "{names[means.KL.idxmax()]}"\nmost_clipped = "{names[means.ClipFrac.idxmax()]}"\n'
        f'better_001_or_02 = "{better(("0.01", "0.2"), small, usual)}"\n'
        f'better_02_or_2 = "{better(("0.2", "2.0"), usual, large)}"\n'
    )


if __name__ == "__main__":
    print_answers(answers)

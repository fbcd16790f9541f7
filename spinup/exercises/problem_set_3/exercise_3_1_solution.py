"""Exercise 3.1: prints the answers for the runs in data/ex31, or in the folder that is named after it."""

import json
from pathlib import Path

from spinup.analysis import results, stats
from spinup.exercises.experiments import better, print_answers, scores_by_value


def answers(folder: str = "data/ex31") -> str:
    """The answers file for the runs below `folder`."""
    scores = scores_by_value(folder, "train_v_iters", [0, 80])
    run = results.load([folder])["run"].iloc[0]
    config = json.loads((Path(run) / "config.json").read_text(encoding="utf-8"))
    return (
        f'folder = "{folder}"\niqm_0 = {stats.iqm(scores[0]):.2f}\niqm_80 = {stats.iqm(scores[80]):.2f}\n'
        f'better = "{better(("0", "80"), scores[0], scores[80])}"\n'
        f"horizon = {1 / (1 - config['gamma'] * config['lam']):.1f}\n"
    )


if __name__ == "__main__":
    print_answers(answers)

"""Exercise 3.4: prints the answers for the runs in data/ex34, or in the folder that is named after it."""

import itertools

import numpy as np

from spinup.analysis import results, stats
from spinup.errors import UserError
from spinup.exercises.experiments import print_answers


def answers(folder: str = "data/ex34") -> str:
    """The answers file for the runs below `folder`."""
    df = results.load([folder])
    row = results.table(df).iloc[0]
    scores = results.scores(df).merge(df[["run", "seed"]].drop_duplicates()).sort_values("seed")["final"].to_numpy()
    if len(scores) != 10:
        raise UserError(f"{folder} has {len(scores)} runs; the exercise asks for ten")
    low, high = stats.iqm_interval(scores[:3, None], np.zeros(3))
    apart = []
    for first in itertools.combinations(range(10), 3):
        for second in itertools.combinations(sorted(set(range(10)) - set(first)), 3):
            a, b = scores[list(first)].mean(), scores[list(second)].mean()
            apart.append(max(a, b) > 1.1 * min(a, b))
    share = np.mean(apart)
    return (
        f'folder = "{folder}"\niqm = {row.final_iqm:.2f}\nlow = {row.final_low:.2f}\nhigh = {row.final_high:.2f}\n'
        f"width_3 = {high[0] - low[0]:.2f}\nshare = {share:.3f}\nthree_are_enough = {str(share <= 0.05).lower()}\n"
    )


if __name__ == "__main__":
    print_answers(answers)

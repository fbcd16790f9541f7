"""The checker of exercise 3.4."""

import itertools
from pathlib import Path

from spinup.exercises.experiments import check_number, finals, interval, read_answers, read_runs
from spinup.exercises.judge import Wrong


def check(path: Path) -> str:
    """Ten runs of one setting, their interval, that of three of them, and how often three against three mislead."""
    answers = read_answers(path, ["iqm", "low", "high", "width_3", "share", "three_are_enough"])
    (runs,) = read_runs(answers["folder"], "CartPole-v1", None, [None], 10, ["ClipFrac"]).values()
    scores = finals(runs)
    if len(scores) != 10:
        raise Wrong(f"{answers['folder']} has {len(scores)} runs; the exercise asks for ten")
    iqm, low, high = interval(scores)
    for name, right in (("iqm", iqm), ("low", low), ("high", high)):
        check_number(name, answers[name], right, "the final IQM [95%] of all ten in the table")
    _, low3, high3 = interval(scores[:3])
    check_number("width_3", answers["width_3"], high3 - low3, "high - low of the first three seeds", tol=0.03)
    share = chance_of_difference(scores)
    what = "the share of all pairs of disjoint groups of three whose means differ by more than 10% of the smaller"
    check_number("share", answers["share"], share, what, tol=0.05, floor=0.02)
    enough = answers["three_are_enough"]
    if not isinstance(enough, bool):
        raise Wrong(f"three_are_enough is {enough!r}; it must be true or false")
    if enough != (share <= 0.05):
        raise Wrong(f"three_are_enough is {str(enough).lower()}, which does not follow from share: compare it with 5%")
    return f"one algorithm seems to beat itself by 10% in {share:.0%} of the comparisons of three seeds with three"


def chance_of_difference(scores) -> float:
    """How often the better mean of two disjoint groups of three scores is more than 10% above the other."""
    n = differing = 0
    for six in itertools.combinations(scores, 6):
        for rest in itertools.combinations(range(1, 6), 2):  # the first is in group a, so each pair comes once
            a = [six[0], *(six[i] for i in rest)]
            b = [six[i] for i in range(1, 6) if i not in rest]
            low, high = sorted((sum(a), sum(b)))
            n, differing = n + 1, differing + (high > 1.1 * low)
    return differing / n

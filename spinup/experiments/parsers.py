"""The flags of resume and test_policy. In a module of their own, so that --help doesn't import torch."""

import argparse
import re
from collections.abc import Sequence

from spinup.algorithm import files
from spinup.experiments import source
from spinup.experiments.cli import Parser


def resume(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The parsed flags, and the names of those that are arguments of some algorithm."""
    parser = Parser("resume", description="Continue an unfinished run.", allow_abbrev=False)
    parser.add_argument("path", help="folder of a run, such as data/cmd_ppo/cmd_ppo_s0")
    parser.add_argument("--epochs", type=int, help="total number of epochs; default: the run's own")
    parser.add_argument("--env", help="train in this environment; module:Env-v0 imports module")
    parser.add_argument("--wrapper", action="append", help="module:Name, a wrapper; give all of the environment's")
    arguments = [argument for algo, path in files().items() for argument in source.arguments_of(path, algo)]
    names = sorted({argument.name for argument in arguments} - {"epochs", "env_fn", "wrappers"})
    for name in names:  # including arguments that can't be changed: `resume` explains that
        parser.add_argument(f"--{name}", nargs="?", const="True", help=argparse.SUPPRESS)
    changeable = {argument.name for argument in arguments if argument.changeable}
    flags = [f"--{name}" for name in names if name in changeable]
    parser.epilog = "Flags that change an argument: " + ", ".join(flags)
    return parser.parse_args(argv), names


def test_policy(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("test_policy", description="Play episodes and print their returns.", allow_abbrev=False)
    parser.add_argument("path", help="folder of a run, such as data/cmd_ppo/cmd_ppo_s0")
    parser.add_argument("-l", "--len", type=int, default=0, help="maximum episode length; 0: the run's max_ep_len")
    parser.add_argument("-n", "--episodes", type=int, help="number of episodes (100; with --video 1)")
    parser.add_argument("-nr", "--norender", action="store_true", help="play all episodes at once, without a window")
    parser.add_argument("-i", "--itr", default="-1", help="play model{ITR}.pt; best: model_best.pt; -1: the last saved")
    parser.add_argument("-d", "--deterministic", action="store_true", help="take the policy's mode instead of sampling")
    parser.add_argument("-s", "--seed", type=int, default=0, help="of environments and sampled actions (%(default)s)")
    parser.add_argument("--video", metavar="FILE", help="record a .gif or .mp4 instead of opening a window")
    parser.add_argument("--env", help="play in this environment; module:Env-v0 imports module")
    parser.add_argument("--wrapper", action="append", help="module:Name, a wrapper; give all of the environment's")
    parser.add_argument("--num_envs", type=int, help="environments at a time, without a window (as in the run's tests)")
    args = parser.parse_args(argv)
    if args.episodes is None:
        args.episodes = 1 if args.video else 100
    if args.itr != "best":
        args.itr = (
            int(args.itr)
            if re.fullmatch(r"-1|\d{1,9}", args.itr)
            else parser.error(f"itr is '{args.itr}'; it must be a number from 0, best, or -1 for the last one saved")
        )
    counts = (args.episodes, 1 if args.num_envs is None else args.num_envs)
    if min(counts) < 1 or args.len < 0 or not 0 <= args.seed < 2**31:
        parser.error("episodes and num_envs must be at least 1, len at least 0, and seed in 0 to 2147483647")
    args.itr = None if args.itr == -1 else args.itr
    return args

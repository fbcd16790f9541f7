"""The flags of `resume` and `test_policy`, apart from what they do, so that --help answers without importing torch."""

import argparse

from spinup.algorithm import files
from spinup.experiments import source
from spinup.experiments.cli import Parser


def changeable_arguments() -> list[str]:
    """The arguments that `resume` may change, of any algorithm, without epochs, which has a flag of its own."""
    return sorted({name for algo, path in files().items() for name in source.changeable(path, algo)} - {"epochs"})


def resume_parser() -> Parser:
    parser = Parser("resume", description="Go on with a run that was ended.", allow_abbrev=False)
    parser.add_argument("path", help="folder of a run, as data/cmd_ppo/cmd_ppo_s0")
    parser.add_argument("--epochs", type=int, help="train for so many in all; default: as the run was to")
    parser.add_argument("--env", help="train in this environment; module:Env-v0 imports module")
    parser.add_argument("--wrapper", action="append", help="module:Name, a wrapper of the environment; all of them")
    changeable = changeable_arguments()
    for name in changeable:
        parser.add_argument(f"--{name}", nargs="?", const="True", help=argparse.SUPPRESS)
    parser.epilog = "Flags with a new value for an argument: " + ", ".join(f"--{name}" for name in changeable)
    return parser


def play_parser() -> Parser:
    parser = Parser("test_policy", description="Play episodes and print their returns.", allow_abbrev=False)
    parser.add_argument("path", help="folder of a run, as data/cmd_ppo/cmd_ppo_s0")
    parser.add_argument("-l", "--len", type=int, default=0, help="longest episode; 0: the run's max_ep_len")
    parser.add_argument("-n", "--episodes", type=int, help="how many (100; with --video 1)")
    parser.add_argument("-nr", "--norender", action="store_true", help="open no window; all episodes at once")
    parser.add_argument("-i", "--itr", default="-1", help="play model{ITR}.pt; best: model_best.pt; -1: the last saved")
    parser.add_argument("-d", "--deterministic", action="store_true", help="take the mode of the policy")
    parser.add_argument("-s", "--seed", type=int, default=0, help="of environments and sampled actions (%(default)s)")
    parser.add_argument("--video", metavar="FILE", help="record a .gif or .mp4 instead of opening a window")
    parser.add_argument("--env", help="play in this environment; module:Env-v0 imports module")
    parser.add_argument("--wrapper", action="append", help="module:Name, a wrapper of the environment; all of them")
    parser.add_argument("--num_envs", type=int, help="environments at a time, without a window (as the run's tests)")
    return parser

"""Create, seed and vectorize environments, and convert their spaces to the few kinds of arrays that networks take.

`make_env` makes one (constructors.py, wrapping.py, single.py), `make_envs` N side by side, a `VecEnv` (vector.py), and
`evaluate` plays episodes with a policy (playing.py).
"""

from spinup.envs.constructors import check_env_id, close_or_warn, env_name, modules_with_environments
from spinup.envs.playing import (
    DEFAULT_LENGTH,
    Player,
    bind,
    check_fits,
    check_numbers,
    evaluate,
    has_memory,
    longest_episode,
    play_test_episodes,
)
from spinup.envs.single import Flattened, make_env
from spinup.envs.spaces import check_actions
from spinup.envs.vector import VecEnv, as_names, evaluation_columns, make_envs
from spinup.envs.wrapping import as_wrappers, find_wrapper, saved_wrappers, wrapper_flags

__all__ = [
    "DEFAULT_LENGTH",
    "Flattened",
    "Player",
    "VecEnv",
    "as_names",
    "as_wrappers",
    "bind",
    "check_actions",
    "check_env_id",
    "check_fits",
    "check_numbers",
    "close_or_warn",
    "env_name",
    "evaluate",
    "evaluation_columns",
    "find_wrapper",
    "has_memory",
    "longest_episode",
    "make_env",
    "make_envs",
    "modules_with_environments",
    "play_test_episodes",
    "saved_wrappers",
    "wrapper_flags",
]

"""The algorithms' arguments: type, range and help line of each, in one place.

A signature uses a type from here, or spells out its own in the same form:

    gamma: arg.Gamma = 0.99
    clip_ratio: Annotated[float, Range(0), "how far the probability ratio may move; 0.1 to 0.3", CHANGEABLE] = 0.2

The checks, `--help`, help(spinup.ppo), the flags of `resume` and the tables in the docs are all generated from these.
"""

import enum
import functools
import inspect
import math
import textwrap
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from spinup.errors import UserError

# Upper limits of counts: far above any practical value, and low enough that a run, an update or an evaluation ends and
# that sums and products of counts fit in 64 bits.
COUNT, PASSES = 10**12, 10**6
F = TypeVar("F", bound=Callable)


class Mark(enum.Enum):
    """A property of an argument."""

    CHANGEABLE = "resume may change it: no shape, state or step count in a checkpoint depends on it"


CHANGEABLE = Mark.CHANGEABLE


class Range(NamedTuple):
    """The numbers from low to high, inclusive."""

    low: float
    high: float = COUNT


# ---- the environments

EnvFn = Annotated[
    str | Callable[[], Any], 'environment id, such as "CartPole-v1" or "module:Env-v0", or a function that makes one'
]
EnvKwargs = Annotated[dict | None, "arguments for the environment's constructor"]
NumEnvs = Annotated[int, Range(1, 10_000), "environments stepped in parallel, on each MPI process"]
MaxEpLen = Annotated[int, Range(1), "episodes are truncated after this many steps", CHANGEABLE]
Wrappers = Annotated[
    str | Sequence | None,
    'wrappers of each environment, innermost first, also in evaluations: "module:Name" or "module:Name(1, name=2)"; '
    "in Python also functions of an environment",
]
Vectorization = Annotated[
    Literal["sync", "async"],
    "'sync' steps the environments one after another, also in evaluations; 'async' runs each in its own process, for "
    "slow simulators and those that can exist only once per process",
    CHANGEABLE,
]
Reseed = Annotated[
    bool,
    "seed every episode; False: only the first reset of each environment, for those that build their world from the "
    "seed; resume then starts new episodes and is not exact",
]
LogInfo = Annotated[
    str | Sequence[str] | None,
    "names of numbers in the environments' infos, such as is_success; each becomes a column with the mean over "
    "episodes of the last value",
]

# ---- the networks

ActorCriticClass = Annotated[Callable, "class of the networks; spinup.nets documents the protocol"]
AcKwargs = Annotated[
    dict | None,
    "arguments of actor_critic: hidden_sizes, activation, log_std_init, log_std_min, log_std_max, squash, orthogonal, "
    "layer_norm, batch_norm, actor_batch_norm, critic_width, linear, memory_size, cell",
]
HiddenSizes = Annotated[int | Sequence[int], "units of each hidden layer"]
Activation = Annotated[str | type, "a name from torch.nn, or a class"]
Linear = Annotated[
    Callable | dict,
    "function that makes the linear layers, linear(in_features, out_features); a dict: block-sparse ones",
]
NormalizeObs = Annotated[
    bool,
    "center and scale observations (except images) by running statistics, saved with the policy, and clip them to -10 "
    "to 10; the statistics are updated after each epoch's update, or by off-policy algorithms in each step",
]

LogStdInit = Annotated[
    float, Range(-COUNT), "log of the Gaussian's initial standard deviation, in half-ranges of the actions"
]
LogStdMin = Annotated[float | None, Range(-COUNT), "lower bound of the log of the standard deviation; None: unbounded"]
LogStdMax = Annotated[float | None, Range(-COUNT), "upper bound of the log of the standard deviation; None: unbounded"]
Orthogonal = Annotated[
    bool, "orthogonal initial weights, with the policy's last layer near zero; False: PyTorch's default"
]
Squash = Annotated[bool, "squash the Gaussian by tanh to keep actions within bounds; needs a bounded Box"]

# ---- the run

Seed = Annotated[
    int,
    Range(0, 2**32 - 1),
    "seed of networks, environments and sampling; the same seed gives the same run on the same machine",
]
StepsPerEpoch = Annotated[
    int,
    Range(1),
    "environment steps per epoch (row of progress.txt), over all environments and processes; on-policy algorithms "
    "update once per epoch, and round it up to a multiple of environments times processes",
]
Epochs = Annotated[int, Range(1), "epochs (rows of progress.txt) to train for", CHANGEABLE]
Device = Annotated[str, "'cpu', 'cuda', 'cuda:1', 'mps'", CHANGEABLE]
Threads = Annotated[int, Range(1, 256), "CPU threads of torch; 1 is fastest for small networks", CHANGEABLE]
MatmulPrecision = Annotated[
    Literal["highest", "high", "medium"],
    "precision of float32 matrix products: 'highest', 'high' (TF32) or 'medium' (bfloat16), if the hardware supports "
    "it; 'medium' makes wide hidden layers faster on a CPU",
    CHANGEABLE,
]
Capture = Annotated[
    bool,
    "replay the tensor operations of updates without running their Python, on a CPU or as CUDA graphs "
    "(spinup.compute.capture): the same numbers, faster; PPO's policy update only without a target_kl. False: always "
    "plain Python",
    CHANGEABLE,
]
InitFrom = Annotated[
    str | None, "folder of an earlier run, or a .pt file in it, whose networks and normalizers this run starts with"
]
StopAt = Annotated[
    float | None,
    Range(-COUNT),
    "stop after an epoch with at least this mean return (of test episodes if there are any); None: never",
    CHANGEABLE,
]
Patience = Annotated[
    int | None,
    Range(1),
    "stop after this many mean returns in a row without a new best one, one for each epoch or, off-policy, each "
    "evaluation; None: never",
    CHANGEABLE,
]
OnEpoch = Annotated[
    Callable | None,
    "function called after each epoch with its row of progress.txt as a dict; if it returns True, the run stops",
]
EvalFreq = Annotated[
    int, Range(0), "epochs between evaluations (columns TestEpRet, TestEpLen); 0: no evaluations", CHANGEABLE
]
NumTestEpisodes = Annotated[
    int,
    Range(1, 10_000),
    "episodes per evaluation, with the policy's mode and seeds from 1,000,000 on",
    CHANGEABLE,
]
NumTestEnvs = Annotated[
    int | None,
    Range(1, 10_000),
    "environments that play them at the same time; 1: one after another in one environment; None: one per episode, or "
    "num_envs with vectorization 'async'",
    CHANGEABLE,
]
SaveFreq = Annotated[int, Range(1), "epochs between saves of the policy; the last update is always saved", CHANGEABLE]
CheckpointFreq = Annotated[
    int,
    Range(0),
    "epochs between checkpoints, from which an interrupted run resumes exactly; 0: only when interrupted",
    CHANGEABLE,
]
LoggerKwargs = Annotated[dict | None, "arguments of EpochLogger, such as output_dir, exp_name, quiet, sinks"]

# ---- learning

Gamma = Annotated[float, Range(0, 1), "discount factor", CHANGEABLE]
Lam = Annotated[float, Range(0, 1), "lambda of the generalized advantage estimates", CHANGEABLE]
PiLr = Annotated[float, Range(0), "learning rate of the policy (Adam)", CHANGEABLE]
VfLr = Annotated[float, Range(0), "learning rate of the value function (Adam)", CHANGEABLE]
QLr = Annotated[float, Range(0), "learning rate of the action-value functions (Adam)", CHANGEABLE]
TrainVIters = Annotated[int, Range(0, PASSES), "passes over an epoch's data for the value function", CHANGEABLE]
MaxGradNorm = Annotated[float | None, Range(0), "gradients are clipped to this 2-norm; None: no clipping", CHANGEABLE]
AnnealLr = Annotated[bool, "lower the learning rates linearly to 0 over the run", CHANGEABLE]
NormalizeRew = Annotated[
    bool, "scale rewards by the running standard deviation of the discounted return, saved with the policy"
]
NormalizeAdv = Annotated[bool, "shift and scale an epoch's advantages to mean 0 and standard deviation 1", CHANGEABLE]
ValueTarget = Annotated[
    Literal["gae", "rtg"],
    "what the value function is fitted to: 'gae' (lambda-returns) or 'rtg' (discounted rewards-to-go)",
    CHANGEABLE,
]

# ---- off-policy learning

ReplaySize = Annotated[int, Range(1), "capacity of the replay buffer, in transitions, over all processes"]
BatchSize = Annotated[int, Range(1), "transitions per gradient step, over all processes", CHANGEABLE]
NStep = Annotated[
    int,
    Range(1),
    "rewards summed in a target before it bootstraps; larger values learn faster from rare rewards, but are biased, "
    "since older policies earned the later rewards",
]
Hindsight = Annotated[
    float,
    Range(0, 1),
    "hindsight replay: probability that a sampled transition gets a goal that its episode achieved later, 0.8 in the "
    "paper; for environments with goals, and n_step 1",
]
Polyak = Annotated[
    float,
    Range(0, 1),
    "decay of the target networks' running average: target = polyak * target + (1 - polyak) * learned",
    CHANGEABLE,
]
TargetPolicy = Annotated[
    bool,
    "test, save and return the target policy, a running average of the learned one that varies less",
]
ActNoise = Annotated[
    float,
    Range(0),
    "standard deviation of the noise on the policy's actions, in half-ranges of the actions",
    CHANGEABLE,
]
NoiseCorr = Annotated[
    float,
    Range(0, 0.999),  # with 1 the noise would keep its initial value, 0
    "correlation of that noise between consecutive steps, 0 to 0.999; near 1 it keeps pushing in one direction, as "
    "tasks with inertia and rare rewards need",
]
StartSteps = Annotated[int, Range(0), "environment steps with uniformly random actions before the policy acts"]
UpdateAfter = Annotated[int, Range(0), "environment steps before the first gradient steps"]
UpdateAfterOrStart = Annotated[
    int | None, Range(0), "environment steps before the first gradient steps; None: start_steps, at least batch_size"
]
UpdateEvery = Annotated[int, Range(1), "environment steps between blocks of gradient steps"]
ReplayRatio = Annotated[float, Range(0, PASSES), "gradient steps per environment step"]


# ---- reading and checking them


class Argument(NamedTuple):
    """One argument of a function, as its signature describes it."""

    name: str
    annotation: Any  # unwrapped from Annotated: float, int | None, Literal["a", "b"]
    default: Any
    help: str = ""
    range: Range | None = None
    changeable: bool = False
    shared: bool = False  # its type is one of this module's, so other algorithms have it too

    @property
    def types(self) -> tuple:
        """The members of a union, or the single type."""
        union = typing.get_origin(self.annotation) in (typing.Union, types.UnionType)
        return typing.get_args(self.annotation) if union else (self.annotation,)

    @property
    def choices(self) -> tuple:
        """The values of a Literal."""
        return tuple(
            value for part in self.types if typing.get_origin(part) is Literal for value in typing.get_args(part)
        )

    def check(self, value: Any) -> None:
        """Raise UserError if `value` is invalid."""
        if (value is None and types.NoneType in self.types) or (isinstance(value, str) and value in self.choices):
            return
        if self.range:
            self.check_number(value, *self.range)
        elif self.choices:
            raise UserError(f"{self.name} is {value!r:.80}; it must be one of {', '.join(self.choices)}")
        elif self.annotation is bool and type(value).__name__ not in ("bool", "bool_"):
            raise UserError(f"{self.name} is {value!r:.80}; it must be True or False")
        elif dict in self.types and Callable not in self.types and not isinstance(value, Mapping):
            raise UserError(f"{self.name} is {value!r:.80}; it must be a dict")

    def check_number(self, value: Any, low: float, high: float) -> None:
        kind: Any
        kind, what = (Real, "a number") if float in self.types else (Integral, "a whole number")
        if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high or math.isinf(value):
            bounds = "" if low < 0 else f" at least {low}"
            if high not in (COUNT, PASSES) or (isinstance(value, int | float) and not -COUNT <= value <= high):
                bounds = f" in {low} to {high}"  # otherwise the limits are too remote to be helpful
            other = f" or '{self.choices[0]}'" if self.choices else " or None" if types.NoneType in self.types else ""
            raise UserError(f"{self.name} is {value!r:.80}; it must be {what}{bounds}{other}")


def read(signature: inspect.Signature) -> dict[str, Argument]:
    """The arguments that a signature describes, by name."""
    return {
        name: argument(name, parameter.annotation, parameter.default)
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def argument(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> Argument:
    plain, *notes = typing.get_args(annotation) if typing.get_origin(annotation) is Annotated else (annotation,)
    default = None if default is inspect.Parameter.empty else default
    text = next((note for note in notes if isinstance(note, str)), "")
    numbers = next((note for note in notes if isinstance(note, Range)), None)
    return Argument(name, plain, default, text, numbers, CHANGEABLE in notes, annotation in SHARED)


SHARED = [value for value in vars().copy().values() if typing.get_origin(value) is Annotated]


def check_arguments(arguments: Mapping[str, Argument], values: Mapping) -> None:
    """Raise UserError for the first invalid value."""
    logger = values.get("logger_kwargs")
    resumed = isinstance(logger, Mapping) and logger.get("resume")  # then the checkpoint has the networks
    for name, value in values.items():
        if name in arguments:
            arguments[name].check(value)
        if name == "on_epoch" and not (value is None or takes(value, 1)):
            raise UserError(
                f"on_epoch is {value!r:.80}; it must be a function of one argument, an epoch's row, or None"
            )
        if name == "init_from" and value is not None and not resumed:
            check_source(value)
        if name == "device" and not isinstance(value, str) and type(value).__name__ != "device":  # torch's
            raise UserError(f"device is {value!r:.80}; it must be a name such as cpu, cuda or cuda:1")


def check_entries(name: str, entries: Any, known: Mapping[str, type | None]) -> dict:
    """A copy of a dict of arguments. Raises UserError for an unknown entry or one of the wrong type.

    known: the types of the entries, None if unspecific
    """
    if not isinstance(entries, Mapping):
        raise UserError(f"{name} is {entries!r:.80}; it must be a dict")
    for key, value in entries.items():
        if key not in known:
            raise UserError(f"{name} has the unknown entry {key!r:.80}; it may have {', '.join(known)}")
        wanted = known[key]
        if wanted is not None and not isinstance(value, wanted):
            raise UserError(f"{name}[{key!r}] is {value!r:.80}; it must be a {wanted.__name__}")
    return dict(entries)


def takes(function: Any, number: int) -> bool:
    """Whether it can be called with this number of arguments, judging by its signature."""
    try:
        inspect.signature(function).bind(*[None] * number)
    except ValueError:  # some functions written in C have no signature
        return True
    except TypeError:
        return False
    return True


def check_source(init_from: str | PathLike) -> None:
    """Raise UserError if init_from has no saved policy."""
    if not isinstance(init_from, str | PathLike):
        raise UserError(f"init_from is {init_from!r:.80}; it must be the folder of a run, or None")
    path = Path(init_from).expanduser()
    if not (path if path.suffix == ".pt" else path / "model.pt").exists():
        raise UserError(f"init_from is {str(init_from)!r:.200}; there is no run with a saved policy, model.pt")


def signature_of(function: Callable) -> inspect.Signature:
    """The signature of a function, a class or a partial of these. Of a class: its own, although a base class may have a
    __signature__ from `document`.
    """
    call: Any = function if isinstance(function, functools.partial) else functools.partial(function)
    if isinstance(call.func, type):
        call = functools.partial(call.func.__init__, None, *call.args, **call.keywords)  # type: ignore[misc]
    return inspect.signature(call)


def document(function: F) -> F:
    """For help(), add a line for each argument to the docstring of a function or class, and plain types to its
    signature.
    """
    if "arguments" in vars(function):
        return function
    signature = signature_of(function)
    found = read(signature)
    lines = [f"{a.name}: {a.help}" for a in found.values() if a.help]
    lines = [textwrap.fill(line, 100, subsequent_indent="    ") for line in lines]
    function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", *lines])
    plain = [p.replace(annotation=found[name].annotation) for name, p in signature.parameters.items()]
    function.__signature__, function.arguments = signature.replace(parameters=plain), found  # type: ignore[attr-defined]
    return function

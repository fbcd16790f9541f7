"""Networks and files of tensors that a run left behind, perhaps a stranger's: no code of theirs is run, and they take
no more memory than the file's size, however large they say they are.
"""

import contextlib
import itertools
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from spinup import nets
from spinup.compute import accel
from spinup.errors import UserError, first_line
from spinup.system.files import check_file

MANY = 4 * (os.cpu_count() or 1)  # processes; a stranger's folder could ask for any number
ONLY_TRAINING = ("rew_norm.", "temperature.")  # saved with a policy that can do without
# What a pickle of tensors names. torch allows more, as bytearray, which takes any memory that a number asks for.
NAMES = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|tensor_v3|parameter)|torch\.storage UntypedStorage|"
    r"torch [A-Z]\w*Storage|torch [a-z]\w*"
)


def load_tensors(file: Path, checked: bool = False) -> Any:
    """What torch.save put in a file, on the CPU.

    checked: its content is known to be whole; otherwise the archive's checksums are compared

    Raises UserError where the file is damaged, holds more than tensors and plain data, or would take more memory than
    its size.
    """
    try:
        check_archive(file, checked)
        content = torch.load(file, map_location="cpu", weights_only=True)
        check_views(content)
        return content
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} is damaged, or holds more than tensors and is not loaded") from error
    except Exception as error:  # what a damaged file makes torch raise is anything
        raise UserError(f"{file} is damaged ({first_line(error)})") from error


def check_archive(file: Path, checked: bool) -> None:
    """Raise for an archive that torch.save did not write: compressed, or with more in it than the file has bytes."""
    size, free = check_file(file), accel.free_memory("cpu")
    if free is not None and size > free:
        raise UserError(f"{file} has {size / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB of memory are free")
    if not zipfile.is_zipfile(file):
        raise pickle.UnpicklingError("it is not an archive")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED or m.compress_size != m.file_size for m in members):
            raise UserError(f"{file} is compressed, as no file of spinup's is; it is not loaded")
        # torch reads the same members only if nothing stands before the first and after the list of them
        if sum(m.file_size for m in members) > size or min(m.header_offset for m in members) or archive.comment:
            raise zipfile.BadZipFile("its members are not those of a file by torch.save")
        for member in members:
            if member.filename.lower().endswith("data.pkl"):
                check_pickle(archive.read(member))
        if not checked and (broken := archive.testzip()):  # torch looks at no checksums
            raise zipfile.BadZipFile(f"the checksum of {broken} does not fit")


def check_pickle(data: bytes) -> None:
    """Raise UnpicklingError where it names anything but tensors and dicts."""
    for operation, name, _ in pickletools.genops(data):
        if operation.name == "GLOBAL" and not NAMES.fullmatch(str(name)):
            raise pickle.UnpicklingError(f"it names {name}")


def check_views(content: Any) -> None:
    """Raise ValueError for a tensor that is larger than what it was stored as, one number standing for many."""
    todo, seen = [content], set()
    while todo:
        x = todo.pop()
        if isinstance(x, torch.Tensor) and x.nbytes > x.untyped_storage().nbytes():
            raise ValueError(f"a tensor of shape {tuple(x.shape)} has only {x.untyped_storage().nbytes()} bytes")
        if isinstance(x, dict | list | tuple) and id(x) not in seen:
            seen.add(id(x))
            todo += [y for pair in x.items() for y in pair] if isinstance(x, dict) else x


def model_file(folder: Path, itr: int | str | None = None) -> Path:
    """model.pt, model{itr}.pt or model_best.pt in a run's folder. Raises UserError where it is not there."""
    file = folder / f"model{'' if itr is None else '_best' if itr == 'best' else itr}.pt"
    if not file.exists():
        there = ", ".join(sorted(p.name for p in folder.glob("model*.pt"))) or "nothing; did the run save yet?"
        raise UserError(f"there is no {file}; saved there: {there}")
    return file


def read_policy(file: Path) -> dict[str, torch.Tensor]:
    """The state_dict in a file. Raises UserError as `load_tensors` does."""
    state = load_tensors(file)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{file} holds no state_dict")
    return state


# ---- networks


def network_class(config: dict) -> type[nn.Module]:
    """The class in spinup.nets that config.json names."""
    name = str(config.get("actor_critic"))
    module, _, attribute = name.rpartition(".")
    found = getattr(nets, attribute, None) if module.startswith("spinup.nets") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UserError(f"the networks are {name}; in Python: spinup.load(..., actor_critic=that class)")
    return found


def build(source: Path, config: dict, observation_space: spaces.Box, action_space: spaces.Space) -> nn.Module:
    """The networks that config.json, `source`, names, for VecEnv's spaces. Raises UserError where that fails."""
    ours = network_class(config)
    with building(source):
        return ours(observation_space, action_space, **network_arguments(config))


@contextlib.contextmanager
def building(source: Path) -> Iterator[None]:
    """Turns what is wrong with the networks' arguments into a UserError."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        why = error if isinstance(error, UserError) else first_line(error)
        raise UserError(
            f"{source}: cannot build the networks from ac_kwargs ({why}); in Python, "
            "spinup.load(..., actor_critic=...) takes a class or function that can"
        ) from error


def network_arguments(config: dict) -> dict:
    """normalize_obs and ac_kwargs; networks of one's own for DDPG, TD3 and SAC need to know the first only if True."""
    on = config.get("normalize_obs")
    return {**({"normalize_obs": on} if on or (on is False and "lam" in config) else {}), **config["ac_kwargs"]}


def check_size(
    source: Path, config: dict, file: Path | None, observation_space: spaces.Box, action_space: spaces.Space
) -> None:
    """Raise UserError where the networks that config.json, `source`, names need more bytes than the file of their
    parameters has, or without one than are free, and where they cannot be built; none are.
    """
    try:
        size = check_file(file) if file else accel.free_memory("cpu")
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    ours = network_class(config)
    with building(source):
        needed = least_bytes(size, ours, observation_space, action_space, network_arguments(config))
    if size is not None and needed > size:
        there = f"{file.name} has {size / 2**20:.3g}" if file else f"{size / 2**20:.3g} are free"
        raise UserError(f"{source}: the networks need {needed / 2**20:.3g} MiB at least, and {there}; none are built")


def least_bytes(
    size: int | None, make: Callable, observation_space: spaces.Box, action_space: spaces.Space, arguments: dict
) -> int:
    """Bytes that a file of these networks has at least, or any number above `size` once that is clear; builds none."""
    sizes, linear = nets.as_sizes(arguments.get("hidden_sizes", ())), arguments.get("linear")
    dense = 4 * sum(a * b for a, b in itertools.pairwise(sizes))
    least = sum(sizes) + 100 * len(sizes)  # each unit has a bias, each layer an entry in the archive
    if not isinstance(linear, dict):
        least += dense
    elif (free := accel.free_memory("cpu")) is not None and 3 * dense > free:  # of policy and critics, before pruning
        return 3 * dense
    else:
        least += int(0.5 * (1 - linear.get("sparsity", 0.9)) * dense)
        arguments = {**arguments, "hidden_sizes": sizes[:1], "linear": nn.Linear}  # the others are those counted
    if size is not None and least > size:
        return least
    with torch.device("meta"):  # shapes alone
        state = make(observation_space, action_space, **arguments).state_dict()
    needed = sum(x.numel() * (4 if x.is_floating_point() else x.element_size()) for x in state.values())
    return max(least, needed)  # float32, whatever torch's default is here


# ---- a warm start


def check_workers(folder: Path, number: int, how: str) -> None:
    """Raise UserError where a folder asks for many more processes of environments than there are cores.

    how: what allows it
    """
    if number > MANY:
        what = f"{folder} asks for {number} environments with a process each, many more than there are cores"
        raise UserError(f"{what}; allow it with {how}")


def load_policy_into(ac: nn.Module, source: str, fixed: tuple[str, ...] = ()) -> Path:
    """Give networks the parameters and statistics of the run, or the .pt file, that init_from names; returns the file.

    fixed: how the names of entries begin that stay as they are

    Raises UserError for the first entry that is not in both, or has two shapes.
    """
    path = Path(source).expanduser()
    file = path if path.suffix == ".pt" else model_file(path)
    copy_parameters(ac, read_policy(file), f"init_from {source}", fixed)
    return file


def copy_parameters(module: torch.nn.Module, state: Mapping, source: str, skipped: tuple[str, ...] = ()) -> None:
    """Load a state_dict into a module. Raises UserError for the first entry that is not in both, or has two shapes.

    skipped: how the names of entries begin that the module keeps
    """
    ours = {name: x for name, x in module.state_dict().items() if not name.startswith(skipped)}
    theirs = {name: x for name, x in state.items() if not name.startswith(skipped)}
    alike = "; networks and normalizers must be built alike (ac_kwargs, normalize_obs, the environment's spaces)"
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            verb = "lacks" if name not in theirs else "has"
            other = "has" if name not in theirs else "lacks"
            raise UserError(f"{source} {verb} {name}, which this run {other}{alike}")
        if ours[name].shape != theirs[name].shape:
            shapes = f"{tuple(theirs[name].shape)}, and in this run {tuple(ours[name].shape)}"
            raise UserError(f"{source}: {name} has the shape {shapes}{alike}")
    try:
        module.load_state_dict({**module.state_dict(), **theirs})
    except RuntimeError as error:
        raise UserError(f"{source} does not fit this run's networks ({first_line(error)})") from error

"""Checks that an actor-critic follows the protocol described in spinup/nets/__init__.py."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from spinup.arguments import read, signature_of
from spinup.errors import UserError
from spinup.nets.actor_critics import as_input

SEE_PROTOCOL = "; help(spinup.nets) describes what is needed"


def check_makes_networks(actor_critic: Any) -> None:
    """Raise UserError if it isn't a class or a function."""
    is_network = isinstance(actor_critic, nn.Module)
    if is_network or not callable(actor_critic):
        what = f"an object of {type(actor_critic).__name__}" if is_network else f"{actor_critic!r:.80}"
        raise UserError(f"actor_critic is {what}; it must be a class, or a function that makes the networks")


def check_takes_normalize_obs(actor_critic: Callable) -> None:
    """Raise UserError if an actor-critic's class or function can't be called with normalize_obs."""
    parameters = signature_of(actor_critic).parameters
    if "normalize_obs" not in parameters and all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
        advice = "; add it, or train with normalize_obs=False if the algorithm is off-policy"
        raise UserError(f"actor_critic {name_of(actor_critic)} takes no 'normalize_obs'{advice}{SEE_PROTOCOL}")


def check_ac_kwargs(actor_critic: Callable, ac_kwargs: Mapping) -> None:
    """Raise UserError for the first of ac_kwargs that an actor-critic's class or function doesn't take or allow."""
    known, arguments = known_ac_kwargs(actor_critic), read(signature_of(actor_critic))
    for key, value in ac_kwargs.items():
        if known is not None and key not in known:
            what = f"for actor_critic {name_of(actor_critic)} it may have {', '.join(known) or 'none'}"
            raise UserError(f"ac_kwargs has the unknown entry {key!r:.80}; {what}")
        if key in arguments:
            arguments[key].check(value)


def known_ac_kwargs(actor_critic: Callable) -> list[str] | None:
    """The arguments of an actor-critic's class or function other than those that the algorithm gives, the spaces and
    normalize_obs; None if it accepts anything.
    """
    parameters = signature_of(actor_critic).parameters
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return None
    return [name for name in list(parameters)[2:] if name != "normalize_obs"]


def name_of(actor_critic: Callable) -> str:
    called = getattr(actor_critic, "func", actor_critic)  # of a partial
    return getattr(called, "__name__", type(called).__name__)


@torch.no_grad()
def check_actor_critic(ac: nn.Module, observation_space: spaces.Box, action_space: spaces.Space) -> None:
    """Check the protocol of VPG, TRPO and PPO, described in spinup.nets, on three observations and two rollouts.

    Raises UserError for the first violation.
    """
    name, o, a = check_parts(ac, observation_space, action_space, ("pi", "v", "obs_norm"))
    pi, v = ac.pi(o), ac.v(o)
    check_policy(name, "pi(o)", pi, ("log_prob", "sample", "mode", "entropy", "kl", "detach"))
    shapes = {  # in this order, since each builds on the one before
        "act(o)": (lambda: a, (3, *action_space.shape)),
        "v(o)": (lambda: v, (3,)),
        "pi(o).log_prob(a)": (lambda: pi.log_prob(torch.as_tensor(a, device=v.device)), (3,)),
        "pi(o).entropy()": (lambda: pi.entropy(), (3,)),
        "pi(o).kl(pi(o))": (lambda: pi.kl(pi.detach()), (3,)),
    }
    check_shapes(name, shapes)
    a = torch.as_tensor(a, device=o.device)
    rollouts = {
        "2 steps of 3 environments": (o.expand(2, *o.shape), a.expand(2, *a.shape), (2, 3)),
        "3 steps of 1 environment": (o[:, None], a[:, None], (3, 1)),
    }
    for what, (x, actions, lead) in rollouts.items():
        check_shape(name, "v(o)", ac.v(x), lead, what)
        check_shape(name, "pi(o).log_prob(a)", ac.pi(x).log_prob(actions), lead, what)


@torch.no_grad()
def check_recurrent_actor_critic(ac: nn.Module, observation_space: spaces.Box, action_space: spaces.Space) -> None:
    """Check the protocol of recurrent PPO, like `check_actor_critic`."""
    name, o, a = check_parts(ac, observation_space, action_space, ("pi", "v", "obs_norm", "initial_state"))
    start = torch.as_tensor(ac.initial_state(3), device=o.device)
    sequence = o.expand(2, *o.shape), start, torch.zeros(2, 3, dtype=torch.bool, device=o.device)
    check_shape(name, "act(o)[0]", a, (3, *action_space.shape))
    for what, arguments, lead in (("o, state", (o, start), (3,)), ("o, state, first", sequence, (2, 3))):
        (pi, pi_states), (v, v_states) = ac.pi(*arguments), ac.v(*arguments)
        check_policy(name, f"pi({what})[0]", pi, ("log_prob", "sample", "mode", "entropy"))
        logp = pi.log_prob(torch.as_tensor(a, device=o.device).expand(*lead, *action_space.shape))
        check_shape(name, f"v({what})[0]", v, lead)
        check_shape(name, f"v({what})[1]", v_states, (*lead, *start.shape[1:]))
        check_shape(name, f"pi({what})[1]", pi_states, (*lead, *start.shape[1:]))
        check_shape(name, f"pi({what})[0].log_prob(a)", logp, lead)
        check_shape(name, f"pi({what})[0].entropy()", pi.entropy(), lead)


@torch.no_grad()
def check_q_actor_critic(
    ac: nn.Module,
    observation_space: spaces.Box,
    action_space: spaces.Space,
    num_critics: int,
    soft: bool = False,
    normalize_obs: bool = False,
    training: bool = False,
) -> None:
    """Check the protocol of DDPG and TD3, or (soft) of SAC, like `check_actor_critic`; num_critics: required number;
    training: actor and critic must take this argument, as CrossQ's do.
    """
    name, o, a = check_parts(ac, observation_space, action_space, ("obs_norm",) if normalize_obs else ())
    for part in ("actor", "critic") if training else ():
        if "training" not in inspect.signature(getattr(ac, part).forward).parameters:
            raise UserError(f"{name}: {part} takes no 'training'{SEE_PROTOCOL}")
    pi, discrete = ac.actor(o), isinstance(action_space, spaces.Discrete)
    shapes = {"act(o)": (lambda: a, (3, *action_space.shape))}
    if discrete:
        check_policy(name, "actor(o)", pi, ("logp", "expectation"))
        shapes["actor(o).logp"] = (lambda: pi.logp, (3, int(action_space.n)))
        shapes["critic(o)"] = (lambda: ac.critic(o), (num_critics, 3, int(action_space.n)))
    elif soft:
        check_policy(name, "actor(o)", pi, ("rsample",))
        shapes["actor(o).rsample()[0]"] = (lambda: pi.rsample()[0], (3, *action_space.shape))
        shapes["actor(o).rsample()[1]"] = (lambda: pi.rsample()[1], (3,))
    else:
        shapes["actor(o)"] = (lambda: pi, (3, *action_space.shape))
        shapes["critic[0](o, a)"] = (lambda: ac.critic[0](o, torch.as_tensor(a, device=o.device)), (3,))
    shapes["critic(o, a)"] = (lambda: ac.critic(o, torch.as_tensor(a, device=o.device)), (num_critics, 3))
    check_shapes(name, shapes)


@torch.no_grad()
def check_q_network(
    net: nn.Module, observation_space: spaces.Box, action_space: spaces.Discrete, normalize_obs: bool = False
) -> None:
    """Check the protocol of DQN, like `check_actor_critic`."""
    more = ("obs_norm",) if normalize_obs else ()
    name, o, a = check_parts(net, observation_space, action_space, more, modules=("q",))
    shapes = {
        "act(o)": (lambda: a, (3,)),
        "q(o)": (lambda: net.q(o), (3, int(action_space.n))),
        "q(o, a)": (lambda: net.q(o, torch.as_tensor(a, device=o.device)), (3,)),
    }
    check_shapes(name, shapes)


def check_parts(
    ac: nn.Module,
    observation_space: spaces.Box,
    action_space: spaces.Space,
    more: Sequence[str] = (),
    modules: Sequence[str] = ("actor", "critic"),
) -> tuple:
    """Check what all protocols have in common; returns a name for messages, three observations and their actions."""
    name = f"actor_critic {type(ac).__name__}"
    for attribute in ("parameters", *modules, *more, "act"):
        if not hasattr(ac, attribute):
            raise UserError(f"{name} has no '{attribute}'{SEE_PROTOCOL}")
    if "obs_norm" in more and not hasattr(ac.obs_norm, "update"):
        raise UserError(f"{name}: obs_norm has no 'update'; use a RunningNorm or a NoNorm")
    for attribute in modules:
        if not isinstance(getattr(ac, attribute), nn.Module):
            raise UserError(f"{name}: '{attribute}' is not a torch.nn.Module{SEE_PROTOCOL}")
        for key, p in getattr(ac, attribute).named_parameters():
            if p.dtype != torch.float32:  # an optimizer's parameters are one tensor, and load makes all float32
                raise UserError(f"{name}: {attribute}.{key} is {p.dtype}; parameters must be torch.float32")
    if "actor" in modules and {id(p) for p in ac.actor.parameters()} & {id(p) for p in ac.critic.parameters()}:
        raise UserError(f"{name}: actor and critic have parameters in common; they need separate ones")
    if "deterministic" not in inspect.signature(ac.act).parameters:
        raise UserError(f"{name}: act takes no 'deterministic'{SEE_PROTOCOL}")
    space = copy.deepcopy(observation_space)
    space.seed(0)  # layers may keep something of the observations, such as running statistics
    o = np.stack([space.sample() for _ in range(3)])
    o = np.clip(np.nan_to_num(o), -1, 1) if o.dtype != np.uint8 else o
    a = ac.act(o)
    if "initial_state" in more:
        if not (isinstance(a, tuple) and len(a) == 2):
            raise UserError(f"{name}: act(o) returns a {type(a).__name__}; it must return actions and states")
        a = a[0]
    elif hasattr(ac, "initial_state"):
        raise UserError(f"{name} has a memory, which only ppo_rnn trains; the others need networks without one")
    if not isinstance(a, np.ndarray):
        raise UserError(f"{name}: act(o) returns a {type(a).__name__}; it must return a numpy array")
    if isinstance(action_space, spaces.Discrete) and a.dtype.kind not in "iu":
        raise UserError(f"{name}: act(o) returns {a.dtype}; for {action_space} it must return int64")
    return name, as_input(o, ac), a


def check_policy(name: str, what: str, pi, methods: Sequence[str]) -> None:
    for method in methods:
        if not hasattr(pi, method):
            raise UserError(f"{name}: {what} has no '{method}'{SEE_PROTOCOL}")


def check_shapes(name: str, shapes: dict) -> None:
    """shapes: {what: (function that computes it, expected shape)}."""
    for what, (compute, expected) in shapes.items():
        check_shape(name, what, compute(), expected)


def check_shape(name: str, what: str, x, expected: tuple[int, ...], observations: str = "3 observations") -> None:
    if not hasattr(x, "shape"):
        raise UserError(f"{name}: {what} is a {type(x).__name__}; it must be a tensor of shape {expected}")
    if tuple(x.shape) != expected:
        raise UserError(f"{name}: {what} has shape {tuple(x.shape)} for {observations}; it must be {expected}")

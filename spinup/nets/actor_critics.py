"""Actor-critics, one class for each kind of algorithm."""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup import arguments as arg
from spinup.arguments import Range, document
from spinup.compute import accel
from spinup.errors import UserError
from spinup.nets.actors import (
    BatchNormActor,
    BatchNormQFunction,
    BatchNormQFunctions,
    CategoricalActor,
    DeterministicActor,
    GaussianActor,
    MultiCategoricalActor,
    QFunction,
    QFunctions,
    SquashedGaussianActor,
)
from spinup.nets.distributions import Categorical, Gaussian, MultiCategorical, SquashedGaussian
from spinup.nets.layers import as_sizes, network
from spinup.nets.memory import RecurrentNetwork
from spinup.nets.norms import make_obs_norm
from spinup.observations import mask_slice

LOG_STD_INIT = -0.5  # a standard deviation of about 0.6 half-ranges


@document
class ActorCritic(nn.Module):
    """A policy and a value function in separate networks, for VPG, TRPO and PPO."""

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        hidden_sizes: arg.HiddenSizes = (64, 64),
        activation: arg.Activation = "Tanh",
        linear: arg.Linear = nn.Linear,
        log_std_init: arg.LogStdInit = LOG_STD_INIT,
        orthogonal: arg.Orthogonal = True,
        normalize_obs: arg.NormalizeObs = False,
        log_std_min: arg.LogStdMin = None,
        log_std_max: arg.LogStdMax = None,
        squash: arg.Squash = False,
    ):
        super().__init__()
        self.register_buffer("_device_anchor", torch.empty(0), persistent=False)  # for as_input

        def build(out: int, gain: float) -> nn.Module:
            return self.make_network(
                observation_space, out, hidden_sizes, activation, linear, gain if orthogonal else None
            )

        given = dict(  # what only a Gaussian has
            squash=squash,
            log_std_init=log_std_init != LOG_STD_INIT,
            log_std_min=log_std_min is not None,
            log_std_max=log_std_max is not None,
        )
        if isinstance(action_space, spaces.Box):
            std = log_std_init, log_std_min, log_std_max
            self.actor = GaussianActor(build(action_space.shape[0], 0.01), action_space, *std, squash)
        elif any(given.values()):
            name = next(name for name in given if given[name])
            raise UserError(f"{name} needs a Gaussian policy, for Box actions; these are {action_space}: leave it out")
        elif isinstance(action_space, spaces.Discrete):
            self.actor = CategoricalActor(build(int(action_space.n), 0.01), mask_slice(observation_space))
        else:
            sizes = action_space.nvec
            self.actor = MultiCategoricalActor(build(int(sizes.sum()), 0.01), sizes, mask_slice(observation_space))
        self.critic = build(1, 1.0)
        self.obs_norm = make_obs_norm(observation_space, normalize_obs)

    def make_network(self, space: spaces.Box, out: int, *settings) -> nn.Module:
        """The network of the policy or of the value function; settings: the other arguments of `network`."""
        return network(space, out, *settings)

    def pi(self, o: Tensor) -> Gaussian | SquashedGaussian | Categorical | MultiCategorical:
        """The policy at observations o, (..., *obs_shape)."""
        return self.actor(self.obs_norm(o))

    def v(self, o: Tensor) -> Tensor:
        """The value of observations o, (..., *obs_shape): (...)."""
        return self.critic(self.obs_norm(o)).squeeze(-1)

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Samples of the policy, or its mode, at observations o, (..., *obs_shape): (..., *act_shape)."""
        pi = self.pi(as_input(o, self))
        return (pi.mode() if deterministic else pi.sample()).cpu().numpy()


@document
class RecurrentActorCritic(ActorCritic):
    """A policy and a value function with a memory each, in separate networks, for recurrent PPO.

    The state of a memory is a vector of S numbers, 0 at the beginning of an episode.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        hidden_sizes: arg.HiddenSizes = (64,),
        activation: arg.Activation = "Tanh",
        linear: arg.Linear = nn.Linear,
        memory_size: Annotated[
            int, Range(1, 1_048_576), "units of the memory, which comes before the hidden layers"
        ] = 64,
        cell: Annotated[Literal["gru", "lstm"], "the memory's kind: 'gru' or 'lstm'"] = "gru",
        log_std_init: arg.LogStdInit = LOG_STD_INIT,
        orthogonal: arg.Orthogonal = True,
        normalize_obs: arg.NormalizeObs = False,
        log_std_min: arg.LogStdMin = None,
        log_std_max: arg.LogStdMax = None,
        squash: arg.Squash = False,
    ):
        self.memory_size, self.cell = memory_size, cell
        common = hidden_sizes, activation, linear, log_std_init, orthogonal, normalize_obs
        super().__init__(observation_space, action_space, *common, log_std_min, log_std_max, squash)

    def make_network(self, space: spaces.Box, out: int, *settings) -> nn.Module:
        return RecurrentNetwork(space, out, self.memory_size, self.cell, *settings)

    def initial_state(self, n: int) -> np.ndarray:
        """The states of n memories at the beginning of an episode: zeros, (n, S)."""
        return np.zeros((n, self.critic.memory.state_size), np.float32)

    def pi(self, o: Tensor, state: Tensor, first: Tensor | None = None) -> tuple[Any, Tensor]:
        """The policy at observations o, (..., *obs_shape), seen in states (..., S), and the states after them.

        With `first`, (T, N), o is a sequence of steps, (T, N, *obs_shape), that begins in states (N, S), and the state
        is 0 wherever `first` is True, at the first step of an episode.
        """
        o = self.obs_norm(o)
        x, states = self.actor.net(o, state, first)
        return self.actor.policy(x, o), states

    def v(self, o: Tensor, state: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The value of observations o, (...), and the states after them, as in `pi`."""
        v, states = self.critic(self.obs_norm(o), state, first)
        return v.squeeze(-1), states

    @torch.inference_mode()
    def act(
        self, o: np.ndarray, state: np.ndarray | None = None, deterministic: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples of the policy, or its mode, at observations o, (n, *obs_shape): (n, *act_shape), and the states of
        its memory for the next step, (n, S).

        state: those for this step; None: the beginning of an episode
        """
        initial = self.initial_state(len(o))
        if np.shape(initial if state is None else state) != initial.shape:
            what = f"it must be what act returned for the step before, of shape {initial.shape}, or None"
            raise UserError(f"state is {' '.join(repr(state).split()):.40}; {what}")
        pi, states = self.pi(as_input(o, self), as_input(initial if state is None else state, self))
        return (pi.mode() if deterministic else pi.sample()).cpu().numpy(), states.cpu().numpy()


@document
class DeterministicActorCritic(nn.Module):
    """A deterministic policy and one action-value function, for DDPG.

    With normalize_obs, `act` normalizes; actor and critic expect observations that already passed through obs_norm.
    """

    num_critics = 1

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Space,
        hidden_sizes: arg.HiddenSizes = (256, 256),
        activation: arg.Activation = "ReLU",
        linear: arg.Linear = nn.Linear,
        layer_norm: Annotated[bool, "layer normalization (arXiv:1607.06450) in the action-value functions"] = True,
        normalize_obs: arg.NormalizeObs = False,
    ):
        super().__init__()
        self.register_buffer("_device_anchor", torch.empty(0), persistent=False)  # for as_input
        self.obs_norm = make_obs_norm(observation_space, normalize_obs)
        common = hidden_sizes, activation, linear
        self.actor = self.make_actor(observation_space, action_space, *common)
        self.critic = QFunctions(
            QFunction(observation_space, action_space, *common, layer_norm) for _ in range(self.num_critics)
        )

    def make_actor(self, observation_space, action_space, *common) -> nn.Module:
        return DeterministicActor(network(observation_space, action_space.shape[0], *common), action_space)

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Actions at observations o, (..., *obs_shape): (..., *act_shape). The algorithm adds exploration noise."""
        return self.actor(self.obs_norm(as_input(o, self))).cpu().numpy()


class TwinActorCritic(DeterministicActorCritic):
    """A deterministic policy and two action-value functions, for TD3.

    The arguments are those of DeterministicActorCritic.
    """

    num_critics = 2


class SoftActorCritic(DeterministicActorCritic):
    """A stochastic policy of bounded Box or Discrete actions, and two action-value functions, for SAC.

    The arguments are those of DeterministicActorCritic.
    """

    num_critics = 2

    def make_actor(self, observation_space, action_space, *common) -> nn.Module:
        if isinstance(action_space, spaces.Discrete):
            net = network(observation_space, int(action_space.n), *common)
            return CategoricalActor(net, mask_slice(observation_space))
        return SquashedGaussianActor(network(observation_space, 2 * action_space.shape[0], *common), action_space)

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Samples of the policy, or its mode, at observations o, (..., *obs_shape): (..., *act_shape)."""
        pi = self.actor(self.obs_norm(as_input(o, self)))
        return (pi.mode() if deterministic else pi.sample()).cpu().numpy()


@document
class BatchNormActorCritic(nn.Module):
    """A stochastic policy of bounded Box actions and two action-value functions, all with batch normalization, for
    CrossQ.

    actor and critic take `training`; `act` normalizes by running statistics. With normalize_obs, `act` also passes
    observations through obs_norm; actor and critic expect those that already did.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Box,
        hidden_sizes: arg.HiddenSizes = (256, 256),
        activation: arg.Activation = "ReLU",
        linear: arg.Linear = nn.Linear,
        critic_width: Annotated[
            float, Range(1, 1024), "the critics' hidden layers have this many times as many units as hidden_sizes"
        ] = 1.0,
        batch_norm: Annotated[bool, "batch normalization in the critics"] = True,
        actor_batch_norm: Annotated[bool, "batch normalization in the policy"] = True,
        normalize_obs: arg.NormalizeObs = False,
    ):
        super().__init__()
        self.register_buffer("_device_anchor", torch.empty(0), persistent=False)  # for as_input
        BatchNormActorCritic.arguments["critic_width"].check(critic_width)
        self.obs_norm = make_obs_norm(observation_space, normalize_obs)
        shared = observation_space, action_space
        self.actor = BatchNormActor(*shared, hidden_sizes, activation, linear, actor_batch_norm)
        critic_sizes = [round(critic_width * n) for n in as_sizes(hidden_sizes)]
        self.critic = BatchNormQFunctions(
            BatchNormQFunction(*shared, critic_sizes, activation, linear, batch_norm) for _ in range(2)
        )

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """Samples of the policy, or its mode, at observations o, (..., *obs_shape): (..., *act_shape)."""
        pi = self.actor(self.obs_norm(as_input(o, self)))
        return (pi.mode() if deterministic else pi.sample()).cpu().numpy()


@document
class QNetwork(nn.Module):
    """An action-value function of Discrete actions, for DQN; `act` is greedy.

    With normalize_obs, `act` normalizes; q expects observations that already passed through obs_norm.
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        action_space: spaces.Discrete,
        hidden_sizes: arg.HiddenSizes = (256, 256),
        activation: arg.Activation = "ReLU",
        linear: arg.Linear = nn.Linear,
        layer_norm: Annotated[bool, "layer normalization (arXiv:1607.06450) before each activation"] = False,
        dueling: Annotated[
            bool, "dueling network: outputs a state value and action advantages (arXiv:1511.06581)"
        ] = False,
        normalize_obs: arg.NormalizeObs = False,
    ):
        super().__init__()
        self.register_buffer("_device_anchor", torch.empty(0), persistent=False)  # for as_input
        self.obs_norm = make_obs_norm(observation_space, normalize_obs)
        common = hidden_sizes, activation, linear, layer_norm, dueling
        self.q = QFunction(observation_space, action_space, *common, mask=mask_slice(observation_space))

    @torch.inference_mode()
    def act(self, o: np.ndarray, deterministic: bool = False) -> np.ndarray:
        """The actions with the highest value at observations o, (..., *obs_shape): (...). The algorithm explores."""
        return self.q(self.obs_norm(as_input(o, self))).argmax(-1).cpu().numpy()


def as_input(o: np.ndarray, module: nn.Module) -> Tensor:
    """Observations, (..., *obs_shape), as a tensor on the module's device: float32, or uint8 for images."""
    # next(module.parameters()) works too, but is slow per step.
    device = module._device_anchor.device if hasattr(module, "_device_anchor") else next(module.parameters()).device
    x = torch.as_tensor(o, device=device)
    return accel.aligned(x if x.dtype in (torch.float32, torch.uint8) else x.float())


def describe(ac: nn.Module) -> str:
    """A line or two with the networks' numbers of parameters, and what their block-sparse layers save."""
    parts = {name: getattr(ac, name) for name in ("actor", "critic", "q") if hasattr(ac, name)}
    if any(hasattr(layer, "layout") for layer in ac.modules()):
        from spinup.sparse import summary

        return "\n".join(f"{name}: {summary(part)}" for name, part in parts.items())
    return ", ".join(
        f"{name}: {sum(p.numel() for p in part.parameters()):,} parameters" for name, part in parts.items()
    )

"""Networks: MLPs and a small CNN, policies, action-value functions, and the actor-critics made of them.

Every linear layer is made by a `linear=` factory, called as linear(in_features, out_features): the hook for other
kinds of layers. All modules take observations with any leading shape, (..., *obs_shape).

To use your own actor-critic, pass its class as the argument `actor_critic`. For VPG, TRPO and PPO it is called as
actor_critic(observation_space, action_space, normalize_obs=..., **ac_kwargs) and must be an nn.Module with float32
parameters and

    actor, critic   modules without common parameters; each has its own optimizer
    pi(o)           the policy at o, (..., *obs_shape): an object with log_prob(a), sample(), mode(), entropy(),
                    kl(other) and detach(), such as Gaussian
    v(o)            the value of o, shape (...)
    act(o, deterministic=False)     actions for the environment; both o and the actions are numpy arrays
    obs_norm        a RunningNorm, or a NoNorm; pi and v pass their observations through it

For recurrent PPO, pi, v and act also take the state of a memory and return its next state, (..., S); it is 0 at the
beginning of an episode:

    pi(o, state)    the policy at o and the states after o; v(o, state) likewise
    pi(o, state, first)     the same for T steps of N episodes, o: (T, N, *obs_shape), first: (T, N), which begin in the
                    states (N, S): the policies at all of them, and the states after each, (T, N, S). The state is 0
                    wherever first is True; v(o, state, first) likewise
    act(o, state=None, deterministic=False)     actions and the next states, as numpy arrays; None: initial states
    initial_state(n)    n states at the beginning of an episode, zeros (n, S), as a numpy array; of pi and of v

For DDPG, TD3 and SAC it is called as actor_critic(observation_space, action_space, **ac_kwargs), with
normalize_obs=True as well if that is set, as it is by default for SAC. It must have

    actor           a module that shares no parameters with the critic: actor(o) is the action, (..., *act_shape), for
                    DDPG and TD3, and the policy, such as SquashedGaussian or Categorical, for SAC
    critic          a list of n action-value functions as one module, such as QFunctions: critic(o, a) is all their
                    values, (n, ...), critic[0](o, a) those of the first, (...); with Discrete actions, critic(o) is
                    also the values of all K actions, (n, ..., K)
    act(o, deterministic=False)     as above

CrossQ calls it as SAC does and needs the same attributes, for Box actions. actor(o, training=False) and
critic(o, a, training=False) also take `training`; if True, they normalize by the statistics of the batch (BatchNorm).

For DQN it is called as actor_critic(observation_space, action_space, **ac_kwargs) and must have

    q               a module: q(o) is the value of all K actions, (..., K), and q(o, a) that of the actions a, (...)
    act(o, deterministic=False)     as above

To support normalize_obs=True, the last three also need obs_norm, a RunningNorm or a NoNorm: act passes observations
through it, whereas actor, critic and q get observations that are already normalized: call actor(obs_norm(o)).

`check_actor_critic`, `check_recurrent_actor_critic`, `check_q_actor_critic` and `check_q_network` try the protocol on a
batch of observations and say what is missing.
"""

from spinup.nets.actor_critics import (
    ActorCritic,
    BatchNormActorCritic,
    DeterministicActorCritic,
    QNetwork,
    RecurrentActorCritic,
    SoftActorCritic,
    TwinActorCritic,
    as_input,
    describe,
)
from spinup.nets.actors import (
    BatchNormActor,
    BatchNormNetwork,
    BatchNormQFunction,
    BatchNormQFunctions,
    Bounds,
    CategoricalActor,
    DeterministicActor,
    GaussianActor,
    MultiCategoricalActor,
    QFunction,
    QFunctions,
    SquashedGaussianActor,
    keep_bounds,
)
from spinup.nets.distributions import (
    LOG_SQRT_2PI,
    Categorical,
    Gaussian,
    MultiCategorical,
    SquashedGaussian,
    log_tanh_slope,
)
from spinup.nets.encoders import CNN, PartsEncoder, make_encoder
from spinup.nets.layers import HiddenLinear, activation_class, as_sizes, make_linears, mlp, network, orthogonal_
from spinup.nets.memory import Memory, RecurrentNetwork
from spinup.nets.norms import BatchNorm, NoNorm, PartsNorm, RunningNorm, make_obs_norm
from spinup.nets.protocol import (
    check_ac_kwargs,
    check_actor_critic,
    check_makes_networks,
    check_parts,
    check_policy,
    check_q_actor_critic,
    check_q_network,
    check_recurrent_actor_critic,
    check_shapes,
    check_takes_normalize_obs,
)

__all__ = [
    "CNN",
    "LOG_SQRT_2PI",
    "ActorCritic",
    "BatchNorm",
    "BatchNormActor",
    "BatchNormActorCritic",
    "BatchNormNetwork",
    "BatchNormQFunction",
    "BatchNormQFunctions",
    "Bounds",
    "Categorical",
    "CategoricalActor",
    "DeterministicActor",
    "DeterministicActorCritic",
    "Gaussian",
    "GaussianActor",
    "HiddenLinear",
    "Memory",
    "MultiCategorical",
    "MultiCategoricalActor",
    "NoNorm",
    "PartsEncoder",
    "PartsNorm",
    "QFunction",
    "QFunctions",
    "QNetwork",
    "RecurrentActorCritic",
    "RecurrentNetwork",
    "RunningNorm",
    "SoftActorCritic",
    "SquashedGaussian",
    "SquashedGaussianActor",
    "TwinActorCritic",
    "activation_class",
    "as_input",
    "as_sizes",
    "check_ac_kwargs",
    "check_actor_critic",
    "check_makes_networks",
    "check_parts",
    "check_policy",
    "check_q_actor_critic",
    "check_q_network",
    "check_recurrent_actor_critic",
    "check_shapes",
    "check_takes_normalize_obs",
    "describe",
    "keep_bounds",
    "log_tanh_slope",
    "make_encoder",
    "make_linears",
    "make_obs_norm",
    "mlp",
    "network",
    "orthogonal_",
]

"""The algorithms, one to a file. Arguments that they share:

env_fn: an environment's id, as "CartPole-v1" or "module:Env-v0", or a function that makes one environment
actor_critic: class of the networks; the protocol is at the top of spinup.nets
ac_kwargs: arguments of actor_critic, as hidden_sizes, activation, log_std_init, log_std_min, log_std_max,
    squash, orthogonal, layer_norm, linear
seed: of networks, environments and sampling; the same seed gives the same run on the same machine
num_envs: environments stepped side by side, on each MPI process
steps_per_epoch: environment steps in a row of progress.txt, over all environments and processes; on-policy algorithms
    update after each, and round it up to a multiple of both
epochs: rows of progress.txt to train for
gamma: discount factor, 0 to 1
n_step: rewards that a target sums before the value of a next state; larger values learn faster where rewards are rare,
    and are biased, since older policies earned the later rewards
lam: lambda of the generalized advantage estimates, 0 to 1
pi_lr: learning rate of the policy (Adam)
vf_lr: learning rate of the value function (Adam)
q_lr: learning rate of the action-value functions (Adam)
train_v_iters: passes over the data of an epoch for the value function
anneal_lr: lower the learning rates linearly to 0 over the run
normalize_obs: centre and scale observations by running statistics, saved with the policy, and clip them to -10 to 10
    (not images); the statistics take in each epoch after its update, and with DDPG, TD3 and SAC each step
normalize_rew: scale rewards by the running standard deviation of the discounted return, saved with the policy
normalize_adv: shift and scale the advantages of an epoch to mean 0 and standard deviation 1
value_target: what the value function is fitted to: 'gae' (lambda-returns) or 'rtg' (discounted rewards-to-go)
replay_size: transitions kept, the last ones, over all processes
batch_size: transitions in a gradient step, over all processes
polyak: the target networks keep this share of themselves in each step, and take the rest from the learned ones
target_policy: test, save and return the target policy, a running average of the one that is learned and acts, in its
    place: it is steadier
act_noise: standard deviation of the noise on the policy's actions, in half-ranges of the actions
noise_corr: correlation of that noise between one step and the next, 0 to 0.999; near 1 it pushes one way for long,
    which tasks with inertia and rare rewards need
start_steps: first environment steps, with uniformly drawn actions in place of the policy's
update_after: environment steps before the first block of gradient steps
update_every: environment steps between two blocks of gradient steps
replay_ratio: gradient steps for each environment step
max_grad_norm: longer gradients are scaled down to this 2-norm; None: never
max_ep_len: an episode is truncated after so many steps
env_kwargs: arguments for the environment's maker
wrappers: what is put around each environment, the first innermost, in evaluations too: "module:Name" or
    "module:Name(1, name=2)", and in Python also functions of an environment
vectorization: 'sync' steps the environments in turn, in evaluations too; 'async' each in its own process, for slow
    simulators and those that exist once per process
reseed: give every episode a seed of its own; False: only the first reset of each environment, for those that make their
    world from a seed that they are given; resume then begins new episodes and is not exact
log_info: names of numbers in the environments' infos, as is_success, a column for each: the mean over the episodes of
    their last values
device: 'cpu', 'cuda', 'cuda:1', 'mps'
threads: CPU threads of torch; 1 is fastest for small networks
matmul_precision: of float32 matrix products: 'highest', 'high' (TF32) or 'medium' (bfloat16), where the hardware can;
    'medium' makes wide hidden layers faster on a CPU
capture: replay the tensor operations of updates without their Python, on a CPU or as CUDA graphs (spinup.compute.capture): the
    same numbers, sooner; PPO's policy only without a target_kl. False: always plain Python
init_from: folder of an earlier run, or a .pt file in it, whose networks and normalizers this one begins with
stop_at: end after an epoch with at least this mean return (of test episodes where there are any); None: never
patience: end after so many epochs with a mean return and without a new best one; None: never
on_epoch: function that is called after each epoch with its row of progress.txt as a dict; True from it ends the run
eval_freq: epochs between evaluations (columns TestEpRet, TestEpLen); 0: none
num_test_episodes: episodes of the mode of the policy in one evaluation, in environments with other seeds
num_test_envs: environments that play them at the same time; 1: they come one after another in one environment; None:
    one for each episode, or with vectorization 'async' num_envs
save_freq: epochs between two saves of the policy; the last update is always saved
checkpoint_freq: epochs between two checkpoints, from which a run that was ended goes on exactly; 0: none but when it is
    stopped
logger_kwargs: arguments of EpochLogger, as output_dir, exp_name, quiet, tensorboard
"""

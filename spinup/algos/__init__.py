"""The algorithms, one to a file, each with its description, ALGORITHM, at the end.

Their arguments are explained in spinup.arguments, and help(spinup.ppo) lists PPO's.
"""

"""Many runs: command-line flags, grids, jobs in processes, resuming."""

"""Many runs: flags, grids, jobs in processes, resuming."""

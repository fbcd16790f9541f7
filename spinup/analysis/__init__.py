"""After the runs: results, statistics, plots, playing saved policies."""

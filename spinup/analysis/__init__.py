"""After training: results, statistics, plots, playing saved policies."""

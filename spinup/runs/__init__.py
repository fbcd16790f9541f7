"""A run and what it leaves behind: folder, table, checkpoints, saved policies."""

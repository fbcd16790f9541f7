"""One run and the files it writes: folder, table, checkpoints, saved policies."""

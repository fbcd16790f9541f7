"""Files, locks and the terminal: what is the same for any program that keeps what it writes safe."""

"""Files, locks and the terminal: nothing here is specific to reinforcement learning."""

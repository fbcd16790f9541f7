"""Problem set 1: formulas to write down as code. Each has a starter file, its solution, its text and its checker."""

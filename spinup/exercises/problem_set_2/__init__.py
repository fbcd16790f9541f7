"""Problem set 2: silent bugs to find. Each has a starter file, its solution, its text and its checker."""

"""Problem set 3: experiments to run and to read. Each has a starter file, its solution, its text and its checker."""

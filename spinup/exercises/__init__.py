"""Exercises with checkers: python -m spinup.exercises list. The docs' page on exercises says how they work."""

"""Devices, MPI, optimizers and captured updates."""

"""Where and how tensors are computed: devices, MPI, optimizers and captured updates."""

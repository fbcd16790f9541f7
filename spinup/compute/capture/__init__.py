"""Replaying updates without running their Python: what CUDA graphs do on a GPU, also on the CPU.

With small networks, a third of an update isn't arithmetic: Python runs their modules, autograd records each operation
and walks back through them, and every result needs memory. A decorated update does all that in its first calls; later
ones only replay the tensor operations.

    @captured()
    def update(batch):
        x, y = batch
        loss = (net(x) - y).square().mean()
        optimizer.minimize(loss)
        return {"Loss": loss}

The rule: **a captured update computes exactly what plain Python would, or it runs as plain Python**, and then one line
on stderr says why. The layers, one per file, are best read in this order:

front       the decorator. torch.compile's Dynamo traces the update's Python, with guards on everything that may change;
            after a change it traces again. Updates that it can't trace (print, .item(), a counter) run as Python
program     one graph of Dynamo's, with its inputs in fixed memory, compared with Python in its first call
record      the graph's first call: records each tensor operation, including those of autograd and the optimizers
memory      plans where each result is written, so that a replay allocates nothing
replay      runs the operations one after another, bit for bit as plain Python does
cuda        on a GPU, a CUDA graph instead of the last three

unguarded   what Dynamo would read without a guard: it is watched, or the update runs as Python
operators   turns parts of an update that aren't torch calls (MPI, Adam's step) into torch operators
reasons     explains why an update runs as Python
"""

from spinup.compute.capture.front import captured

__all__ = ["captured"]

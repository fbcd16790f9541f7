"""Updates without their Python: what CUDA graphs do on a GPU, for the CPU too.

A third of an update of small networks is not arithmetic: Python runs their modules, autograd records each operation and
walks back through them, and every result looks for memory. A decorated update does that in its first calls; later ones
replay the operations alone.

    @captured()
    def update(batch):
        x, y = batch
        loss = (net(x) - y).square().mean()
        optimizer.minimize(loss)
        return {"Loss": loss}

The rule: **a captured update computes what the Python would, or it runs as the Python**, and one line on stderr says
what in it made it so. Four layers do it, each in a file, to be read in this order:

front       the decorator. torch.compile's Dynamo reads the update's Python and guards all of it that can change: after
            a change it reads again, and what it can't read (print, .item(), a counter) is left to Python
record      the graph's first call: each operation on tensors, those of autograd and the optimizers included
memory      where each result is written, so that a replay allocates nothing
replay      the operations one after another; bit for bit what the Python does
cuda        on a GPU, in the place of the last three: a CUDA graph

operators   what an update does inside that is no torch call (MPI, Adam's step), made one
"""

from spinup.compute.capture.front import captured

__all__ = ["captured"]

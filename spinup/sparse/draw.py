"""Pictures of layouts. Needs matplotlib."""

import torch

from spinup.sparse.layout import BlockLayout


def draw(layout, norms=None, ax=None, title: str | None = None):
    """Draw the blocks of a layout, with inputs from top to bottom and outputs from left to right.

    layout: a BlockLayout, or a BlockSparseLinear, whose blocks are shaded by their norms
    norms: a number per block to shade it by, (nnz,); ax: matplotlib Axes; default: those of a new figure

    Returns the Axes.
    """
    from matplotlib import pyplot as plt

    if not isinstance(layout, BlockLayout):
        layout, norms = layout.layout, layout.block_norms() if norms is None else norms
    if ax is None:
        _, ax = plt.subplots(figsize=(4, 4), layout="constrained")
    values = torch.full(layout.shape, torch.nan)
    values[layout.rows, layout.cols] = 1.0 if norms is None else torch.as_tensor(norms).detach().float().cpu()
    image = ax.imshow(values.numpy(), cmap="Greys" if norms is None else "viridis", vmin=0, interpolation="nearest")
    if norms is not None:
        ax.figure.colorbar(image, ax=ax, label="norm of the block", shrink=0.8)
    rows, cols = layout.shape
    default = f"{rows} x {cols} blocks of {layout.block_size}, density {layout.density:.3g}"
    ax.set(xlabel="output block", ylabel="input block", title=default if title is None else title)
    return ax

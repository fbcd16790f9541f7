"""Networks with memory: a GRU or LSTM in front of an MLP, unrolled over steps of many episodes."""

from typing import Literal

import torch
from gymnasium import spaces
from torch import Tensor, nn

from spinup.errors import UserError
from spinup.nets.encoders import make_encoder
from spinup.nets.layers import as_sizes, mlp, orthogonal_

CELLS = {"gru": nn.GRUCell, "lstm": nn.LSTMCell}


class Memory(nn.Module):
    """A GRU (arXiv:1406.1078) or LSTM (doi:10.1162/neco.1997.9.8.1735) of `size` units.

    Its state is one vector of S = `state_size` numbers, 0 at the beginning of an episode. The first `size` of them are
    the cell's output; an LSTM's cell state follows.
    """

    def __init__(self, inputs: int, size: int, cell: Literal["gru", "lstm"] = "gru"):
        super().__init__()
        if cell not in CELLS:
            raise UserError(f"cell is {cell!r:.80}; it must be one of {', '.join(CELLS)}")
        if type(size) is not int or not 1 <= size <= 2**20:
            raise UserError(f"memory_size is {size!r:.80}; it must be a whole number in 1 to {2**20}")
        self.cell = CELLS[cell](inputs, size)
        self.size, self.state_size = size, size * (2 if cell == "lstm" else 1)

    def forward(self, x: Tensor, state: Tensor, first: Tensor | None = None) -> Tensor:
        """The states after one step with inputs x, (..., F), from states (..., S): (..., S).

        With `first`, (T, N), the states after each of T steps with inputs (T, N, F) from states (N, S): (T, N, S).
        Wherever `first` is True, a new episode begins, so the state before that step is replaced by 0.
        """
        if first is None:
            return self.step(x.flatten(0, -2), state.flatten(0, -2)).unflatten(0, x.shape[:-1])
        states = []
        for x_t, first_t in zip(x.unbind(), first.unsqueeze(-1).unbind(), strict=True):
            state = self.step(x_t, state.masked_fill(first_t, 0.0))  # ppo_rnn-1, ppo_rnn-2
            states.append(state)
        return torch.stack(states)

    def step(self, x: Tensor, state: Tensor) -> Tensor:
        """One step, (B, F) and (B, S) -> (B, S)."""
        if self.state_size == self.size:
            return self.cell(x, state)
        return torch.cat(self.cell(x, state.split(self.size, -1)), -1)


class RecurrentNetwork(nn.Module):
    """A memory with an MLP on its output, behind a CNN for images: `network` with memory.

    gain: for orthogonal initial weights, the last layer's gain; None: PyTorch's default
    """

    def __init__(
        self, space: spaces.Box, out: int, memory_size: int, cell, hidden_sizes, activation, linear, gain: float | None
    ):
        super().__init__()
        self.encoder, features = make_encoder(space)
        self.memory = Memory(features, memory_size, cell)
        self.mlp = mlp([memory_size, *as_sizes(hidden_sizes), out], activation, linear)
        if gain is not None:
            orthogonal_(self, 2**0.5)
            orthogonal_(self.mlp[-1], gain)

    def forward(self, o: Tensor, state: Tensor, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Outputs, (..., out), and states, (..., S), after each step, as in `Memory`."""
        states = self.memory(self.encoder(o), state, first)
        return self.mlp(states[..., : self.memory.size]), states

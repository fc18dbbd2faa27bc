"""The two networks of the model: embedding of one scalar, and fitting of the descriptor.

Residual connections as in DeepPot-SE: a layer whose width equals its input's adds the input, one
of twice the width adds the input repeated; `resnet_dt` scales the activation by a trained step.
Array suffixes: p tables (one for each embedding network), k nodes, m features, i/o layer widths.
"""

from __future__ import annotations

import torch
from torch import nn

from ..kernels import EmbeddingLayers, Network, tabulated
from .activations import ACTIVATIONS, VALUES, Jet
from .table import Grid


def random_weights(
    shape: tuple[int, ...], std: float, generator: torch.Generator | None
) -> nn.Parameter:
    """Normally distributed, float64; uninitialised without a generator."""
    if generator is None:  # the values come from a file
        return nn.Parameter(torch.empty(shape, dtype=torch.float64))
    return nn.Parameter(std * torch.randn(shape, generator=generator, dtype=torch.float64))


class Layers(nn.Module):
    """Weights of hidden layers, `copies` independent networks at once.

    Parameters of layer l: `weight_l` (copies, in, out), `bias_l` (copies, 1, out) and, with
    `resnet_dt`, `step_l` (copies, 1, out). Initial values as in DeePMD-kit: weights
    N(0, 1/(in + out)), biases N(0, 1), steps N(0.1, 0.001²); a training gives the embedding
    another first layer (`first_weights`).
    """

    def __init__(
        self,
        copies: int,
        n_in: int,
        widths: list[int],
        activation: str,
        resnet_dt: bool,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        self.copies = copies
        self.widths = widths
        self.activation = activation
        self.resnet_dt = resnet_dt
        for layer, n_out in enumerate(widths):
            weight = random_weights((copies, n_in, n_out), (n_in + n_out) ** -0.5, generator)
            self.register_parameter(f"weight_{layer}", weight)
            self.register_parameter(
                f"bias_{layer}", random_weights((copies, 1, n_out), 1.0, generator)
            )
            if resnet_dt and n_out in (n_in, 2 * n_in):
                step = random_weights((copies, 1, n_out), 1e-3, generator)
                if generator is not None:
                    step.data += 0.1
                self.register_parameter(f"step_{layer}", step)
            n_in = n_out

    def parameters_of(
        self, layer: int, dtype: torch.dtype | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Weight, bias and step (None without) of one layer, in `dtype` or their own."""
        weight, bias = getattr(self, f"weight_{layer}"), getattr(self, f"bias_{layer}")
        step = self._parameters.get(f"step_{layer}")
        return weight.to(dtype), bias.to(dtype), None if step is None else step.to(dtype)

    def outputs(self, x: torch.Tensor) -> torch.Tensor:
        """(n, width) of the last layer of the first network, from its inputs (n, n_in)."""
        for layer, n_out in enumerate(self.widths):
            weight, bias, step = self.parameters_of(layer)
            f = VALUES[self.activation](torch.addmm(bias[0], x, weight[0]))
            if step is not None:
                f = step[0] * f
            old = self.residual(x, n_out)
            x = f if old is None else f + old
        return x

    @staticmethod
    def residual(x: torch.Tensor, n_out: int) -> torch.Tensor | None:
        """The input as it is added to an output of width `n_out`, or None."""
        n_in = x.shape[-1]
        if n_out == n_in:
            return x
        return torch.cat([x, x], dim=-1) if n_out == 2 * n_in else None


class Embedding(Layers):
    """G(s): scalar → features, one network for each table."""

    of_distance = False

    def layers(self) -> EmbeddingLayers:
        """As the kernels take them."""
        each = [self.parameters_of(layer) for layer in range(len(self.widths))]
        weights, biases, steps = (list(x) for x in zip(*each, strict=True))
        return EmbeddingLayers(weights, biases, steps, self.activation)

    def table(self, grid: Grid, dtype: torch.dtype) -> torch.Tensor:
        """Coefficients of the quintics on `grid`, differentiable in the parameters."""
        n_nodes = grid.n_intervals + 1
        return tabulated(self.layers(), grid.start, grid.spacing, n_nodes, dtype)

    def jet(self, s_k: torch.Tensor) -> Jet:
        """Value, first and second derivative at `s_k` (n_nodes,), each (n_tables, n_nodes, M).

        One forward-mode recursion in float64, differentiable in the parameters.
        """
        y0 = s_k.to(torch.float64).expand(self.copies, -1)[:, :, None]
        y1, y2 = torch.ones_like(y0), torch.zeros_like(y0)
        activation = ACTIVATIONS[self.activation]
        for layer, n_out in enumerate(self.widths):
            weight, bias, step = self.parameters_of(layer, torch.float64)
            z0, z1, z2 = y0 @ weight + bias, y1 @ weight, y2 @ weight
            f, d1, d2 = activation(z0)
            new = [f, d1 * z1, d2 * z1 * z1 + d1 * z2]
            if step is not None:
                new = [step * x for x in new]
            old = [self.residual(y, n_out) for y in (y0, y1, y2)]
            y0, y1, y2 = (n if o is None else n + o for n, o in zip(new, old, strict=True))
        return y0, y1, y2

    def values(self, table_e: torch.Tensor, s_e: torch.Tensor) -> torch.Tensor:
        """(n_edges, M) float64: the networks themselves at each edge's s, without a table."""
        out = torch.zeros(len(s_e), self.widths[-1], dtype=torch.float64, device=s_e.device)
        for p in range(self.copies):
            mine = (table_e == p).nonzero()[:, 0]
            y = s_e[mine].double()[:, None]
            for layer, n_out in enumerate(self.widths):
                weight, bias, step = self.parameters_of(layer, torch.float64)
                f = VALUES[self.activation](y @ weight[p] + bias[p])
                old = self.residual(y, n_out)
                y = (f if step is None else step[p] * f) + (0.0 if old is None else old)
            out = out.index_put((mine,), y)
        return out


class Fitting(Layers):
    """E(D): descriptor → atomic energy, for one element."""

    def __init__(
        self,
        n_in: int,
        widths: list[int],
        activation: str,
        resnet_dt: bool,
        generator: torch.Generator | None,
        n_told: int = 0,
    ) -> None:
        """`n_told`: frame parameters, further inputs of the first layer; `at` fixes them."""
        super().__init__(1, n_in, widths, activation, resnet_dt, generator)
        self.weight_fparam: nn.Parameter | None = None
        """(n_told, width of the first layer), or None."""
        if n_told:
            n_out = widths[0]
            std = (n_in + n_told + n_out) ** -0.5
            self.weight_fparam = random_weights((n_told, n_out), std, generator)
            if generator is not None:  # drawn as of n_in inputs alone
                self.get_parameter("weight_0").data *= std * (n_in + n_out) ** 0.5
        self.weight_out = random_weights((widths[-1],), (widths[-1] + 1) ** -0.5, generator)
        self.bias_out = random_weights((1,), 0.0, generator)
        self.pace = 1.0
        """How much faster than all others the weights of the first layer are trained."""

    def forward(self, descriptor: torch.Tensor) -> torch.Tensor:
        """(n,) eV in the parameters' precision, from descriptors (n, n_in)."""
        return self.hidden(descriptor) @ self.weight_out + self.bias_out

    def hidden(self, descriptor: torch.Tensor) -> torch.Tensor:
        """(n, width) of the last hidden layer, in which the energy is linear."""
        return self.outputs(descriptor)

    def as_network(self) -> Network:
        """The same for the compiled kernels, differentiable in the parameters."""
        layers = [self.parameters_of(layer) for layer in range(len(self.widths))]
        return Network(
            weights=[weight.squeeze(0) for weight, _, _ in layers],
            biases=[bias.view(-1) for _, bias, _ in layers],
            steps=[None if step is None else step.view(-1) for _, _, step in layers],
            weight_out=self.weight_out,
            bias_out=self.bias_out,
        )

    def at(self, inputs: torch.Tensor) -> Shifted:
        """The same at frame parameters `inputs` (n_told,), as they are normalised: a view, which is
        differentiable in the weights of this one."""
        assert self.weight_fparam is not None
        return Shifted(self, inputs.to(self.weight_fparam.dtype) @ self.weight_fparam)


class Shifted(Fitting):
    """Another fitting network with a larger bias of the first layer; no parameters of its own."""

    def __init__(self, network: Fitting, shift: torch.Tensor | None) -> None:
        """`shift` (width of the first layer,): what its bias is more than that of `network`."""
        nn.Module.__init__(self)
        self._network, self._shift = (network,), shift  # in a tuple: not a part
        self.copies, self.widths = 1, network.widths
        self.activation, self.resnet_dt = network.activation, network.resnet_dt

    def parameters_of(
        self, layer: int, dtype: torch.dtype | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        weight, bias, step = self._network[0].parameters_of(layer, dtype)
        if layer == 0 and self._shift is not None:
            bias = bias + self._shift.to(bias.dtype)
        return weight, bias, step

    @property
    def weight_out(self) -> nn.Parameter:  # type: ignore[override]
        return self._network[0].weight_out

    @property
    def bias_out(self) -> nn.Parameter:  # type: ignore[override]
        return self._network[0].bias_out


def generator_of(
    seed: int | None, own: int | list[int] | None, stream: int
) -> torch.Generator | None:
    """Random numbers of one network: its own seed if the input gives one."""
    if seed is None:
        return None
    first = own[0] if isinstance(own, list) else own
    return torch.Generator().manual_seed(seed * 1000 + stream if first is None else first)

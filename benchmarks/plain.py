"""One variational JKO step on Ornstein-Uhlenbeck the way one writes it first: nn.Module, autograd, torch.optim.Adam.

The yardstick for `gwfbench/training/minmax.py`: same networks, batches, losses and numbers of steps, eager, one thread.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def critic(d: int, width: int = 64) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(d, width), nn.PReLU(), nn.Linear(width, width), nn.PReLU(), nn.Linear(width, 1), nn.PReLU()
    )


class Residual(nn.Module):
    def __init__(self, d: int, width: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(d, width), nn.Linear(width, width), nn.Linear(width, d))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class PlainStep:
    """The step from N(0, I) towards N(b, A^-1) with a pool of particles; call it to run `iterations` of the loop."""

    def __init__(self, d: int, a_matrix: Tensor, b: Tensor, pool: int, batch: int = 1024, lr: float = 5e-3):
        self.d, self.a_matrix, self.b, self.batch, self.a = d, a_matrix, b, batch, 0.05
        self.map, self.h = Residual(d), critic(d)
        self.map_optimizer = torch.optim.Adam(self.map.parameters(), lr=lr)
        self.h_optimizer = torch.optim.Adam(self.h.parameters(), lr=lr)
        self.generator = torch.Generator().manual_seed(0)
        self.pool = torch.randn(pool, d, generator=self.generator)

    def __call__(self, iterations: int, critic_steps: int = 3) -> None:
        mean = self.pool.mean(0)
        covariance = torch.cov(self.pool.T).reshape(self.d, self.d)
        root, precision = torch.linalg.cholesky(covariance), torch.linalg.inv(covariance)
        order = torch.randperm(len(self.pool), generator=self.generator)
        for j in range(iterations):
            start = j * self.batch % (len(self.pool) - self.batch + 1)
            x = self.pool[order[start : start + self.batch]]
            for _ in range(critic_steps):
                z = mean + torch.randn(self.batch, self.d, generator=self.generator) @ root.T
                with torch.no_grad():
                    y = self.map(x)
                loss = (self.h(z).squeeze(-1) ** 2).mean() - (self.h(y).squeeze(-1) ** 2).clamp_min(1e-6).log().mean()
                self.h_optimizer.zero_grad()
                loss.backward()
                self.h_optimizer.step()
            y = self.map(x)
            centered, shifted = y - mean, y - self.b
            log_mu = -0.5 * ((centered @ precision) * centered).sum(-1)
            log_q = -0.5 * ((shifted @ self.a_matrix) * shifted).sum(-1)
            log_h = (self.h(y).squeeze(-1) ** 2).clamp_min(1e-6).log()
            loss = ((x - y).square().sum(-1) / (2 * self.a) + log_h + log_mu - log_q).mean()
            self.map_optimizer.zero_grad()
            loss.backward()
            self.map_optimizer.step()
        with torch.no_grad():
            self.pool = self.map(self.pool)


def critic_products(d: int, width: int = 64, batch: int = 1024) -> Callable[[], None]:
    """The eight matrix products of one critic update, forward and backward, z and T(x) in one array; nothing else."""
    points = 2 * batch
    x, u, v, out = (torch.ones(points, columns) for columns in (d, width, width, 1))
    weights = torch.ones(d, width), torch.ones(width, width), torch.ones(width, 1)
    slopes = [torch.empty_like(w) for w in weights]
    slope = torch.ones(points, 1)
    du, dv = torch.empty(points, width), torch.empty(points, width)

    def products() -> None:
        torch.mm(x, weights[0], out=u)
        torch.mm(u, weights[1], out=v)
        torch.mm(v, weights[2], out=out)
        torch.mm(v.T, slope, out=slopes[2])
        torch.mm(slope, weights[2].T, out=dv)
        torch.mm(u.T, dv, out=slopes[1])
        torch.mm(dv, weights[1].T, out=du)
        torch.mm(x.T, du, out=slopes[0])

    return products

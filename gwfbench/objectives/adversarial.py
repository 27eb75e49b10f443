"""Variational objectives of adversarial flows: what a critic D descends, and what the generator of a law q descends.

p is the data's law, r = q/p, D = -h for the h of objectives/variational.py; sp is softplus. Each row is a sup over
critics, F = sup_D {constant - critic loss}, and its generator follows the velocity w(r) grad log(p/q) at the best D
(Caucheteux, Bonet, Korba 2026, and their code; Choi et al. 2024 for the last two):

    objective     critic loss                              generator loss        best D        F               w
    kl            E_q D + E_p e^{-D-1}                     -E_q D                -1 - log r    KL(q|p)         1
    kl_centered   E_q D + E_p e^{-D} - 1                   -E_q D                -log r        KL(q|p)         1
    kl_dv         E_q D + log E_p e^{-D}                   -E_q D                -log r + any  KL(q|p)         1
    chi2          E_q D + E_p D^2/4 - E_p D                -E_q D                2(1 - r)      chi2(q|p)       2r
    chi2_tight    -(E_q D - E_p D)^2 / Var_p D             its negative          a + b r       chi2(q|p)       2r
    js            E_q sp(D) + E_p sp(-D)                   -E_q sp(D)            -log r        2 JS            1/(1+r)
    shannon       the same                                 E_q sp(-D)            -log r        2 JS            r/(1+r)
    hinge         E_q (1 + D)_+ + E_p (1 - D)_+            -E_q D                sign(1 - r)   2 TV
    wasserstein1  E_q D - E_p D                            -E_q D                a potential   W1, if Lip D <= 1
    chi           E_q D + E_p phi*(-D)                     -E_q D                2(1 - r)      chi2(q|p)       2r
    softplus      E_q D + E_p [2 sp(-D) - 2 log 2]         -E_q D                log(2/r - 1)  r <= 2          2/(2-r)

`js` is the true Jensen-Shannon flow. `shannon`, which its authors (and S-JKO's `train_JSD.py`) use under that name, is
the non-saturating generator of GANs: its critic's value is JS, but its flow is that of KL((p+q)/2 | p), VGrow's logD.
`chi` cuts chi2's conjugate where it would rise again, phi*(x) = y^2/4 + y, y = max(x, -2). `chi2_tight` sees the critic
behind a softplus, as in their code; its generator holds the moments of D on p fixed, and so need not know them.

`reversed_` has the laws swapped, F(p|q): the critic's arguments change places, and the generator descends all of the
terms that have q in them. For chi2_tight that is the variance too: their code holds it fixed, which makes it the flow
of 2 KL(p|q).

Objectives of embeddings, whose D has many outputs, and their kernels are in objectives/embedding.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from gwfbench.errors import require

Loss = Callable[[Tensor, Tensor], Tensor]  # D at real and at generated points, (S, n) or (S, n, outputs) each -> (S,)


def first_output(raw: Tensor, z: Tensor) -> Tensor:
    """The critic's single output, (S, n, 1) -> (S, n)."""
    return raw[..., 0]


@dataclass(frozen=True)
class Objective:
    """One row of the table.

    Args:
        critic_loss: what the critic descends.
        generator_loss: what the generator descends; D at real points is cut from the gradient there.
        constant: F is its difference to the least critic loss.
        head: D from the network's output (S, n, outputs) and the latent points, (S, n, latent).
        reals: whether the generator's loss depends on D at real points.
        outputs: of the network: one, an embedding's, or as many as there are latent coordinates.
        scaled: both losses are divided by 1 + 10 E_p |grad D|^2 (Arbel et al. 2018).
    """

    critic_loss: Loss
    generator_loss: Loss
    constant: float = 0.0
    head: Callable[[Tensor, Tensor], Tensor] = first_output
    reals: bool = False
    outputs: Literal["one", "embedding", "latent"] = "one"
    scaled: bool = False

    def value(self, real: Tensor, fake: Tensor) -> Tensor:
        """The variational value, at most F up to sampling error; (S,)."""
        return self.constant - self.critic_loss(real, fake)


def _down(real: Tensor, fake: Tensor) -> Tensor:
    return -fake.mean(1)


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.logsumexp(1) - math.log(x.shape[1])


def _truncated(x: Tensor) -> Tensor:
    y = x.clamp_min(-2.0)
    return y.square() / 4 + y


def _ratio(real: Tensor, fake: Tensor) -> Tensor:
    """(E_q D - E_p D)^2 / Var_p D."""
    return (fake.mean(1) - real.mean(1)).square() / real.var(1, correction=0).clamp_min(LEAST)


LEAST = 1e-4  # of a variance that divides, as in the authors' code
LOG4 = math.log(4.0)


def _softplus_head(raw: Tensor, z: Tensor) -> Tensor:
    return F.softplus(raw[..., 0])


def _logistic(real: Tensor, fake: Tensor) -> Tensor:
    return F.softplus(fake).mean(1) + F.softplus(-real).mean(1)


SCALAR: dict[str, Objective] = {
    "kl": Objective(lambda r, f: f.mean(1) + (-r - 1).exp().mean(1), _down),
    "kl_centered": Objective(lambda r, f: f.mean(1) + (-r).exp().mean(1) - 1, _down),
    "kl_dv": Objective(lambda r, f: f.mean(1) + _log_mean_exp(-r), _down),
    "chi2": Objective(lambda r, f: f.mean(1) + r.square().mean(1) / 4 - r.mean(1), _down),
    "chi2_tight": Objective(lambda r, f: -_ratio(r, f), _ratio, head=_softplus_head, reals=True),
    "js": Objective(_logistic, lambda r, f: -F.softplus(f).mean(1), LOG4),
    "shannon": Objective(_logistic, lambda r, f: F.softplus(-f).mean(1), LOG4),
    "hinge": Objective(lambda r, f: F.relu(1 + f).mean(1) + F.relu(1 - r).mean(1), _down, 2.0),
    "wasserstein1": Objective(lambda r, f: f.mean(1) - r.mean(1), _down),
    "chi": Objective(lambda r, f: f.mean(1) + _truncated(-r).mean(1), _down),
    "softplus": Objective(lambda r, f: f.mean(1) + 2 * F.softplus(-r).mean(1) - LOG4, _down),
}

_SWAPPED: dict[str, Loss] = {  # the terms of F(p|q) that have q in them
    "kl": lambda r, f: -(-f - 1).exp().mean(1),
    "kl_centered": lambda r, f: 1 - (-f).exp().mean(1),
    "kl_dv": lambda r, f: -_log_mean_exp(-f),
    "chi2": lambda r, f: f.mean(1) - f.square().mean(1) / 4,
    "chi2_tight": lambda r, f: _ratio(f, r),
}


def reversed_(name: str) -> Objective:
    """The objective of F(p|q) in place of F(q|p).

    Raises:
        UserError: that divergence has no other direction, or its flow has no name.
    """
    known = ", ".join(_SWAPPED)
    require(name in _SWAPPED, f"reverse=true,divergence={name}", f"one of {known}", "leave reverse out")
    forward = SCALAR[name]
    return replace(forward, critic_loss=lambda r, f: forward.critic_loss(f, r), generator_loss=_SWAPPED[name])

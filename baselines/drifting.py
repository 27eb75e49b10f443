"""Drifting: mean shifts move a generator, or particles, towards the data and away from their own points.

    x <- x + h V(x; q, p)      generator: one Adam step on |G(z) - stop(G(z) + h V)|^2      (Deng et al. 2026)

The field V is drifting's own in one of three versions: that of the paper's text (`equation4`), of its appendix
(`algorithm2`) or of its code (`official`). Or it is one of the Wasserstein gradient flows with which Gretton et al.
2026 compare it. gwfbench/velocity/drift.py has the formulas and sources, except for these:

    sliced      half SW_2^2 on random lines (velocity/sliced.py)
    sinkhorn    T_qp - T_qq, entropic barycentric maps (velocity/sinkhorn.py)
    critic      grad log(p/q) by a logistic critic that is trained alongside (velocity/ratio.py)

With `sinkhorn`, each half of a generator's points takes the other half as its negatives, so that no point is its own
negative (two batches, as in W-Flow, Han et al. 2026). Particles are their own negatives, for two reasons. With fixed
halves the halves would part: the difference of their means doubles with each step of 1. With new halves at each step, a
lone outlier, matched to the edge of both p and q', would feel nothing.

On images a generator may drift in the feature space of an encoder, as in the paper: `features=encoder` takes the field
of each of its stages, and the loss goes back through it into the generator (velocity/features.py).

Generators that draw averages of images come from a perceptron, and from a temperature that is too high. On digits, with
400 steps and one seed, the FID by the task's classifier (exact draws: 0.42) is 2.8 for a perceptron (recall 0.34), 1.7
for dcgan at temperature 0.2, and 1.0 at 0.05. With the encoder it is 0.8, a difference within noise (standard error
0.16), at several times the cost of a step. So pixels are the default.

Temperatures are in units of the mean distance between points and targets (the paper's A.6), or of `unit`. The authors'
toy notebook is `drifting:temperature=0.05,unit=1,points=2048,batch=2048,steps=2000`. The default has fewer points and
steps, for a CPU; network and learning rate are the notebook's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.fields import Count, Positive, at_least, check_fields, refuse
from gwfbench.info import Encoder, Info, Initial, TargetSamples
from gwfbench.nn.networks import Kind
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity import drift
from gwfbench.velocity.features import Maps, normalised
from gwfbench.velocity.movers import Carrier, Memory, Network, Velocity, carry
from gwfbench.velocity.pairs import Kernel, typical_distance
from gwfbench.velocity.ratio import Critic
from gwfbench.velocity.sinkhorn import sinkhorn
from gwfbench.velocity.sliced import directions, sliced

FREE = {"equation4", "algorithm2", "mmd"}  # fields with a choice of kernel
BARE = {"sliced", "critic"}  # no temperature
IMAGES = 0.05  # temperature for images, with these fields: 0.2 averages over the batch, 0.02 collapses
SHARP = {"equation4", "algorithm2", "mmd", "parzen_kl"}
TOLERANCE = 0.05  # of Sinkhorn's column sums, about the sampling error of 512 points
STEPS = {"algorithm2": 2.0, "official": 0.01, "critic": 0.1, "sliced": 2.0}


@dataclass(frozen=True)
class Drifting:
    field: Literal[
        "equation4",
        "algorithm2",
        "official",
        "parzen_kl",
        "sinkhorn_proxy",
        "sinkhorn",
        "mmd",
        "sliced",
        "critic",
    ] = "algorithm2"
    "velocity field V"
    carrier: Carrier = "generator"
    "what the velocity field moves: particles, or the law of a generator"
    features: Literal["pixels", "encoder"] = "pixels"
    "space in which points are compared: their own, or that of the task's encoder (carrier=generator only)"
    kernel: Literal["own", "laplace", "gaussian"] = "own"
    "kernel of equation4, algorithm2 and mmd; own: laplace; the other fields have a fixed kernel or none"
    temperature: str | None = None
    """bandwidth h of the kernel, or blur of sinkhorn; official and features=encoder sum over several, such as the
    paper's 0.02+0.05+0.2; default: 0.2; 0.05 for images (except for sinkhorn and sinkhorn_proxy); the paper's for
    official"""
    unit: Positive | None = None
    """length that temperatures are multiples of (not for official); default: mean distance of a step's points to its
    targets"""
    step: Positive | None = None
    """step size h; default: 2 for sliced and for algorithm2 (whose masses multiply to 1/2), 0.01 for official,
    0.1 for critic, else 1"""
    steps: Count | None = None
    "number of steps; default: 300 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Annotated[int, at_least(2)] | None = None
    "number of particles, or of generated points per step; default: 128 for a generator of images, else 1024"
    batch: Count | None = None
    "number of fresh target points per step; default: 256 for a generator of images, else 1024"
    lines: Count = 64
    "number of random directions per step (sliced only)"
    network: Kind = "auto"
    "architecture of the generator"
    latent: Count | None = None
    "dimension of the generator's noise; default: 128 for images, else 32 or the dimension of a point, the larger one"
    width: Count | None = None
    "width of the generator's layers; default: 256 for an mlp, else the network's"
    depth: Count | None = None
    "number of the generator's layers; default: 3 for an mlp, else the network's"
    lr: Positive = 1e-3
    "learning rate of the generator's Adam"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    shapes: ClassVar[Literal["vectors", "any"]] = "any"
    optional: ClassVar[frozenset[type[Info]]] = frozenset({Encoder})
    version: ClassVar[int] = 3
    smoke: ClassVar[Mapping[str, object]] = {"steps": 2, "points": 64, "batch": 64, "width": 16}
    reference: ClassVar[str] = """@misc{deng2026generative,
  title={Generative Modeling via Drifting}, author={Deng, Mingyang and Li, He and Li, Tianhong and Du, Yilun and He,
  Kaiming}, year={2026}, eprint={2602.04770}}
@misc{gretton2026wasserstein, title={On the {W}asserstein Gradient Flow Interpretation of Drifting Models},
  author={Gretton, Arthur and Wenliang, Li Kevin and Galashov, Alexandre and Thornton, James and De Bortoli, Valentin
  and Doucet, Arnaud}, year={2026}, eprint={2605.05118}}
@misc{han2026wflow, title={{W}-Flow}, author={Han, Jiaqi and others}, year={2026}, eprint={2605.11755}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("kernel", "field"),
            when=self.kernel != "own" and self.field not in FREE,
            expected=f"a kernel only with field={', '.join(sorted(FREE))}",
        )
        for name, without in (("temperature", BARE), ("unit", BARE | {"official"})):
            refuse(
                self,
                *(name, "field"),
                when=getattr(self, name) is not None and self.field in without,
                expected=f"no {name} with field={', '.join(sorted(without))}",
            )
        refuse(
            self,
            *("field", "temperature"),
            when=len(self.temperatures) > 1 and self.field != "official" and self.features != "encoder",
            expected="one temperature; only field=official and features=encoder sum over several",
            fix=f"write, for example, drifting:field={self.field},temperature=0.05",
        )
        encoder = self.features == "encoder"
        refuse(
            self, "features", "carrier", when=encoder and self.carrier == "particles",
            expected="a generator: its loss goes back through the encoder",
        )  # fmt: skip
        refuse(
            self, "features", "field", when=encoder and self.field == "critic",
            expected="a field of distances or of lines: a critic learns features of its own",
        )  # fmt: skip
        refuse(
            self, "features", "unit", when=encoder and self.unit is not None,
            expected="no unit: lengths of each stage are in units of its mean distance",
        )  # fmt: skip

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The positive numbers that `temperature` says."""
        if self.temperature is None:
            return (0.02, 0.05, 0.2) if self.field == "official" else (0.2,)
        try:
            values = tuple(float(part) for part in self.temperature.split("+"))
        except ValueError:
            values = (0.0,)
        if not all(0 < value < float("inf") for value in values):
            raise UserError(
                f"drifting:temperature={self.temperature}",
                "positive numbers with + between them",
                "write, for example, drifting:field=official,temperature=0.02+0.05+0.2",
            )
        return values

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return self.resume(problem, budget, rng, None)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State | None) -> Iterator[Marginal]:
        maps = self._maps(problem)
        velocity = self._velocity(math.prod(problem.shape), len(problem.shape) > 1, rng, maps is not None)
        return carry(
            self,
            problem,
            rng,
            velocity,
            step=STEPS.get(self.field, 1.0) if self.step is None else self.step,
            steps=300,
            network=Network(self.latent, self.width, self.depth, self.lr, self.network, maps),
            memory=Memory(state, velocity if isinstance(velocity, Critic) else None),
        )

    def _maps(self, problem: Problem) -> Maps | None:
        """The maps of the encoder, if points are compared in its features.

        Raises:
            UserError: the task has none.
        """
        if self.features == "pixels":
            return None
        refuse(
            self, "features", when=not any(isinstance(info, Encoder) for info in problem.infos),
            expected="a task with an encoder, such as images:data=digits",
            fix="leave features out, or write features=pixels",
        )  # fmt: skip
        return problem[Encoder].maps

    @property
    def _sharp(self) -> bool:
        """Whether the temperature is the default one for images."""
        return self.temperature is None and self.field in SHARP

    def _length(self, temperature: float, x: Tensor, y: Tensor) -> Tensor:
        """h of the kernel, (S, 1, 1)."""
        unit = typical_distance(x, y) if self.unit is None else x.new_full((len(x), 1, 1), self.unit)
        return temperature * unit

    def _velocity(self, d: int, images: bool, rng: Streams, encoded: bool) -> Velocity:
        temperatures = (IMAGES,) if images and self._sharp else self.temperatures
        if not encoded or self.field == "official":  # which normalises each temperature's itself
            return self._at(temperatures[0], d, rng)
        return normalised([self._at(temperature, d, rng) for temperature in temperatures])

    def _at(self, temperature: float, d: int, rng: Streams) -> Velocity:
        """The field of one temperature."""
        kernel: Kernel = "laplace" if self.kernel == "own" else self.kernel
        h = partial(self._length, temperature)
        match self.field:
            case "equation4":
                return lambda x, y, _noise: drift.equation4(x, y, h(x, y), kernel)
            case "algorithm2":
                return lambda x, y, _noise: drift.algorithm2(x, y, h(x, y), kernel)
            case "mmd":
                return lambda x, y, _noise: drift.mmd(x, y, h(x, y), kernel)
            case "official":
                return lambda x, y, _noise: drift.official(x, y, self.temperatures)
            case "sinkhorn_proxy":
                return lambda x, y, _noise: drift.sinkhorn_proxy(x, y, h(x, y))
            case "parzen_kl":
                return lambda x, y, noise: drift.parzen_kl(x, y, h(x, y), noise)
            case "sinkhorn":
                if self.carrier == "particles":
                    return lambda x, y, _noise: sinkhorn(x, y, blur=h(x, y)[:, 0, 0], tolerance=TOLERANCE)
                return lambda x, y, _noise: _two_batches(x, y, h(x, y))
            case "sliced":
                return lambda x, y, noise: sliced(x, y, directions(noise, self.lines, x.shape[2]))
            case "critic":
                return Critic(d, rng.fork("critic"))


def _two_batches(x: Tensor, y: Tensor, blur: Tensor) -> Tensor:
    """Sinkhorn velocity where each half of the points has the other as its negatives."""
    one, two = x.tensor_split(2, 1)
    return torch.cat(
        [sinkhorn(a, y, b, blur=blur[:, 0, 0], tolerance=TOLERANCE) for a, b in ((one, two), (two, one))], 1
    )

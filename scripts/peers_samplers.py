"""Samplers that know the density: the same target, the same number of gradients."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peers_case import Case, Found, Sides, built
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.datasets.tables import whole
from gwfbench.info import Initial, LogDensity
from gwfbench.metrics.bias import b2_mean
from gwfbench.metrics.kernel import energy_distance
from gwfbench.plugins import registry
from gwfbench.protocol import Drawn, Instance, Judged, Problem, Pushed
from gwfbench.rng import Streams

PILOT = 1000  # of a seed of a first run whose gradients are counted
START = 0.1  # step of the short trajectories, in units of the prior's deviation


def in_jax(task: str) -> Callable[[Any], Any]:
    """The log-density of `logistic` or `funnel`, of one point, for JAX."""
    import jax
    import jax.numpy as jnp

    if task == "funnel":

        def funnel(x: Any) -> Any:
            square = jnp.sum((jnp.exp(-x[0] / 2) * x[1:]) ** 2)
            constant = math.log(3) + 0.5 * len(x) * math.log(2 * math.pi)
            return -0.5 * ((x[0] / 3) ** 2 + (len(x) - 1) * x[0] + square) - constant

        return funnel
    rows = jnp.asarray(whole("ionosphere"), jnp.float32)
    constant = 0.5 * rows.shape[1] * math.log(2 * math.pi)

    def logistic(x: Any) -> Any:
        return jax.nn.log_sigmoid(rows @ x).sum() - 0.5 * jnp.sum(x**2) - constant

    return logistic


def _normal(x: Any) -> Any:
    """log N(x; 0, I) for JAX: P_0 of both targets."""
    import jax.numpy as jnp

    return -0.5 * jnp.sum(x**2) - 0.5 * len(x) * math.log(2 * math.pi)


def counted(problem: Problem) -> tuple[Problem, Callable[[], int]]:
    """The problem whose scores are counted, and how many points they were asked at."""
    given, count = problem[LogDensity], [0]

    def score(x: Tensor) -> Tensor:
        count[0] += x.shape[1]
        return given.score(x)

    infos = tuple(replace(info, score=score) if info is given else info for info in problem.infos)
    return replace(problem, infos=infos), lambda: count[0]


def judged(instance: Instance, points: Tensor, *metrics: Any) -> list[float]:
    """Values of metrics at points (n, d)."""
    seen = Judged(points[None].float(), None, instance.truth, 0, Streams((7,)).fork("judge"))
    return [float(metric.evaluate(seen).value) for metric in metrics]


def _problem(seed: int) -> tuple[Problem, Streams]:
    instance, rng = built("logistic", seed)
    return instance.problem, rng


def thinned(x: Tensor, n: int) -> Tensor:
    return x[torch.linspace(0, len(x) - 1, n).round().long()]


# ------------------------------------------------------------------------------------------------------------- NUTS


def chains(points: int, many: int, warmup: int, block: int) -> Callable[[int], Sides]:
    """Ours: a fresh chain a point. Theirs: `many` chains after one adaptation, as their guide has it."""
    import blackjax
    import jax
    import jax.numpy as jnp

    log_density, method = in_jax("logistic"), registry.parse("method", "nuts")
    adapt = blackjax.window_adaptation(blackjax.nuts, log_density)
    tune = jax.jit(lambda key, at: adapt.run(key, at, num_steps=warmup))

    @jax.jit
    def go_on(key: Any, state: Any, parameters: Any) -> Any:
        kernel = blackjax.nuts(log_density, **parameters).step

        def one(states: Any, key: Any) -> Any:
            states, info = jax.vmap(kernel)(jax.random.split(key, many), states)
            return states, (states.position, info.num_integration_steps.sum())

        return jax.lax.scan(one, state, jax.random.split(key, block))

    def ours(problem: Problem, rng: Streams) -> tuple[Tensor, int]:
        problem, count = counted(problem)
        x = problem[Initial].draw(points, rng.fork("judged"))
        for k, law in enumerate(method.fit(problem, Budget(), rng)):
            assert isinstance(law, Pushed)
            x = law.push(x, rng.fork(f"push/{k}"))
        return x[0], count()

    goal = ours(*_problem(PILOT))[1]  # as many as a run of ours takes

    def at(seed: int) -> Sides:
        instance, rng = built("logistic", seed)
        start = jnp.asarray(instance.problem[Initial].draw(many, rng)[0].numpy())

        def theirs() -> tuple[Tensor, int]:
            key, first = jax.random.split(jax.random.key(seed))
            (_, parameters), info = tune(first, start[0])
            calls, parts = int(info.info.num_integration_steps.sum()), []
            state = jax.vmap(blackjax.nuts(log_density, **parameters).init)(start)
            while calls < goal:
                key, now = jax.random.split(key)
                state, (x, steps) = go_on(now, state, parameters)
                calls += int(steps.sum())
                parts.append(x)
            found = jnp.concatenate(parts[len(parts) > 4 :]).reshape(-1, start.shape[1])  # the first block forgets P_0
            return torch.from_numpy(jax.device_get(found).copy()), calls

        def judge(theirs: Any, ours: Any) -> dict[str, Found]:
            draw = instance.truth.draw
            assert draw is not None
            fresh = draw(0, points, rng.fork("exact"))[0]
            a, b, c = (judged(instance, x, energy_distance)[0] for x in (thinned(theirs[0], points), ours[0], fresh))
            p, q, r = (judged(instance, x, b2_mean)[0] for x in (theirs[0], ours[0], fresh))
            return {
                f"energy distance of {points} points": Found("error", a, b, c),
                "squared bias of moments, all points": Found("error", p, q, r),
            }

        return Sides(
            theirs, lambda: ours(instance.problem, rng), judge, lambda them, us: (float(them[1]), float(us[1]))
        )

    return at


def alone(how: str, trajectories: int) -> Callable[[int], Sides]:
    """One chain of fixed step: what a gradient costs where nothing is done at once."""
    module = sys.modules[type(registry.parse("method", "nuts")).__module__]

    def at(seed: int) -> Sides:
        instance, rng = built("logistic", seed)
        problem, count = counted(instance.problem)
        target, x0 = problem[LogDensity], problem[Initial].draw(1, rng)
        h = torch.full((1, 1, x0.shape[2]), START)

        def ours() -> int:
            before = count()
            place = module.Place.of(target, x0)
            with torch.no_grad():
                for k in range(trajectories):
                    place, _ = module.trajectory(target, place, h, 8, rng.fork(f"{k}"))
            return count() - before

        run = _blackjax_chain(x0, trajectories) if how == "blackjax" else _pyro_chain(x0, trajectories)
        return Sides(lambda: run(seed), ours, lambda *_: {}, lambda them, us: (float(them), float(us)))

    return at


_CHAINS: dict[int, Any] = {}  # compiled, by their number of trajectories


def _blackjax_chain(x0: Tensor, trajectories: int) -> Callable[[int], int]:
    import blackjax
    import jax
    import jax.numpy as jnp

    if trajectories not in _CHAINS:
        kernel = blackjax.nuts(in_jax("logistic"), step_size=START, inverse_mass_matrix=jnp.ones(x0.shape[2]))

        def one(state: Any, key: Any) -> Any:
            state, info = kernel.step(key, state)
            return state, info.num_integration_steps

        def chain(key: Any, x: Any) -> Any:
            return jax.lax.scan(one, kernel.init(x), jax.random.split(key, trajectories))[1].sum()

        _CHAINS[trajectories] = jax.jit(chain)
    start = jnp.asarray(x0[0, 0].numpy())
    return lambda seed: int(_CHAINS[trajectories](jax.random.key(seed), start))


def _pyro_chain(x0: Tensor, trajectories: int) -> Callable[[int], int]:
    import pyro
    from pyro.infer import MCMC, NUTS

    rows, count = torch.from_numpy(whole("ionosphere")).float(), [0]

    def potential(values: dict[str, Tensor]) -> Tensor:
        count[0] += 1
        x = values["x"]
        return 0.5 * x.square().sum() - torch.nn.functional.logsigmoid(rows @ x).sum()

    def run(seed: int) -> int:
        before = count[0]
        pyro.set_rng_seed(seed)
        kernel = NUTS(potential_fn=potential, step_size=START, adapt_step_size=False, adapt_mass_matrix=False)
        start = {"x": x0[0, 0].clone()}
        MCMC(kernel, trajectories, warmup_steps=0, initial_params=start, disable_progbar=True).run()
        return count[0] - before

    return run


# -------------------------------------------------------------------------------------------------------------- SMC


def tempered(task: str, particles: int) -> Callable[[int], Sides]:
    """The same path, effective sample size and mass matrix. BlackJAX tunes no step: it gets the one that ours ends at.

    Its number of moves is such that both take as many gradients, as far as whole numbers go.
    """
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import extend_params, resampling

    log_density, method = in_jax(task), registry.parse("method", f"smc:particles={particles}")

    def ours(problem: Problem, rng: Streams) -> tuple[Tensor, float, int, dict[str, float]]:
        problem, count = counted(problem)
        law, laws, step = None, 0, 0.0
        for law in method.fit(problem, Budget(), rng):
            laws += 1
            assert isinstance(law, Drawn)
            assert law.state is not None
            step = float(torch.as_tensor(law.state()["step"]).flatten()[0])
        assert isinstance(law, Drawn)
        assert law.log_z is not None
        return law.draw(particles, rng)[0], float(law.log_z[0]), count(), {"laws": laws, "step": step}

    instance, rng = built(task, PILOT)
    pilot = ours(instance.problem, rng)
    step, d = pilot[3]["step"], instance.problem.shape[0]
    leaps = min(method.leapfrogs, math.ceil(method.length / step))
    moves = max(1, round(pilot[2] / (particles * pilot[3]["laws"] * leaps)))
    move = partial(blackjax.hmc.build_kernel(), num_integration_steps=leaps)

    def mass(_key: Any, state: Any, _info: Any) -> dict[str, Any]:
        spread = jnp.cov(state.particles.T, aweights=state.weights) if d > 1 else jnp.ones((1, 1))
        return extend_params({"step_size": step, "inverse_mass_matrix": jnp.diagonal(spread)})

    smc = blackjax.inner_kernel_tuning(
        smc_algorithm=blackjax.adaptive_tempered_smc, logprior_fn=_normal, mcmc_step_fn=move,
        loglikelihood_fn=lambda x: log_density(x) - _normal(x), mcmc_init_fn=blackjax.hmc.init,
        resampling_fn=resampling.systematic, mcmc_parameter_update_fn=mass, num_mcmc_steps=moves,
        initial_parameter_value=extend_params({"step_size": step, "inverse_mass_matrix": jnp.ones(d)}),
        target_ess=method.ess,
    )  # fmt: skip
    one = jax.jit(smc.step)

    def at(seed: int) -> Sides:
        instance, rng = built(task, seed)
        assert instance.truth.log_z is not None
        truth = float(instance.truth.log_z[0])
        start = jnp.asarray(instance.problem[Initial].draw(particles, rng.fork("particles"))[0].numpy())

        def theirs() -> tuple[Tensor, float, int]:
            state, key, log_z, laws, left = smc.init(start), jax.random.key(seed), 0.0, 0, method.after + 1
            while left:  # its moves follow the weights, so that the last weights need one step more
                key, now = jax.random.split(key)
                left -= float(state.sampler_state.tempering_param) >= 1
                state, info = one(now, state)
                log_z += float(info.log_likelihood_increment)
                laws += 1
            x = torch.from_numpy(jax.device_get(state.sampler_state.particles).copy())
            return x, log_z, laws * particles * moves * leaps

        def judge(them: Any, us: Any) -> dict[str, Found]:
            draw = instance.truth.draw
            assert draw is not None
            fresh = draw(0, particles, rng.fork("exact"))[0]
            found = [judged(instance, x, energy_distance)[0] for x in (them[0], us[0], fresh)]
            return {
                "error of log Z": Found("error", abs(them[1] - truth), abs(us[1] - truth)),
                "energy distance": Found("error", *found),
            }

        return Sides(theirs, lambda: ours(instance.problem, rng), judge, lambda a, b: (float(a[2]), float(b[2])))

    return at


# ------------------------------------------------------------------------------------------------------------- cases


def cases() -> list[Case]:
    ionosphere = "logistic posterior of ionosphere, d = 35"
    found = [
        Case(
            "nuts", "blackjax", f"NUTS, {ionosphere}", "as many gradients as a run of ours, 256 chains, one a point",
            "16 chains after window_adaptation, jit", "nuts", partial(chains, 256, 16, 500, 250),
            partial(chains, 64, 4, 50, 20), ("blackjax",),
        ),
    ]  # fmt: skip
    for peer, module, count in (("blackjax", "blackjax", 300), ("pyro-ppl", "pyro", 100)):
        found.append(Case(
            f"nuts-alone-{module}", peer, f"one chain of NUTS, {ionosphere}", f"{count} trajectories, one fixed step",
            "nuts, jit" if module == "blackjax" else "NUTS", "nuts", partial(alone, module, count),
            partial(alone, module, 3), (module,),
        ))  # fmt: skip
    for task, title in (("logistic", ionosphere), ("funnel", "funnel, d = 10")):
        found.append(Case(
            f"smc-{task}", "blackjax", f"tempered SMC, {title}", "512 particles, as many gradients",
            "adaptive_tempered_smc, jit", "smc", partial(tempered, task, 512), partial(tempered, task, 64),
            ("blackjax",),
        ))  # fmt: skip
    return found

"""Distance from the origin: whether the law reaches as far out as the truth."""

from gwfbench.protocol import Estimate, Judged, Metric, Need


def _radius(judged: Judged) -> Estimate:
    x, y = judged.points, judged.reference(4096)  # points of the law, draws of the truth, (S, n, d)
    r, s = x.norm(dim=-1), y.norm(dim=-1)
    se = (r.var(1) / r.shape[1] + s.var(1) / s.shape[1]).sqrt()
    return Estimate((r.mean(1) - s.mean(1)).abs(), se, n=x.shape[1])


radius = Metric(
    "radius",
    _radius,
    points=4096,
    needs=frozenset({Need.DRAW}),
    source="| E|X| - E|Y| |, X of the law and Y of the truth; se from both variances",
)

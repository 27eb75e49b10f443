"""A CUDA device that is not there: what a card would refuse, wait for and launch is seen on any machine.

    with pretended() as seen:
        ...  # what runs here with device="cuda" runs on the device
    seen.launches, seen.waits, seen.faults

A tensor of the device (`OnDevice`) says that it lies on cuda:0 and holds its numbers on the CPU, so that every value is
real and every branch on one is taken as on a card. Two layers stand between the code and PyTorch:

    Functions    a mode around all of PyTorch's functions: those with device="cuda", and the moves `.to`, `.cpu`,
                 `as_tensor`; generators, which belong to a device; `.numpy()`, which a card refuses
    OnDevice     each operation below them, those of autograd's backward passes included, with its line

    Graph        a CUDA graph: what was done in the capture, done again on the same memory at each replay; a wait, or a
                 draw from a generator, in a capture is refused

What it sees: `Seen`. Where a card would raise, it notes a fault and raises. What it can't see: bfloat16 and TF32,
numbers of cuBLAS and cuDNN, memory, the order of streams, speed, and what a fork does to CUDA.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C import _functorch as functorch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from gwfbench.drive import machine

Kind = Literal["fault", "launch", "sync", "to device", "to host", "synchronize", "replay"]

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
ROOT = Path(__file__).parents[2]
SOURCES = tuple(f"{ROOT / name}/" for name in ("gwfbench", "baselines", "tasks"))  # whose lines are named
ONLY_MEMORY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "resize_"}
ONLY_READ = {"_local_scalar_dense", "_linalg_check_errors"}
SYNCS = {  # the host needs to know a number before it can go on
    "_local_scalar_dense", "_linalg_check_errors", "_linalg_svd", "nonzero", "masked_select", "equal", "bincount",
    "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave",
}  # fmt: skip
INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
NO_SCALARS = {"stack", "cat", "gather", "scatter", "scatter_", "index_select", "searchsorted", "bucketize"}
WRITES = {"native_batch_norm"}  # it changes running averages and doesn't say so
MOVES = {"to", "cpu", "cuda"}
MADE = {"tensor", "as_tensor", "asarray", "new_tensor"}  # from Python's numbers: made on the host, then copied


@dataclass
class Seen:
    """What a stretch of code has asked of the device: how often, by kind, operation and line.

    fault         a card would have raised: tensors of two devices in one operation, a generator of another device,
                  a CUDA tensor as an array of NumPy
    launch        a kernel
    sync          the host waits for a number: float(x), bool(x), a mask as an index, an error check of torch.linalg
    to device, to host    a copy, for which the host waits too
    synchronize   torch.cuda.synchronize
    replay        of a graph, whose kernels count as launches too
    """

    counts: Counter[tuple[Kind, str, str]] = field(default_factory=Counter)

    def note(self, kind: Kind, what: str) -> None:
        if _capture and kind in ("sync", "to device", "to host"):
            self.refuse(f"{what}: operation not permitted when stream is capturing")
        self.counts[kind, what, line()] += 1

    def of(self, *kinds: Kind) -> dict[str, int]:
        """Number by line and operation, of these kinds, most first."""
        return {f"{where}: {what}": n for (kind, what, where), n in self.counts.most_common() if kind in kinds}

    @property
    def launches(self) -> int:
        return sum(self.of("launch").values())

    @property
    def waits(self) -> int:
        """How often the host has waited for the device in the middle of the work."""
        return sum(self.of("sync", "to device", "to host").values())

    @property
    def faults(self) -> dict[str, int]:
        return self.of("fault")

    def refuse(self, what: str) -> None:
        """Note a fault, and raise as a card does.

        Raises:
            RuntimeError: always.
        """
        self.note("fault", what)
        raise RuntimeError(f"{what} ({line()})")


_seen = Seen()
_backwards = [0]  # passes of autograd that are going on
_capture: list[Graph] = []  # that is going on


def line() -> str:
    """Where the code under test is, innermost: file:line; "elsewhere" if there is none of it."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(SOURCES):
            return f"{name[len(str(ROOT)) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class OnDevice(torch.Tensor):
    """A tensor that says it is on cuda:0. For autograd's engine, which asks below Python, it is on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # `Functions` sees them

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=CPU, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def __init__(self, held: Tensor):
        pass

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        return memo.setdefault(id(self), OnDevice(self.detach().held.clone()).requires_grad_(self.requires_grad))

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        _check(name, args, kwargs)
        if name in SYNCS:
            _seen.note("sync", name)
        elif name in INDEXING and any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            _seen.note("sync", f"{name} by a mask")
        inner = {key: CPU if key == "device" else value for key, value in tree_map(_held, kwargs).items()}
        out = _run(name, func, tree_map(_held, args), inner, written=func._schema.is_mutable or name in WRITES)
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_of, out))


class Graph:
    """In place of torch.cuda.CUDAGraph. A capture runs its operations too, for shapes, but leaves no number changed."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, str, Callable[..., Any], Any, Any, Any]] = []
        self._before: dict[int, tuple[Any, Any]] = {}

    def run(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, written: bool) -> Any:
        """An operation of the capture, on what the tensors hold."""
        if kwargs.get("generator") is not None:
            _seen.refuse(f"{name}: a generator that is not registered with the graph that is captured")
        with torch._C.DisableTorchFunction():
            for x in tree_leaves((args, kwargs)) if written else ():
                if isinstance(x, Tensor):
                    memory = x.untyped_storage()
                    self._before.setdefault(memory.data_ptr(), (memory, memory.clone()))
            out = func(*args, **kwargs)
        self._steps.append((name, line(), func, args, kwargs, out))
        return out

    def captured(self) -> None:
        """All memory as it was before."""
        with torch._C.DisableTorchFunction():
            for memory, before in self._before.values():
                memory.copy_(before)
        self._before.clear()

    @torch.no_grad()
    def replay(self) -> None:
        with torch._C.DisableTorchFunction():
            for name, where, func, args, kwargs, out in self._steps:
                new = tree_leaves(func(*args, **kwargs))
                for old, now in zip(tree_leaves(out), new, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != now.data_ptr():
                        old.copy_(now)
                if _launches(name, func):
                    _seen.counts["launch", name, where] += 1
        _seen.counts["replay", "replay", line()] += 1


@contextmanager
def capture(graph: Graph, **_: Any) -> Iterator[None]:
    """In place of torch.cuda.graph; a stream says nothing here."""
    _capture.append(graph)
    try:
        yield
    finally:
        _capture.pop()
        graph.captured()


class Stream:
    """In place of torch.cuda.Stream: all is done in order."""

    def __init__(self, *_: Any):
        pass

    def wait_stream(self, other: Stream) -> None:
        pass


@contextmanager
def on_stream(_: Stream | None) -> Iterator[None]:
    yield


def _launches(name: str, func: Any) -> bool:
    """Whether an operation has a kernel: not a view, nor memory that is only taken."""
    return not (getattr(func, "is_view", False) or name in ONLY_MEMORY or name in ONLY_READ)


def _run(name: str, func: Callable[..., Any], args: Any, kwargs: Any, written: bool = False) -> Any:
    """An operation on what tensors of the device hold, which a capture remembers and does not count."""
    if _capture:
        return _capture[0].run(name, func, args, kwargs, written)
    if _launches(name, func):
        _seen.note("launch", name)
    return func(*args, **kwargs)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnDevice) else x


def _of(x: Any) -> Any:
    while isinstance(x, Tensor) and functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)  # what `torch.func` has just wrapped: a constant, for it
    return OnDevice(x) if isinstance(x, Tensor) and not isinstance(x, OnDevice) else x


def _on_device(x: object) -> bool:
    """Whether a tensor is on the device, within the wrappers of `torch.func` too."""
    while isinstance(x, Tensor) and functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return isinstance(x, OnDevice)


def _check(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse tensors of the CPU next to those of the device, except for what a card takes: a copy from one to the
    other, a number without dimensions in arithmetic, and an index, which is copied."""
    plain = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and not isinstance(x, OnDevice)]
    if not plain:
        return
    if name == "copy_":
        _seen.note("to device" if isinstance(args[0], OnDevice) else "to host", name)
        return
    if name in INDEXING and isinstance(args[0], OnDevice):
        indices = [x for x in args[1] if isinstance(x, Tensor) and not isinstance(x, OnDevice)]
        if indices:
            _seen.note("to device", f"{name} by an index of the CPU")
        plain = [x for x in plain if not any(x is index for index in indices)]
    for x in plain:
        # autograd makes zeros of its own below Python, where the wrapper is on the CPU
        if (x.dim() > 0 or name in NO_SCALARS) and not (_backwards[0] and not x.any()):
            _seen.refuse(
                f"{name}: expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
                f"cpu, the latter of a tensor {tuple(x.shape)}"
            )


class Generator(torch.Generator):
    """A generator that knows its device."""

    belongs: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, CPU)
        made.belongs = CUDA if _is_cuda(device) else CPU
        return made

    def __init__(self, device: Any = "cpu"):
        pass

    @property
    def device(self) -> torch.device:
        return self.belongs


def _is_cuda(device: Any) -> bool:
    return isinstance(device, int) or (device is not None and torch.device(device).type == "cuda")


def _up(x: Tensor, what: str) -> Tensor:
    """On the device, by a copy if it is not."""
    if _on_device(x):
        return x
    _refuse_gradient(x)
    _seen.note("to device", what)
    return OnDevice(x.detach().clone())


def _down(x: Tensor, what: str) -> Tensor:
    """On the host, by a copy if it is not."""
    if not isinstance(x, OnDevice):
        return x
    _refuse_gradient(x)
    _seen.note("to host", what)
    return x.detach().held.clone()


def _refuse_gradient(x: Tensor) -> None:
    if x.requires_grad and torch.is_grad_enabled():
        raise NotImplementedError("a gradient through a copy between host and device")


def _moved(name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`x.to(...)`, `x.cpu()`, `x.cuda()`: the device first, then the rest of what was asked."""
    device, other = kwargs.pop("device", None), kwargs.pop("other", None)
    device = {"cpu": CPU, "cuda": CUDA}.get(name, device)
    rest: list[Any] = []
    for one in args:
        if isinstance(one, Tensor):
            other = one
        elif isinstance(one, str | torch.device):
            device = one
        elif isinstance(one, torch.dtype):
            rest.append(one)
    if other is not None:
        device = CUDA if _on_device(other) else CPU
        rest.append(other.dtype)
    if device is not None:
        x = _up(x, name) if _is_cuda(device) else _down(x, name)
    kwargs.pop("non_blocking", None)
    return torch.Tensor.to(x, *rest, **kwargs) if rest or kwargs else x


class Functions(TorchFunctionMode):
    """Sees PyTorch's functions before they run."""

    def __torch_function__(self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if func == torch.Tensor.device.__get__:
            return CUDA if _on_device(first) else func(first)
        if name in MOVES and first is not None:
            return _moved(name, *args, **kwargs)
        if name in ("numpy", "__array__") and _on_device(first):
            _seen.note("fault", f"{name}() of a tensor of the device")
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy ({line()})")
        if name == "tolist" and isinstance(first, OnDevice):
            _seen.note("sync", name)
            return first.detach().held.tolist()
        return self._plain(func, name, first, args, kwargs)

    def _plain(self, func: Any, name: str, first: Tensor | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function that may make tensors, draw numbers, or neither."""
        device = kwargs.get("device")
        here = _is_cuda(device) if device is not None else _on_device(first)
        generator = kwargs.get("generator")
        if isinstance(generator, Generator) and (generator.device.type == "cuda") != here:
            place = "cuda" if here else "cpu"
            _seen.refuse(f"{name}: expected a {place} generator, but found one of {generator.device.type}")
        if name in MADE and here:
            del_device = {key: value for key, value in kwargs.items() if key != "device"}
            if isinstance(args[0], Tensor) and name != "new_tensor":
                made = _up(args[0], name)
                return made.to(del_device["dtype"]) if del_device.get("dtype") is not None else made
            values = args[1] if name == "new_tensor" else args[0]
            if name == "new_tensor" and first is not None:
                del_device.setdefault("dtype", first.dtype)
            return _up(torch.tensor(values, **del_device), f"{name} of numbers")
        if device is None or first is not None or not here:
            return func(*args, **kwargs)  # of a tensor of the device: `OnDevice` goes on
        return tree_map(_of, _run(name, func, args, {**kwargs, "device": CPU}))


@contextmanager
def pretended() -> Iterator[Seen]:
    """A device in the block. Blocks can't lie in one another."""
    global _seen
    _seen = Seen()
    mode = Functions()
    backward: Callable[..., Any] = torch.autograd._engine_run_backward

    def with_mode(*args: Any, **kwargs: Any) -> Any:
        """A pass of autograd, in which functions of Python may run that are not the mode's own."""
        _backwards[0] += 1
        try:
            with mode:
                return backward(*args, **kwargs)
        finally:
            _backwards[0] -= 1

    own = {
        (torch, "Generator"): Generator,
        (torch.cuda, "synchronize"): lambda *_: _seen.note("synchronize", "synchronize"),
        (machine, "LARGE"): 8,  # there is no card here
        (torch.cuda, "reset_peak_memory_stats"): lambda *_: None,  # on the host: no wait, no launch
        (torch.cuda, "max_memory_allocated"): lambda *_: 2**20,
        (torch.autograd, "_engine_run_backward"): with_mode,
        (torch.cuda, "CUDAGraph"): Graph,
        (torch.cuda, "graph"): capture,
        (torch.cuda, "Stream"): Stream,
        (torch.cuda, "stream"): on_stream,
        (torch.cuda, "current_stream"): Stream,
        (torch, "autocast"): lambda *_, **__: nullcontext(),  # bfloat16 can't be seen here
    }
    before = {(place, name): getattr(place, name) for place, name in own}
    for (place, name), value in own.items():
        setattr(place, name, value)
    try:
        with mode:
            yield _seen
    finally:
        for (place, name), value in before.items():
            setattr(place, name, value)

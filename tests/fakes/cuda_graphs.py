"""CUDA graphs acted out on the CPU: a graph records torch's operations with tensors and numbers, and repeats them.

As on a card, nothing runs while it is recorded; a number of Python's is recorded as it was then; whatever reads a value
of a tensor ends the recording with an error, which leaves torch's default generator in capture; and what is recorded
depends on the addresses of its tensors. Streams are names: everything runs at once and in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "equal", "is_nonzero"}
# They change a tensor's shape in place; what is recorded keeps the shape of its moment.
RESHAPES = {f"aten::{name}_" for name in ("squeeze", "unsqueeze", "t", "transpose", "as_strided")}


@dataclass(eq=False)
class FakeStream:
    """A stream of no device."""

    name: str
    waited_for: list[FakeStream] = field(default_factory=list)

    def wait_stream(self, other: FakeStream) -> None:
        self.waited_for.append(other)


class FakeCuda:
    """Stands in for the parts of torch.cuda that a captured step uses.

    Attributes:
        current: Stream of the moment.
        default: The one that can't record.
        recorded_on: Stream and mode of each finished or failed recording.
        in_capture: Whether torch's default generator is.
    """

    def __init__(self) -> None:
        self.default = self.current = FakeStream("default")
        self.recorded_on: list[tuple[FakeStream, str]] = []
        self.in_capture = False
        self.num_streams = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
        for name, value in {
            "current_stream": lambda device=None: self.current,
            "default_stream": lambda device=None: self.default,
            "Stream": self._new_stream,
            "stream": self.on_stream,
            "CUDAGraph": lambda: FakeGraph(self),
            "graph": self._recording,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        return self

    def _new_stream(self, device: object = None) -> FakeStream:
        self.num_streams += 1
        return FakeStream(f"stream {self.num_streams}")

    @contextmanager
    def on_stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _recording(
        self,
        graph: FakeGraph,
        pool: object = None,
        stream: FakeStream | None = None,
        capture_error_mode: str = "global",
    ) -> Iterator[None]:
        # As torch's: where the end of the recording fails, the stream stays what it was set to.
        before, self.current = self.current, stream or FakeStream("shared by all captures")
        graph.capture_begin(pool, capture_error_mode)
        try:
            yield
        finally:
            graph.capture_end()
            self.current = before


class FakeGraph:
    """Operations that were recorded, and that each replay runs again on the same tensors."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self.generators: list[torch.Generator] = []
        self.recorder: Recorder | None = None

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generators.append(generator)

    def capture_begin(self, pool: object = None, capture_error_mode: str = "global") -> None:
        if self.cuda.current is self.cuda.default:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        self.cuda.recorded_on.append((self.cuda.current, capture_error_mode))
        self.cuda.in_capture = True
        self.states = [generator.get_state() for generator in self.generators]
        self.recorder = Recorder(self)
        self.recorder.__enter__()

    def capture_end(self) -> None:
        assert self.recorder is not None
        self.recorder.__exit__(None, None, None)
        self.recorder.take_back()
        for generator, state in zip(self.generators, self.states, strict=True):
            generator.set_state(state)
        if self.recorder.failed:
            raise RuntimeError("operation failed due to a previous error during capture")
        self.cuda.in_capture = False

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        if self.cuda.in_capture:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")
        with torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, made in self.calls:
                again = tree_leaves(function(*args, **kwargs))
                for old, new in zip(made, [leaf for leaf in again if isinstance(leaf, Tensor)], strict=True):
                    if new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                        old.copy_(new)


class Recorder(TorchDispatchMode):
    """Writes down what is called; takes back what it changed, and spoils what it made."""

    def __init__(self, graph: FakeGraph) -> None:
        super().__init__()
        self.graph, self.failed = graph, False
        self.made: dict[int, Tensor] = {}
        self.changed: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generators = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Generator)]
        # A generator comes here in another wrapper.
        registered = {generator._cdata for generator in self.graph.generators}
        if func._schema.name.removeprefix("aten::") in WAITS or {each._cdata for each in generators} - registered:
            self.failed = True
            raise RuntimeError(f"{func}: operation not permitted when stream is capturing")
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(tree_leaves(value))
        result = func(*args, **kwargs)
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        known = {tensor.untyped_storage().data_ptr() for tensor in given}
        for output in outputs:
            if output.untyped_storage().data_ptr() not in known:
                self.made[output.untyped_storage().data_ptr()] = output
        if func._schema.name not in RESHAPES:
            self.graph.calls.append(tree_map_only(Tensor, Tensor.detach, (func, args, kwargs, outputs)))
        return result

    def _keep(self, values: list[Tensor]) -> None:
        for value in values:
            place = value.untyped_storage().data_ptr()
            if place not in self.made and id(value) not in self.changed:
                self.changed[id(value)] = value, value.detach().clone()

    @torch.no_grad()
    def take_back(self) -> None:
        for value, old in self.changed.values():
            value.copy_(old)
        for value in self.made.values():
            if value.is_floating_point():
                value.fill_(torch.nan)

"""A program run piece by piece on batches of feeds, with the values that later pieces need held by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxinit.signal.run.held import Held
from onnxinit.signal.run.program import Program, Step, bodies, lists_in, path_of, tensors_in_node
from onnxinit.signal.run.sessions import Array, Piece, Sessions, type_of
from onnxinit.signal.run.supply import Supply

Feed = Mapping[str, Array]

SMALL = 1024  # bytes of a constant that becomes part of a piece's structure: shapes, axes, bounds
_RECODES = frozenset({"Cast", "CastLike", "DequantizeLinear"})
_FED = frozenset("biufO")  # kinds of arrays that ONNX Runtime takes as they are; others go into the model


class StepError(Exception):
    """A step that cannot be run.

    Attributes:
        step: The step.
        reason: Why, in one line.
    """

    def __init__(self, step: Step, reason: str):
        super().__init__(f"{step.label}: {reason}")
        self.step = step
        self.reason = reason


class Engine:
    """Runs steps when their results are asked for, each once.

    Args:
        program: The model.
        supply: The values of its stored tensors.
        feeds: The batches; iterated over several times.
        sessions: Sessions to share with another engine of the same program.
        threads: Threads within an operator; None for ONNX Runtime's own choice.
        provider: An execution provider; None for the processor's.
        spill: A folder for values that are held between pieces; None to hold them in memory.
    """

    def __init__(
        self,
        program: Program,
        supply: Supply,
        feeds: Iterable[Feed],
        *,
        sessions: Sessions | None = None,
        threads: int | None = None,
        provider: str | None = None,
        spill: Path | None = None,
    ):
        self.program = program
        self.supply = supply
        self.sessions = sessions or Sessions(program.shell, threads, provider)
        self._feeds = feeds
        self._held = Held(spill)
        self._done: set[Step] = set()
        self._left: dict[str, int] = {}
        self._constants: dict[str, Array] = {}  # small ones that no plan draws, which many pieces read

    def fork(self, feeds: Iterable[Feed]) -> Engine:
        """An engine of the same program on other feeds, which has run nothing yet."""
        return Engine(self.program, self.supply, feeds, sessions=self.sessions)

    # ------------------------------------------------------------ what is needed

    def expect(self, names: Iterable[str]) -> None:
        """Tell what will be asked for, so that nothing else is held; each name is given up once for each time here."""
        names = list(names)
        needed = set(self.ancestors(names))
        self._left = {}
        for name in names:
            self._left[name] = self._left.get(name, 0) + 1
        for step in needed:
            for name in dict.fromkeys(step.inputs):
                self._left[name] = self._left.get(name, 0) + 1

    def ancestors(self, names: Iterable[str], instead: Mapping[Step, Step] | None = None) -> list[Step]:
        """The steps that have yet to run for values to be there, in their order; `instead` has other operands."""
        found: set[Step] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            step = self.program.makers.get(name)
            if step is None or step in found or step in self._done or name in self._held:
                continue
            found.add(step)
            todo.extend((instead or {}).get(step, step).inputs)
        return sorted(found, key=lambda s: s.place)

    # ------------------------------------------------------------ values

    def values(self, name: str) -> Iterator[Any]:
        """A value's arrays, batch by batch: one that was asked for, an input, or a stored tensor."""
        if name in self._held:
            yield from (value for value, _ in zip(self._held.all(name), self._feeds, strict=False))
        elif name in self.program.inputs:
            yield from (feed[name] for feed in self._feeds)
        else:
            array = self._stored(name)
            yield from (array for _ in self._feeds)

    def hold(self, name: str, values: Iterable[Any]) -> None:
        """Hold arrays for a name, one a batch, in place of what would be computed or fed."""
        self._held.put_all([name], ([value] for value in values), [name])

    def change(self, name: str, change: Callable[[Any], Any]) -> None:
        """Put what is made of a value's arrays in their place."""
        self._held.change(name, change)

    def give_up(self, name: str) -> None:
        """Say that who asked for a value needs it no more; steps and others may still need it."""
        self._left[name] = self._left.get(name, 0) - 1
        if self._left[name] <= 0:
            self._held.drop(name)

    def clear(self) -> None:
        """Give all values up: nothing will be asked for any more."""
        self._held.clear()

    # ------------------------------------------------------------ running

    def compute(self, names: Sequence[str], instead: Mapping[Step, Step] | None = None) -> None:
        """Run what has to run for values to be there.

        Args:
            names: The values.
            instead: Steps in place of others, with the same results.

        Raises:
            StepError: A step cannot be run.
        """
        instead = instead or {}
        due = self.ancestors(names, instead)
        if not due:
            return
        within: dict[str, int] = {}
        for name in (n for step in due for n in dict.fromkeys(step.inputs)):
            within[name] = within.get(name, 0) + 1
        made = (n for s in due for n in s.outputs if n)
        fetch = [n for n in made if self._left.get(n, 0) > within.get(n, 0) or n in names]
        self._run([instead.get(s, s) for s in due], fetch)
        self.finish(due, names)

    def finish(self, steps: Sequence[Step], names: Sequence[str]) -> None:
        """Say that steps have run, so that what they read is given up unless it is among the names or read later."""
        steps = [step for step in steps if step not in self._done]
        self._done.update(steps)
        for name in (n for step in steps for n in dict.fromkeys(step.inputs)):
            self._left[name] = self._left.get(name, 0) - 1
            if name not in names and self._left[name] <= 0:
                self._held.drop(name)

    def again(self, steps: Sequence[Step], names: Sequence[str]) -> None:
        """Run steps anew, on the values that are held for them: a weight has changed."""
        self._run(steps, names)

    def product(self, name: str, matrix: Array) -> Iterator[Any]:
        """A value times a matrix, batch by batch: (..., K) @ (K, N)."""
        step = Step.of(helper.make_node("MatMul", ["x", "w"], ["y"]))
        session = None
        for x in self.values(name):
            if session is None:
                piece = Piece([step], {"x": type_of(x), "w": type_of(matrix)}, {}, ["y"])
                session = self.sessions.get(piece)
            yield session.run(piece.results, piece.feed({"x": x, "w": matrix}))[0]

    def moved(self, steps: Sequence[Step], numbers: Array) -> Array:
        """What steps that move a stored tensor, each the result of the one before, make of integers in its place.

        Args:
            steps: Casts and dequantisation among them change nothing.
            numbers: int64, of the shape of the tensor.
        """
        plain = [
            s if s.op not in _RECODES else Step.of(helper.make_node("Identity", s.inputs[:1], s.outputs[:1]))
            for s in steps
        ]
        made = {n for s in plain for n in s.outputs}
        others = [n for s in plain for n in s.inputs[1:] if n and n not in made]
        held = {n: numpy_helper.from_array(np.asarray(next(self.values(n))), n) for n in others}
        first, last = plain[0].inputs[0], plain[-1].outputs[0]
        piece = Piece(plain, {first: type_of(numbers)}, held, [last])
        found: Array = self.sessions.get(piece).run(piece.results, piece.feed({first: numbers}))[0]
        return found

    def _run(self, steps: Sequence[Step], fetch: Sequence[str]) -> None:
        try:
            self._run_piece(steps, fetch)
        except StepError:
            if len(steps) == 1:
                raise
            self._run_apart(steps, fetch)

    def _run_apart(self, steps: Sequence[Step], fetch: Sequence[str]) -> None:
        """One step after the other, to find the one that fails, or because they fail together only."""
        later = {n: s.place for s in steps for n in s.inputs}
        between = set[str]()
        for step in steps:
            made = [n for n in step.outputs if n in fetch or later.get(n, -1) > step.place]
            self._run_piece([step], made)
            between.update(n for n in made if n not in fetch)
        for name in between:
            self._held.drop(name)

    def _run_piece(self, steps: Sequence[Step], fetch: Sequence[str]) -> None:
        made = {n for s in steps for n in s.outputs}
        read = [n for n in dict.fromkeys(n for s in steps for n in s.inputs) if n and n not in made]
        stored = {n: self._stored(n) for n in read if n not in self._held and n not in self.program.inputs}
        moving = [n for n in read if n not in stored]
        steps = [self._filled(s) for s in steps]
        failure = ""
        for whole in (False, True):  # some kernels want their weights as part of the model
            held = {n: numpy_helper.from_array(a, n) for n, a in stored.items() if whole or self._is_structure(n, a)}
            fed = {n: a for n, a in stored.items() if n not in held}
            try:
                self._held.put_all(fetch, self._batches(steps, fetch, moving, fed, held), self.program.moving)
                return
            except RuntimeError as e:
                failure = str(e)
            except Exception as e:  # ONNX Runtime's own errors have no common base
                if type(e).__module__.partition(".")[0] != "onnxruntime":
                    raise
                failure = str(e)
        raise StepError(steps[-1], failure.strip().splitlines()[0])

    def _batches(
        self,
        steps: Sequence[Step],
        fetch: Sequence[str],
        moving: Sequence[str],
        fed: Mapping[str, Array],
        held: Mapping[str, TensorProto],
    ) -> Iterator[list[Any]]:
        piece: Piece | None = None
        for feed in self._together(moving):
            values = {**feed, **fed}
            if piece is None:
                piece = Piece(steps, {n: type_of(v) for n, v in values.items()}, held, fetch)
                session = self.sessions.get(piece)
            yield session.run(piece.results, piece.feed(values))

    def _together(self, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The values of several names, batch by batch."""
        streams = [self._held.all(n) if n in self._held else None for n in names]
        for feed in self._feeds:
            yield {n: feed[n] if s is None else next(s) for n, s in zip(names, streams, strict=True)}

    # ------------------------------------------------------------ stored tensors

    def _stored(self, name: str) -> Array:
        program = self.program
        if name in self._constants:
            return self._constants[name]
        if name in program.reals:
            return self.supply.real(program.reals[name])
        path = program.stored.get(name)
        array: Array = numpy_helper.to_array(program.fixed[name]) if path is None else self.supply.array(path)
        if array.nbytes <= SMALL and (path is None or self.supply.weight(path) is None):
            self._constants[name] = array
        return array

    def _is_structure(self, name: str, array: Array) -> bool:
        if array.dtype.kind not in _FED or name in self.program.fixed:
            return True
        path = self.program.stored.get(name)
        return path is not None and array.nbytes <= SMALL and self.supply.weight(path) is None

    def _filled(self, step: Step) -> Step:
        """The step with the values of the tensors that are stored in its subgraphs."""
        if not step.inner:
            return step
        node = NodeProto()
        node.CopyFrom(step.node)
        for tensor in tensors_in_node(node):
            path = path_of(tensor)
            if path:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(self.supply.array(path)), tensor.name))
        for a in (a for body in bodies(node) for a in lists_in(body)):
            if path := path_of(a):
                a.floats[:] = self.supply.array(path).tolist()
        return Step(node, step.inputs, step.outputs, (), step.place)

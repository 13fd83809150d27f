"""Finds deformable attention spelled as GridSample, and in which tensors and axes its inputs lie.

An occurrence is reported only where every condition is shown to hold for all sizes; else it is refused with a reason.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TypeVar

import onnx
import sympy
from onnx import TensorProto

from ovavss.msda.rewrite.axes import (
    Axis,
    Digit,
    Layout,
    Lost,
    Part,
    ancestors,
    follow,
    is_move,
    joined,
    regrouped,
    size_of,
    step,
    whole,
)
from ovavss.msda.rewrite.formulas import Dims, Size, quotient, same
from ovavss.msda.rewrite.graph import Graph
from ovavss.msda.rewrite.occurrence import Occurrence, Operand, Refused
from ovavss.msda.rewrite.rearrange import Step, plan
from ovavss.msda.rewrite.sizes import Sizes
from ovavss.msda.rewrite.terms import LEVEL, D, N, P, Q, Refusal, Term, added, alike, term

_Entry = TypeVar("_Entry")
_ONE = sympy.Integer(1)
_CHANNELS, _MOST_LEVELS, _MOST_POINTS = 8, 8, 16
_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_COORDINATE_TYPES = (*_TYPES, TensorProto.DOUBLE)


def find(graph: Graph, sizes: Sizes) -> tuple[list[Occurrence], list[Refused]]:
    """All occurrences in the main graph, and the GridSamples that belong to none."""
    terms, found, refused = {}, [], []
    samplers = [node for node in graph.nodes if node.op_type == "GridSample" and node.domain in ("", "ai.onnx")]
    for node in samplers:
        try:
            one = term(graph, sizes, node)
            terms[one.output] = one
        except (Refusal, Lost) as error:
            refused.append(Refused(_name(node), str(error)))
    done: set[str] = set()
    for output in terms:
        if output in done:
            continue
        top, parts = added(graph, sizes, terms, output)
        done.update(part.output for part in parts)
        try:
            found.append(_Matcher(graph, sizes, top, parts).occurrence())
        except (Refusal, Lost) as error:
            refused += [Refused(_name(node), str(error)) for part in parts for node in part.samplers]
    return found, refused


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


class _Matcher:
    def __init__(self, graph: Graph, sizes: Sizes, output: str, terms: list[Term]) -> None:
        self.graph, self.sizes = graph, sizes
        self.output, self.terms = output, terms
        if len(terms) > 1:
            if any(len(part.samplers) != 1 for part in terms):
                raise Refusal("a sum of sums over several levels")
            self.terms = self._by_level(terms)
        self.samplers = [sampler for part in self.terms for sampler in part.samplers]
        self.levels = len(self.samplers)
        if any(not alike(part.product, self.terms[0].product) for part in self.terms):
            raise Refusal("the levels meet their weights in different axes, or differ in their number of points")
        self.roles = self._roles()

    def _by_level(self, terms: list[Term]) -> list[Term]:
        """Added levels are in no order of their own: that of the grids' entries is the op's."""

        def key(part: Term) -> int:
            names = ancestors(self.graph, part.samplers[0].input[1])
            for count in range(2, len(names) + 1):
                chosen = self._layout(names[:count]).chosen
                if chosen and chosen[-1][1].is_Integer:
                    return int(chosen[-1][1])
            raise Refusal("the levels' grids are not entries of one tensor")

        return sorted(terms, key=key)

    def _roles(self) -> dict[str | int, Size]:
        """Sizes of N, D, Q, P (and LEVEL) as they stand where samples meet weights."""
        roles: dict[str | int, Size] = {}
        for axis in self.terms[0].product:
            for digit in axis:
                if isinstance(digit.of, Part) or digit.of in roles or (digit.of in (N, D) and len(axis) > 1):
                    raise Refusal("samples meet weights in axes that are not understood")
                roles[digit.of] = digit.size
        if any(digit.size != roles[digit.of] for axis in self.terms[0].axes for digit in axis):  # type: ignore[index]
            raise Refusal("the sum's axes are not understood")
        for of in (N, D, Q, P):
            roles.setdefault(of, _ONE)
        if not roles[P].is_Integer or not roles[D].is_Integer:
            raise Refusal("the number of points or channels is not a constant")
        return roles

    def occurrence(self) -> Occurrence:
        value, heads = self._value()
        locations = self._locations(heads)
        weights = self._weights(heads)
        output, steps = self._output(heads)
        _check_limits(self.levels, int(self.roles[D]), int(self.roles[P]))
        level_sizes = [self.sizes.dims[sampler.input[0]][2:] for sampler in self.samplers]
        return Occurrence(
            tuple(_name(sampler) for sampler in self.samplers),
            tuple(sampler.input[0] for sampler in self.samplers),
            tuple((h, w) for h, w in level_sizes),
            _batch_and_heads(self.roles[N], heads)[0],
            self.roles[Q],
            heads,
            int(self.roles[D]),
            int(self.roles[P]),
            value,
            locations,
            weights,
            output,
            steps,
        )

    def _layout(self, names: Sequence[str]) -> Layout:
        """`names`: nearest first."""
        source = names[-1]
        if source not in self.sizes.dims:
            raise Lost("a tensor of unknown rank")
        return follow(self.graph, self.sizes, names[::-1], whole(self.sizes.dims[source]))

    def _best(
        self,
        what: str,
        names: Sequence[str],
        match: Callable[[str, Dims, list[Layout]], tuple[tuple[float, ...], _Entry]],
        affine: bool = False,
    ) -> _Entry:
        """Of the tensors that all of `names` are moved copies of, the one whose match has the lowest cost."""
        chains = [ancestors(self.graph, name, affine) for name in names]
        common = [name for name in chains[0] if all(name in chain for chain in chains)]
        if not common:
            raise Refusal(f"the levels' {what} are not parts of one tensor")
        best: tuple[tuple[float, ...], _Entry] | None = None
        reason: Exception = Refusal("")
        for source in common:
            try:
                self._check_type(source, what, _COORDINATE_TYPES if affine else _TYPES)
                layouts = [self._layout(chain[: chain.index(source) + 1]) for chain in chains]
                candidate = match(source, self.sizes.dims[source], layouts)
            except (Lost, Refusal) as error:
                reason = reason if isinstance(reason, Refusal) and str(reason) else error
                continue
            if best is None or candidate[0] < best[0]:
                best = candidate
        if best is None:
            text = str(reason)
            raise Refusal(text if isinstance(reason, Refusal) else f"{what}: {text} cannot be followed")
        return best[1]

    def _check_type(self, name: str, what: str, allowed: Sequence[int]) -> None:
        kind = self.graph.types.get(name)
        if kind is None:
            raise Refusal(f"the type of its {what} is not known")
        if kind not in allowed:
            raise Refusal(f"its {what} are {TensorProto.DataType.Name(kind).lower()}; the op computes in float32")

    # value -----------------------------------------------------------------------------------------------------------

    def _value(self) -> tuple[Operand, int]:
        return self._best("maps", [sampler.input[0] for sampler in self.samplers], self._match_value)

    def _match_value(
        self, name: str, dims: Dims, layouts: list[Layout]
    ) -> tuple[tuple[float, ...], tuple[Operand, int]]:
        batch_heads, channels = layouts[0].axes[0], layouts[0].axes[1]
        if any(not alike(layout.axes[:2], layouts[0].axes[:2]) for layout in layouts):
            raise Refusal("the levels' maps are laid out differently")
        tokens = self._tokens(layouts)
        batch, head = _split_heads(joined(batch_heads), tokens)
        steps = plan(dims, [batch, (tokens,), head, channels])
        heads = size_of(head)
        cast = self.graph.types[name] != self.graph.types.get(self._copies()[-1])
        return (float(heads == 1), float(cast), len(steps)), (Operand(name, steps), int(heads))

    def _tokens(self, layouts: list[Layout]) -> Digit:
        """The digit of all levels' tokens: the maps are its consecutive parts, and all of it."""
        end, tokens = sympy.Integer(0), None
        for layout in layouts:
            digit, start, length = _tokens_of(layout)
            if tokens not in (None, digit) or not same(start, end):
                raise Refusal("the levels' maps are not consecutive parts of one tensor")
            tokens, end = digit, start + length
        if tokens is None or not same(end, tokens.size):
            raise Refusal("the levels' sizes are not shown to fill the tensor that they are parts of")
        return tokens

    # locations -------------------------------------------------------------------------------------------------------

    def _locations(self, heads: int) -> Operand:
        def match(name: str, dims: Dims, layouts: list[Layout]) -> tuple[tuple[float, ...], Operand]:
            first = layouts[0]
            if any((layout.scale, layout.offset) != (first.scale, first.offset) for layout in layouts):
                raise Refusal("the levels' grids are scaled differently")
            found = [self._level_entry(layout, 2, index) for index, layout in enumerate(layouts)]
            axes, level = _agreed(found, "grids")
            if size_of(axes[3]) != 2:
                raise Refusal("its grid is not of two coordinates")
            batch, head = regrouped(axes[0], _batch_and_heads(size_of(axes[0]), heads))
            steps = plan(dims, [batch, axes[1], head, level, axes[2], axes[3]])
            # grid = 2 * location - 1
            scale, offset = first.scale / 2, (first.offset + 1) / 2
            return (float((scale, offset) != (1, 0)), len(steps)), Operand(name, steps, scale, offset)

        return self._best("grids", [sampler.input[1] for sampler in self.samplers], match, affine=True)

    def _level_entry(self, layout: Layout, points_axis: int, index: int) -> tuple[tuple[Axis, ...], Axis]:
        """The axes of one level's part of a tensor of all levels.

        Also the digit of the levels, of which it has entry `index`.
        """
        axes, chosen = tuple(map(joined, layout.axes)), layout.chosen
        points = axes[points_axis]
        if len(points) == 1 and isinstance(points[0].of, Part) and not chosen:
            digit, start, length = points[0].of
            levels = quotient(digit.size, length)
            if levels is not None and points[0].stride == 1 and same(points[0].size, length):
                axes = (*axes[:points_axis], (Digit(digit.of, digit.stride, length),), *axes[points_axis + 1 :])
                position = quotient(start, length)
                chosen = () if position is None else ((Digit(digit.of, digit.stride * length, levels), position),)
        if any(isinstance(digit.of, Part) for axis in axes for digit in axis):
            raise Refusal("a part of its grids or weights is cut off")
        if not chosen and self.levels == 1:
            return axes, ()
        if len(chosen) != 1 or chosen[0][1] != index or chosen[0][0].size != self.levels:
            raise Refusal("the levels' grids and weights are not the entries of one axis, in the order of the levels")
        return axes, (chosen[0][0],)

    # weights ---------------------------------------------------------------------------------------------------------

    def _weights(self, heads: int) -> Operand:
        product = [[digit.of for digit in axis] for axis in self.terms[0].product]

        def match(name: str, dims: Dims, layouts: list[Layout]) -> tuple[tuple[float, ...], Operand]:
            # Missing leading axes are of size 1.
            aligned = [
                Layout(((),) * (len(product) - len(layout.axes)) + layout.axes, layout.chosen) for layout in layouts
            ]
            points_axis = next((i for i, of in enumerate(product) if P in of), len(product) - 1)
            if len(self.terms) > 1:
                found = [self._level_entry(layout, points_axis, index) for index, layout in enumerate(aligned)]
                axes, level = _agreed(found, "weights")
            else:
                if aligned[0].chosen:
                    raise Refusal("a part of its weights is cut off")
                axes, level = aligned[0].axes, ()
            roles: dict[str | int, Axis] = {}
            for axis, ofs in zip(axes, product):
                roles.update(self._weights_axis(axis, ofs, heads))
            level = roles.get(LEVEL, level)
            batch, head = regrouped(roles.get(N, ()), _batch_and_heads(size_of(roles.get(N, ())), heads))
            steps = plan(dims, [batch, roles.get(Q, ()), head, level, roles.get(P, ())])
            return (len(steps),), Operand(name, steps)

        return self._best("weights", [part.weights for part in self.terms], match)

    def _weights_axis(self, axis: Axis, ofs: Sequence[object], heads: int) -> dict[str | int, Axis]:
        """The weights' digits by what they weigh; a Refusal where one weight stands for several samples."""
        sizes = [self.roles[of] for of in ofs]  # type: ignore[index]
        if list(ofs) == [D] or not ofs:
            if axis:
                raise Refusal("its weights differ between the channels")
            return {}
        if list(ofs) == [N]:
            # With several heads, a multiple of them can meet the samples' batch and heads only if it is equal.
            if not same(size_of(axis), sizes[0]) and (
                heads == 1 or quotient(size_of(axis), sympy.Integer(heads)) is None
            ):
                raise Refusal("its weights are not shown to differ between batch entries and heads")
            return {N: axis}
        total = size_of(axis)
        if not same(total, sympy.Mul(*sizes)) and not (total.is_Integer and total > 1):
            raise Refusal("its weights are not shown to differ between queries")
        if len(ofs) == 1:
            return {ofs[0]: axis}  # type: ignore[dict-item]
        return dict(zip(ofs, regrouped(axis, sizes)))  # type: ignore[arg-type]

    # output ----------------------------------------------------------------------------------------------------------

    def _output(self, heads: int) -> tuple[str, list[Step]]:
        """Which tensor the op's output replaces: the sum, or a tensor that it is moved to, whichever is nearer."""
        batch = _batch_and_heads(self.roles[N], heads)[0]
        queries, channels = self.roles[Q], self.roles[D]
        dims = (batch, queries, heads * channels)
        digits: dict[object, Axis] = {
            N: ((Digit(0, _ONE, batch),) if batch != 1 else ())
            + ((Digit(2, channels, sympy.Integer(heads)),) if heads > 1 else ()),
            Q: (Digit(1, _ONE, queries),),
            D: (Digit(2, _ONE, channels),),
        }
        axes = tuple(tuple(d for digit in axis for d in digits[digit.of]) for axis in self.terms[0].axes)
        layout = Layout(axes)
        best = self.output, plan(dims, layout.axes)
        for name, moved in pairwise(self._copies()):
            try:
                layout = step(self.graph, self.sizes, self.graph.makers[moved], name, moved, layout)
                steps = plan(dims, layout.axes)
            except Lost:
                break
            if len(steps) <= len(best[1]):
                best = moved, steps
        return best

    def _copies(self) -> list[str]:
        """The sum, and the tensors that it is moved to, as long as nothing else takes it."""
        names = [self.output]
        while (readers := self.graph.readers(names[-1])) and len(readers) == 1 and is_move(self.graph, readers[0]):
            if len(readers[0].output) != 1 or readers[0].input[0] != names[-1]:
                break
            names.append(readers[0].output[0])
        return names


def _check_limits(levels: int, channels: int, points: int) -> None:
    """Beyond them our kernels refuse, and the model would run only where they are not installed."""
    if channels % _CHANNELS:
        raise Refusal(f"its heads have {channels} channels; our kernels take multiples of {_CHANNELS}")
    if levels > _MOST_LEVELS or points > _MOST_POINTS:
        limits = f"{_MOST_LEVELS} levels and {_MOST_POINTS} points"
        raise Refusal(f"it has {levels} levels of {points} points; our kernels take up to {limits}")


def _split_heads(axis: Axis, tokens: Digit) -> tuple[Axis, Axis]:
    """Batch and heads of the maps' first axis."""
    match axis:
        case ():
            return (), ()
        case (first, second) if second.size.is_Integer:
            return (first,), (second,)
        case (only,):
            # A batch of 1 leaves the heads alone; then they lie behind the tokens.
            behind = isinstance(only.of, int) and isinstance(tokens.of, int) and only.of > tokens.of
            return ((), axis) if behind and only.size.is_Integer else (axis, ())
    raise Refusal("the maps' batch is not batch and heads")


def _tokens_of(layout: Layout) -> tuple[Digit, Size, Size]:
    """The digit that a level's map is a part of, from where on, and how many entries."""
    pixels = joined(layout.axes[2] + layout.axes[3])
    if not pixels and len(layout.chosen) == 1:
        return *layout.chosen[0], _ONE
    if len(pixels) == 1 and not layout.chosen:
        digit = pixels[0]
        if not isinstance(digit.of, Part):
            return digit, sympy.Integer(0), digit.size
        if digit.stride == 1 and same(digit.size, digit.of.length):
            return digit.of
    raise Refusal("its maps' pixels are not consecutive entries of one axis")


def _batch_and_heads(size: Size, heads: int) -> tuple[Size, Size]:
    batch = quotient(size, sympy.Integer(heads))
    if batch is None:
        raise Lost(f"a batch of {size} of {heads} heads")
    return batch, sympy.Integer(heads)


def _agreed(found: Iterable[tuple[tuple[Axis, ...], Axis]], what: str) -> tuple[tuple[Axis, ...], Axis]:
    first, *others = found
    if any(not alike((*axes, level), (*first[0], first[1])) for axes, level in others):
        raise Refusal(f"the levels' {what} are laid out differently")
    return first

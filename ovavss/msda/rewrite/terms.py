"""Where samples go: from GridSample nodes forwards to the product with the attention weights and its sum."""

from dataclasses import dataclass, replace

import onnx
import sympy

from ovavss.msda.rewrite.axes import Axis, Digit, Layout, ancestors, follow, is_move, joined, step, whole
from ovavss.msda.rewrite.formulas import Dims, same
from ovavss.msda.rewrite.graph import Graph, attributes
from ovavss.msda.rewrite.sizes import Sizes

# A GridSample's output is [n, d, q, p]: batch and heads, channels, queries, points.
N, D, Q, P = range(4)
LEVEL = "level"
_USED_ELSEWHERE = "its samples are used in several places, or are an output"
_ADDITIONS = ("Add", "Sum")


class Refusal(Exception):
    """Why an occurrence is left as it is, in a few words."""


@dataclass(frozen=True)
class Term:
    """Samples times weights, summed over the points: of all levels joined, or of one.

    `product`: the axes in which samples meet the tensor `weights`; `axes`: those of the sum, the tensor `output`.
    Digits are those of GridSample's output and, of joined levels, LEVEL.
    """

    samplers: tuple[onnx.NodeProto, ...]
    weights: str
    product: tuple[Axis, ...]
    output: str
    axes: tuple[Axis, ...]


def term(graph: Graph, sizes: Sizes, sampler: onnx.NodeProto) -> Term:
    """The term that a GridSample belongs to."""
    _check_sampler(sizes, sampler)
    samplers = [sampler]
    name, layout = sampler.output[0], whole(sizes.dims[sampler.output[0]])
    node, name, layout = _walk(graph, sizes, name, layout)
    if node.op_type == "Concat":
        samplers, layout = _join(graph, sizes, node)
        node, name, layout = _walk(graph, sizes, node.output[0], layout)
    if node.op_type != "Mul":
        raise Refusal(f"its samples go into {_a(node)}, not into a product with attention weights")
    weights = next((other for other in node.input if other != name), None)
    if weights is None or len(sizes.dims.get(weights, layout.axes)) > len(layout.axes):
        raise Refusal("its samples are not multiplied by attention weights")
    product = layout.axes
    node, name, layout = _walk(graph, sizes, node.output[0], layout)
    if node.op_type != "ReduceSum":
        raise Refusal(f"the weighted samples go into {_a(node)}, not into a sum over the points")
    return Term(tuple(samplers), weights, product, node.output[0], _reduced(sizes, node, layout, len(samplers)))


def _a(node: onnx.NodeProto) -> str:
    return f"{'an' if node.op_type[0] in 'AEIOU' else 'a'} {node.op_type}"


def _check_sampler(sizes: Sizes, node: onnx.NodeProto) -> None:
    given = attributes(node)
    if given.get("align_corners", 0):
        raise Refusal("align_corners is 1; the op knows 0")
    if (mode := given.get("mode", b"linear")) not in (b"linear", b"bilinear"):
        raise Refusal(f"its mode is {mode.decode()}; the op knows linear")
    if (padding := given.get("padding_mode", b"zeros")) != b"zeros":
        raise Refusal(f"its padding is {padding.decode()}; the op knows zeros")
    dims = sizes.dims.get(node.output[0])
    if dims is None or len(dims) != 4:
        raise Refusal("its samples are not known to have four axes")


def _walk(graph: Graph, sizes: Sizes, name: str, layout: Layout) -> tuple[onnx.NodeProto, str, Layout]:
    """Forwards over movements to the first node that computes: that node, what it takes, and in which axes."""
    while True:
        readers = graph.readers(name)
        if readers is None or len(readers) != 1:
            raise Refusal(_USED_ELSEWHERE)
        node = readers[0]
        if not is_move(graph, node) or node.input[0] != name or len(node.output) != 1:
            return node, name, layout
        layout = step(graph, sizes, node, name, node.output[0], layout)
        name = node.output[0]


def _join(graph: Graph, sizes: Sizes, node: onnx.NodeProto) -> tuple[list[onnx.NodeProto], Layout]:
    """All the GridSamples that a Concat joins, in its order, and the axes of the joined samples."""
    samplers, layouts = [], []
    for name in node.input:
        names = ancestors(graph, name)[::-1]
        maker = graph.makers.get(names[0])
        if maker is None or maker.op_type != "GridSample":
            raise Refusal("its samples are concatenated with other tensors")
        if any(len(graph.readers(moved) or ()) != 1 for moved in names):
            raise Refusal(_USED_ELSEWHERE)
        _check_sampler(sizes, maker)
        samplers.append(maker)
        layouts.append(follow(graph, sizes, names, whole(sizes.dims[names[0]])))
    first = layouts[0]
    if any(not alike(layout.axes, first.axes) for layout in layouts):
        raise Refusal("the levels' samples are concatenated in different axes, or differ in their number of points")
    axis = attributes(node)["axis"] % len(first.axes)
    points = first.axes[axis]
    if points and [digit.of for digit in points] != [P]:
        raise Refusal("the levels' samples are not concatenated along the points or an axis of their own")
    level = Digit(LEVEL, sympy.Integer(1), sympy.Integer(len(samplers)))
    return samplers, replace(first, axes=(*first.axes[:axis], (level, *points), *first.axes[axis + 1 :]))


def alike(a: tuple[Axis, ...], b: tuple[Axis, ...]) -> bool:
    """Whether axes are the same, size by size."""
    left, right = ([joined(axis) for axis in axes] for axes in (a, b))
    return [len(axis) for axis in left] == [len(axis) for axis in right] and all(
        x.of == y.of and same(x.stride, y.stride) and same(x.size, y.size)
        for m, n in zip(left, right)
        for x, y in zip(m, n)
    )


def _reduced(sizes: Sizes, node: onnx.NodeProto, layout: Layout, levels: int) -> tuple[Axis, ...]:
    axes = layout.axes
    try:
        given = sizes.axes(node)
    except KeyError:
        given = None
    if given is None:
        raise Refusal("the axes of the sum are not known")
    gone = {axis % len(axes) for axis in given}
    inside = {digit.of for axis in gone for digit in axes[axis]}
    outside = {digit.of for axis, digits in enumerate(axes) if axis not in gone for digit in digits}
    if inside - {P, LEVEL} or outside & {P, LEVEL}:
        raise Refusal("the sum is not over all levels and points, and them alone")
    if attributes(node).get("keepdims", 1):
        return tuple(() if axis in gone else digits for axis, digits in enumerate(axes))
    return tuple(digits for axis, digits in enumerate(axes) if axis not in gone)


def added(graph: Graph, sizes: Sizes, terms: dict[str, Term], output: str) -> tuple[str, list[Term]]:
    """The largest sum of terms that the term `output` (key of `terms`) belongs to: its name and its terms."""
    best, found = output, [terms[output]]
    name = output
    while (readers := graph.readers(name)) and len(readers) == 1 and _adds(graph, readers[0]):
        name = readers[0].output[0]
        leaves = _leaves(graph, sizes, terms, name, found[0])
        if leaves is None:
            break
        best, found = name, leaves
    return best, found


def _leaves(graph: Graph, sizes: Sizes, terms: dict[str, Term], name: str, like: Term) -> list[Term] | None:
    """The terms whose sum a tensor is; None where other things are added."""
    if name in terms:
        return [terms[name]] if alike(terms[name].axes, like.axes) else None
    node = graph.makers.get(name)
    if node is not None and _adds(graph, node):
        sources = node.input if node.op_type in _ADDITIONS else node.input[:1]
        parts = [_leaves(graph, sizes, terms, source, like) for source in sources]
        return None if any(part is None for part in parts) else [leaf for part in parts if part for leaf in part]
    return [] if _is_zero(graph, node, name) and _fits(sizes.dims.get(name), sizes.dims.get(like.output)) else None


def _adds(graph: Graph, node: onnx.NodeProto) -> bool:
    return node.op_type in (*_ADDITIONS, "Identity") or (node.op_type in ("Cast", "CastLike") and is_move(graph, node))


def _fits(dims: Dims | None, into: Dims | None) -> bool:
    """Whether adding a tensor of these sizes leaves the other's sizes as they are."""
    if dims is None or into is None or len(dims) > len(into):
        return False
    return all(size == 1 or same(size, other) for size, other in zip(dims[::-1], into[::-1]))


def _is_zero(graph: Graph, node: onnx.NodeProto | None, name: str) -> bool:
    """Zeros that a sum starts from."""
    if node is not None and node.op_type == "ConstantOfShape":
        given = attributes(node).get("value")
        return given is None or not onnx.numpy_helper.to_array(given).any()
    constant = graph.constant(name)
    return constant is not None and not constant.any()

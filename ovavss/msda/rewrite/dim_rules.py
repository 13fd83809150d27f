"""What each kind of node makes of its inputs' sizes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import onnx
import sympy

from ovavss.msda.rewrite.formulas import Dims, Size, as_size, free, is_at_least, product, quotient, rounded_down
from ovavss.msda.rewrite.graph import attributes

if TYPE_CHECKING:
    from ovavss.msda.rewrite.sizes import Sizes

DimRule = Callable[["Sizes", onnx.NodeProto], Sequence[Dims | None]]


def _transpose(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims = sizes.dims[node.input[0]]
    return [tuple(dims[axis] for axis in attributes(node).get("perm", range(len(dims))[::-1]))]


def _reshape(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    source, target = sizes.dims.get(node.input[0]), sizes.values[node.input[1]]
    keep_zero = attributes(node).get("allowzero", 0)
    dims: list[Size | None] = []
    for axis, size in enumerate(target):
        if size == 0 and not keep_zero:
            dims.append(None if source is None else source[axis])
        else:
            dims.append(size if is_at_least(size, 1) else None)
    if source is not None:
        # A reshape keeps the number of elements, so one size that is not known, or not in the source's terms, follows.
        own = set().union(*(size.free_symbols for size in source))
        open_axes = [axis for axis, size in enumerate(dims) if size is None]
        computed = all(map(sizes.is_explained, source)) or not all(map(sizes.is_explained, target))
        if not open_axes and computed:
            open_axes = [axis for axis, size in enumerate(dims) if size is not None and size.free_symbols - own]
        if len(open_axes) == 1:
            others = [size for axis, size in enumerate(dims) if axis != open_axes[0]]
            dims[open_axes[0]] = quotient(product(source), product(others)) or dims[open_axes[0]]
    return [tuple(free(f"{node.output[0]}:{axis}") if size is None else size for axis, size in enumerate(dims))]


def _flatten(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axis = sizes.dims[node.input[0]], attributes(node).get("axis", 1)
    return [(product(dims[:axis]), product(dims[axis:]))]


def _split(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    axis, parts = sizes.split(node)
    dims = sizes.dims[node.input[0]]
    return [(*dims[:axis], part, *dims[axis + 1 :]) for part in parts]


def _slice(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims = list(sizes.dims[node.input[0]])
    for axis, _, length in sizes.slices(node):
        dims[axis] = free(f"{node.output[0]}:{axis}") if length is None else length
    return [tuple(dims)]


def _squeeze(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axes = sizes.dims[node.input[0]], sizes.axes(node)
    gone = {axis % len(dims) for axis in axes} if axes is not None else {i for i, s in enumerate(dims) if s == 1}
    if axes is None and any(not size.is_Integer for size in dims):
        return [None]
    return [tuple(size for axis, size in enumerate(dims) if axis not in gone)]


def _unsqueeze(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axes = list(sizes.dims[node.input[0]]), sizes.axes(node) or ()
    rank = len(dims) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        dims.insert(axis, sympy.Integer(1))
    return [tuple(dims)]


def _gather(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, indices = sizes.dims[node.input[0]], sizes.dims[node.input[1]]
    axis = attributes(node).get("axis", 0) % len(dims)
    return [(*dims[:axis], *indices, *dims[axis + 1 :])]


def _concat(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    parts = [sizes.dims[name] for name in node.input]
    axis = attributes(node)["axis"] % len(parts[0])
    return [(*parts[0][:axis], sympy.Add(*(part[axis] for part in parts)), *parts[0][axis + 1 :])]


def _matmul(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    left, right = (sizes.dims[name] for name in node.input)
    if min(len(left), len(right)) < 2:
        return [None]
    return [(*sizes.broadcast([left[:-2], right[:-2]], node.output[0]), left[-2], right[-1])]


def _convolution(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    weights = sizes.dims[node.input[1]]
    return [_slid(sizes, node, weights[0], weights[2:])]


def _pooling(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    kernel = tuple(map(sympy.Integer, attributes(node)["kernel_shape"]))
    dims = _slid(sizes, node, sizes.dims[node.input[0]][1], kernel)
    return [dims] * len(node.output)


def _slid(sizes: "Sizes", node: onnx.NodeProto, channels: Size, kernel: Dims) -> Dims:
    """Of a kernel that slides over a map."""
    dims, given, axes = sizes.dims[node.input[0]], attributes(node), len(kernel)
    if given.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ValueError("padding that depends on the size")
    pads = given.get("pads", [0] * 2 * axes)
    counts: list[Size | None] = []
    for axis, (size, width) in enumerate(zip(dims[2:], kernel)):
        stride, dilation = (given.get(key, [1] * axes)[axis] for key in ("strides", "dilations"))
        last_start = size + pads[axis] + pads[axis + axes] - dilation * (width - 1) - 1
        if given.get("ceil_mode", 0):
            if any(pads) or width < stride:
                raise ValueError("a last window that may start in the padding")
            last_start += stride - 1
        steps = rounded_down(last_start, sympy.Integer(stride))
        counts.append(None if steps is None else steps + 1)
    return (dims[0], channels, *_known(sizes, counts, f"{node.output[0]} map"))


def _resize(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims = sizes.dims[node.input[0]]
    given = attributes(node)
    if "axes" in given or given.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        return [None]
    if len(node.input) > 3 and node.input[3]:
        target: Sequence[Size | None] = sizes.values[node.input[3]]
    else:
        scales = sizes.graph.constant(node.input[2])
        if scales is None:
            return [None]
        fractions = [sympy.nsimplify(float(scale)) for scale in scales]
        target = [rounded_down(size * scale.p, sympy.Integer(scale.q)) for size, scale in zip(dims, fractions)]
    return [_known(sizes, target, node.output[0])]


def _pad(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, pads = sizes.dims[node.input[0]], sizes.values[node.input[1]]
    axes = sizes.axes(node, 3) or tuple(range(len(dims)))
    target = list(dims)
    for index, axis in enumerate(axes):
        target[axis] = dims[axis] + pads[index] + pads[index + len(axes)]
    return [_known(sizes, target, node.output[0])]


def _expand(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    target = _known(sizes, sizes.values[node.input[1]], f"{node.output[0]} target")
    return [sizes.broadcast([sizes.dims[node.input[0]], target], node.output[0])]


def _known(sizes: "Sizes", target: Sequence[Size | None], name: str) -> Dims:
    """Of sizes that are known in part, all."""
    shown = [None if size is None else as_size(size, sizes.equal) for size in target]
    return tuple(free(f"{name}:{axis}") if size is None else size for axis, size in enumerate(shown))


def _grid_sample(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    maps, grid = (sizes.dims[name] for name in node.input)
    return [(*maps[:2], *grid[1:-1])]


def _range(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    (start,), (limit,), (step,) = (sizes.values[name] for name in node.input)
    return [_known(sizes, [limit - start if step == 1 else None], node.output[0])]


def _reduce(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    dims, axes = sizes.dims[node.input[0]], sizes.axes(node)
    gone = {axis % len(dims) for axis in axes or range(len(dims))}
    if attributes(node).get("keepdims", 1):
        return [tuple(sympy.Integer(1) if axis in gone else size for axis, size in enumerate(dims))]
    return [tuple(size for axis, size in enumerate(dims) if axis not in gone)]


def _filled(sizes: "Sizes", node: onnx.NodeProto) -> Sequence[Dims | None]:
    target = sizes.values[node.input[0]]
    return [tuple(size if is_at_least(size, 0) else free(f"{node.output[0]}:{a}") for a, size in enumerate(target))]


DIM_RULES: dict[str, DimRule] = {
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Split": _split,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Concat": _concat,
    "Conv": _convolution,
    "MaxPool": _pooling,
    "AveragePool": _pooling,
    "Resize": _resize,
    "Pad": _pad,
    "Expand": _expand,
    "Range": _range,
    "MatMul": _matmul,
    "GridSample": _grid_sample,
    "ReduceSum": _reduce,
    "ConstantOfShape": _filled,
}

"""Multi-scale deformable attention as an ONNX op: the node's names and attributes, its bodies in standard operators.

The node carries the plugin's namespace and version; a model-local function of the same domain and name spells it in
standard operators, so the same file runs where nothing of ours is installed. The fused form takes what the layers give
(reference points, offsets, attention logits), the plain one sampling locations and attention weights.

Types: value and output float32, float16 or bfloat16; everything about coordinates and sums is float32 in the bodies.
Importing this loads nothing heavy.
"""

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

DOMAIN, VERSION = "ovavss", 1
PLAIN, FUSED = "OvavssMSDeformAttn", "OvavssMSDeformAttnFused"
ATTRIBUTES = {"plugin_namespace": "ovavss", "plugin_version": "1"}
BODY_OPSET = 20
# GridSample, which the bodies of lower opsets would need, exists since then.
LOWEST_OPSET = 16


class FallbackBody(StrEnum):
    """How the deformable attention's local function samples.

    GridSample is compact, but some TensorRT versions are reported to get it wrong; gather arithmetic needs nothing but
    Gather, and more memory.
    """

    GRID_SAMPLE = "grid_sample"
    GATHER = "gather"


def add_bodies(model: "onnx.ModelProto", levels: int, body: FallbackBody, opset: int = BODY_OPSET) -> None:
    """Give the model the local functions of the forms that it uses; `levels` is L of all of them."""
    for name in (PLAIN, FUSED):
        if any(node.op_type == name and node.domain == DOMAIN for node in model.graph.node):
            model.functions.append(function(name, levels, body, opset))
    if not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.add(domain=DOMAIN, version=VERSION)


def function(name: str, levels: int, body: FallbackBody, opset: int = BODY_OPSET) -> "onnx.FunctionProto":
    """The local function of a form, in operators of that opset: the model's own, for runtimes inline the function."""
    import onnx.parser

    head = _FUSED_HEAD if name == FUSED else _PLAIN_HEAD
    text = head + (_grid_sample(levels) if body is FallbackBody.GRID_SAMPLE else _GATHER) + "}"
    parsed = onnx.parser.parse_function(_in_opset(text, opset))
    parsed.doc_string = f"Multi-scale deformable attention, {body.value} arithmetic, {levels} levels."
    return parsed


def _in_opset(text: str, opset: int) -> str:
    """The bodies are written in BODY_OPSET; the few spellings that differ elsewhere."""
    text = text.replace(f'opset_import: ["": {BODY_OPSET}]', f'opset_import: ["": {opset}]')
    if opset < 20:
        text = text.replace('mode = "linear"', 'mode = "bilinear"')
    if opset < 18:  # the axes of ReduceProd were an attribute
        text = text.replace(
            "ReduceProd <keepdims = 0> (shapes64, one)", "ReduceProd <axes = [1], keepdims = 0> (shapes64)"
        )
    return text


# The attributes are the plugin's; the body does not use them.
_HEADER = f"""<domain: "{DOMAIN}", opset_import: ["": {BODY_OPSET}]>
"""
_SHARED = """
    one = Constant <value_ints = [1]> ()
    minus_one = Constant <value_ints = [-1]> ()
    width_height = Constant <value_ints = [1, 0]> ()
    shapes64 = Cast <to = 7> (shapes)
    sizes_int = Gather <axis = 1> (shapes64, width_height)
    sizes_flat = Cast <to = 1> (sizes_int)
    sizes = Unsqueeze (sizes_flat, one)
    value32 = Cast <to = 1> (value)
"""
_PLAIN_HEAD = (
    _HEADER
    + f"""{PLAIN} <plugin_namespace, plugin_version> (value, shapes, locations, weights) => (output)
{{"""
    + _SHARED
    + """
    places = Cast <to = 1> (locations)
    shares = Cast <to = 1> (weights)
"""
)
_FUSED_HEAD = (
    _HEADER
    + f"""{FUSED} <plugin_namespace, plugin_version> (value, shapes, references, offsets, logits) => (output)
{{"""
    + _SHARED
    + """
    logits32 = Cast <to = 1> (logits)
    logits_shape = Shape (logits)
    all_points = Constant <value_ints = [0, 0, 0, -1]> ()
    joined = Reshape (logits32, all_points)
    probabilities = Softmax <axis = -1> (joined)
    shares = Reshape (probabilities, logits_shape)
    offsets32 = Cast <to = 1> (offsets)
    steps = Div (offsets32, sizes)
    head_and_point = Constant <value_ints = [2, 4]> ()
    references32 = Cast <to = 1> (references)
    anchors = Unsqueeze (references32, head_and_point)
    places = Add (anchors, steps)
"""
)


_GRID_START = """
    two = Constant <value_float = 2.0> ()
    unit = Constant <value_float = 1.0> ()
    doubled = Mul (places, two)
    grid = Sub (doubled, unit)
    grids = Transpose <perm = [3, 0, 2, 1, 4, 5]> (grid)
    level_shares = Transpose <perm = [3, 0, 2, 1, 4]> (shares)
    grid_end = Shape <start = 3> (grids)
    grid_shape = Concat <axis = 0> (minus_one, grid_end)
    share_end = Shape <start = 3> (level_shares)
    share_shape = Concat <axis = 0> (minus_one, one, share_end)
    by_channel = Transpose <perm = [0, 2, 3, 1]> (value32)
    channels = Shape <start = 3, end = 4> (value)
    tokens = Shape <start = 1, end = 2> (value)
    maps_shape = Concat <axis = 0> (minus_one, channels, tokens)
    maps = Reshape (by_channel, maps_shape)
    token_axis = Constant <value_ints = [2]> ()
    zero = Constant <value_ints = [0]> ()
    end_ = Identity (zero)
"""
_GRID_LEVEL = """
    level# = Constant <value_ints = [#]> ()
    row# = Gather <axis = 0> (shapes64, level#)
    size# = Squeeze (row#, zero)
    area# = ReduceProd <keepdims = 1> (size#)
    end# = Add (end@, area#)
    tokens# = Slice (maps, end@, end#, token_axis)
    map_shape# = Concat <axis = 0> (minus_one, channels, size#)
    map# = Reshape (tokens#, map_shape#)
    one_grid# = Gather <axis = 0> (grids, level#)
    grid# = Reshape (one_grid#, grid_shape)
    samples# = GridSample <align_corners = 0, mode = "linear", padding_mode = "zeros"> (map#, grid#)
    one_share# = Gather <axis = 0> (level_shares, level#)
    share# = Reshape (one_share#, share_shape)
    weighted# = Mul (samples#, share#)
    summed# = ReduceSum <keepdims = 0> (weighted#, minus_one)
    total# = SUM
"""
_GRID_END = """
    batch = Shape <start = 0, end = 1> (value)
    heads = Shape <start = 2, end = 3> (value)
    width = Mul (heads, channels)
    out_shape = Concat <axis = 0> (batch, width, minus_one)
    wide = Reshape (total@, out_shape)
    turned = Transpose <perm = [0, 2, 1]> (wide)
    output = CastLike (turned, value)
"""


def _grid_sample(levels: int) -> str:
    """Level by level: GridSample with all heads as one batch, times the weights, summed over the points."""
    text = _GRID_START
    for level in range(levels):
        total = f"Add (total{level - 1}, summed{level})" if level else "Identity (summed0)"
        before = str(level - 1) if level else "_"
        text += _GRID_LEVEL.replace("#", str(level)).replace("@", before).replace("SUM", total)
    return text + _GRID_END.replace("@", str(levels - 1))


def _corner(x: str, y: str) -> str:
    """One of the four neighbors: its values, zero outside, times its bilinear weight and the attention weight."""
    name = f"{x}_{y}"
    return f"""
    at_least_{name} = And (x_ok_{x}, y_ok_{y})
    row_{name} = Mul (y_index_{y}, map_width)
    place_{name} = Add (row_{name}, x_index_{x})
    token_{name} = Add (place_{name}, starts)
    index_{name} = Add (token_{name}, head_start)
    found_{name} = Gather <axis = 0> (table, index_{name})
    bilinear_{name} = Mul (x_part_{x}, y_part_{y})
    inside_{name} = Cast <to = 1> (at_least_{name})
    part_{name} = Mul (bilinear_{name}, inside_{name})
    share_{name} = Mul (part_{name}, shares)
    flat_share_{name} = Reshape (share_{name}, share_shape)
    flat_found_{name} = Reshape (found_{name}, found_shape)
    sum_{name} = MatMul (flat_share_{name}, flat_found_{name})
"""


def _axis(axis: str) -> str:
    """Both neighbors along x or y: index inside the map, whether it is one, and the share of the sample."""
    return f"""
    {axis}_low = Floor ({axis})
    {axis}_part_1 = Sub ({axis}, {axis}_low)
    {axis}_part_0 = Sub (unit, {axis}_part_1)
    {axis}_high = Add ({axis}_low, unit)
    {axis}_last = Sub ({axis}_size, unit)
""" + "".join(
        f"""
    {axis}_not_below_{k} = GreaterOrEqual ({axis}_{which}, nothing)
    {axis}_not_above_{k} = LessOrEqual ({axis}_{which}, {axis}_last)
    {axis}_ok_{k} = And ({axis}_not_below_{k}, {axis}_not_above_{k})
    {axis}_raised_{k} = Max ({axis}_{which}, nothing)
    {axis}_clamped_{k} = Min ({axis}_raised_{k}, {axis}_last)
    {axis}_index_{k} = Cast <to = 7> ({axis}_clamped_{k})
"""
        for k, which in enumerate(("low", "high"))
    )


_GATHER = (
    """
    unit = Constant <value_float = 1.0> ()
    half = Constant <value_float = 0.5> ()
    nothing = Constant <value_float = 0.0> ()
    before_map = Constant <value_float = -2.0> ()
    pixels_raw = Mul (places, sizes)
    pixels_centered = Sub (pixels_raw, half)
    past_map = Add (sizes, unit)
    pixels_high = Min (pixels_centered, past_map)
    pixels = Max (pixels_high, before_map)
    x_index = Constant <value_int = 0> ()
    y_index = Constant <value_int = 1> ()
    x = Gather <axis = 5> (pixels, x_index)
    y = Gather <axis = 5> (pixels, y_index)
    x_size = Gather <axis = 2> (sizes, x_index)
    y_size = Gather <axis = 2> (sizes, y_index)
    map_width = Cast <to = 7> (x_size)
    areas = ReduceProd <keepdims = 0> (shapes64, one)
    axis_zero = Constant <value_int = 0> ()
    starts_flat = CumSum <exclusive = 1> (areas, axis_zero)
    starts = Unsqueeze (starts_flat, one)
    tokens = Shape <start = 1, end = 2> (value)
    channels = Shape <start = 3, end = 4> (value)
    batch = Shape <start = 0, end = 1> (value)
    heads = Shape <start = 2, end = 3> (value)
    rows = Mul (batch, heads)
    no_axis = Squeeze (rows)
    count_from = Constant <value_int = 0> ()
    count_by = Constant <value_int = 1> ()
    numbers = Range (count_from, no_axis, count_by)
    first_tokens = Mul (numbers, tokens)
    head_shape = Concat <axis = 0> (batch, one, heads, one, one)
    head_start = Reshape (first_tokens, head_shape)
    by_head = Transpose <perm = [0, 2, 1, 3]> (value32)
    table_shape = Concat <axis = 0> (minus_one, channels)
    table = Reshape (by_head, table_shape)
    shares_front = Shape <start = 0, end = 3> (shares)
    share_shape = Concat <axis = 0> (shares_front, one, minus_one)
    found_shape = Concat <axis = 0> (shares_front, minus_one, channels)
"""
    + _axis("x")
    + _axis("y")
    + "".join(_corner(x, y) for x in "01" for y in "01")
    + """
    upper = Add (sum_0_0, sum_1_0)
    lower = Add (sum_0_1, sum_1_1)
    whole = Add (upper, lower)
    width = Mul (heads, channels)
    queries = Shape <start = 1, end = 2> (shares)
    out_shape = Concat <axis = 0> (batch, queries, width)
    wide = Reshape (whole, out_shape)
    output = CastLike (wide, value)
"""
)

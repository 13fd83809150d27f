"""The TensorRT plugin in the real plugin registry and the real ONNX parser, TensorRT 10 and 11, with no GPU.

Only what the builder and the runtime themselves would do is not seen here: they need a driver.
"""

import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tensorrt_host.session import ROOT, Host, build, build_plugin, why_not

NAMES = {"plain": "OvavssMSDeformAttn", "fused": "OvavssMSDeformAttnFused"}
B, S, M, D, L, Q, P = 2, 30, 4, 32, 3, 5, 4
SHAPES = {
    "value": (B, S, M, D),
    "level_shapes": (L, 2),
    "locations": (B, Q, M, L, P, 2),
    "weights": (B, Q, M, L, P),
    "references": (1, Q, L, 2),
    "offsets": (B, Q, M, L, P, 2),
    "logits": (B, Q, M, L, P),
    "output": (B, Q, M * D),
}
TENSORS = {
    "plain": ["value", "level_shapes", "locations", "weights", "output"],
    "fused": ["value", "level_shapes", "references", "offsets", "logits", "output"],
}
ONNX_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "int64": TensorProto.INT64,
}


WHY_NOT = {major: why_not(major) for major in (10, 11)}
if all(WHY_NOT.values()):
    pytest.skip(next(iter(WHY_NOT.values())), allow_module_level=True)


@pytest.fixture(scope="module", params=[10, 11], ids=["tensorrt10", "tensorrt11"])
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Host:
    if WHY_NOT[request.param]:
        pytest.skip(WHY_NOT[request.param])
    return build(request.param, tmp_path_factory.mktemp(f"tensorrt{request.param}"))


def types_of(form: str, value: str = "float32", **other: str) -> dict[str, str]:
    types = {"value": value, "level_shapes": "int64", "output": value} | other
    return {name: types.get(name, "float32") for name in TENSORS[form]}


def tensors(form: str, types: dict[str, str] | None = None, **shapes: tuple[int, ...]) -> str:
    """The host's command that describes every tensor of the next calls."""
    types, shapes = types or types_of(form), SHAPES | shapes
    return "tensors " + " ".join(f"{types[name]}:{','.join(map(str, shapes[name]))}" for name in TENSORS[form])


def model(folder: Path, form: str, body: bool, value: str = "float32", **attributes: object) -> Path:
    """An ONNX file that holds the op alone. Its function body is no attention: one layer that is easily recognized."""
    op, inputs = NAMES[form], TENSORS[form][:-1]
    attributes = {"plugin_namespace": "ovavss", "plugin_version": "1"} | attributes
    sizes = {B: "batch", S: "tokens", Q: "queries"}
    infos = [
        helper.make_tensor_value_info(name, ONNX_TYPES[type_], [sizes.get(n, n) for n in SHAPES[name]])
        for name, type_ in types_of(form, value).items()
    ]
    infos[1] = helper.make_tensor_value_info("level_shapes", TensorProto.INT64, [L, 2])
    node = helper.make_node(op, inputs, ["output"], domain="ovavss", **attributes)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ovavss", 1)]
    relu = helper.make_node("Relu", ["value"], ["output"])
    function = helper.make_function("ovavss", op, inputs, ["output"], [relu], opsets[:1], attributes=list(attributes))
    graph = helper.make_graph([node], "op", infos[:-1], infos[-1:])
    file = folder / f"{form}_{body}_{value}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, functions=[function] * body, ir_version=10), file)
    return file


def check_symbols(library: Path) -> None:
    dynamic = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True).stdout
    assert "nvinfer" not in dynamic
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    assert sorted(line.split()[-1] for line in symbols.splitlines()) == ["getCreators", "setLoggerFinder"]


def test_library_stands_alone(host: Host) -> None:
    check_symbols(host.plugin)


def test_registry_finds_the_creators_by_name_version_and_namespace(host: Host) -> None:
    wanted = [f"find {name} 1 ovavss" for name in NAMES.values()]
    wrong = [f"find {NAMES['plain']} 2 ovavss", f"find {NAMES['plain']} 1 other", f"find {NAMES['plain']} 1"]
    before, loaded, *after = host.talk(wanted[0], f"load {host.plugin}", *wanted, *wrong)
    assert not before["found"] and loaded["loaded"]
    assert [answer["found"] for answer in after] == [True, True, False, False, False]
    assert after[0]["fields"] == []


def test_creator_reads_its_fields(host: Host) -> None:
    op = NAMES["plain"]
    commands = [f"create {op} run revision=1", f"create {op} run revision=2", f"create {op} build levels=3"]
    (_, *answers), heard = host.talk_and_hear(f"load {host.plugin}", *commands)
    assert [answer["created"] for answer in answers] == [True, False, False]
    assert heard.splitlines() == [
        "OvavssMSDeformAttn: revision 2 is wanted, this library knows revision 1.",
        "OvavssMSDeformAttn: unknown field 'levels'.",
    ]


@pytest.mark.parametrize("body", [False, True], ids=["bare", "with_function_body"])
@pytest.mark.parametrize("form", NAMES)
def test_parser_makes_a_plugin_layer(host: Host, tmp_path: Path, form: str, body: bool) -> None:
    _, parsed = host.talk(f"load {host.plugin}", f"parse {model(tmp_path, form, body)}")
    assert parsed["parsed"] and not parsed["errors"]
    (layer,) = parsed["layers"]
    assert (layer["name"], layer["version"], layer["namespace"]) == (NAMES[form], "1", "ovavss")
    assert layer["inputs"] == TENSORS[form][:-1]
    assert (layer["type"], layer["dims"]) == ("float32", [-1, -1, M * D])
    assert not [line for line in parsed["log"] if "not found" in line]


@pytest.mark.parametrize("value", ["float16", "bfloat16"])
def test_parser_keeps_the_type_of_the_value(host: Host, tmp_path: Path, value: str) -> None:
    _, parsed = host.talk(f"load {host.plugin}", f"parse {model(tmp_path, 'fused', True, value)}")
    assert [layer["type"] for layer in parsed["layers"]] == [value]


def test_parser_without_the_library_takes_the_function_body(host: Host, tmp_path: Path) -> None:
    (with_body,) = host.talk(f"parse {model(tmp_path, 'plain', True)}")
    assert with_body["parsed"] and [layer.get("name") for layer in with_body["layers"]] == [None]
    (bare,) = host.talk(f"parse {model(tmp_path, 'plain', False)}")
    assert not bare["parsed"] and "Plugin not found" in bare["errors"][0]


def test_parser_refuses_another_version_of_the_plugin(host: Host, tmp_path: Path) -> None:
    _, parsed = host.talk(f"load {host.plugin}", f"parse {model(tmp_path, 'plain', False, plugin_version='2')}")
    assert not parsed["parsed"]


@pytest.mark.parametrize("form", NAMES)
def test_output_shape_and_type(host: Host, form: str) -> None:
    unknown = {name: (-1, *SHAPES[name][1:]) for name in ("value", "locations", "weights", "offsets", "logits")}
    unknown |= {name: (-1, -1, *SHAPES[name][2:]) for name in ("locations", "weights", "offsets", "logits")}
    unknown["references"] = (1, -1, L, 2)
    commands = [tensors(form, types_of(form, "bfloat16")), "output", tensors(form, **unknown), "output"]
    _, _, _, known, _, dynamic = host.talk(f"load {host.plugin}", f"create {NAMES[form]} build", *commands)
    assert (known["type"], known["dims"]) == ("bfloat16", [B, Q, M * D])
    assert (dynamic["type"], dynamic["dims"]) == ("float32", [-1, -1, M * D])


ACCEPTED = [
    ("plain", types_of("plain", value, weights=weights, level_shapes=shapes))
    for value in ("float32", "float16", "bfloat16")
    for weights in {"float32", value}
    for shapes in ("int64", "int32")
] + [
    ("fused", types_of("fused", value, offsets=offsets, logits=offsets))
    for value in ("float32", "float16", "bfloat16")
    for offsets in {"float32", value}
]
REFUSED = [
    ("plain", types_of("plain", "int8"), "value"),
    ("plain", types_of("plain", level_shapes="float32"), "level_shapes"),
    ("plain", types_of("plain", "float16", locations="float16"), "locations"),
    ("plain", types_of("plain", "float32", weights="float16"), "weights"),
    ("plain", types_of("plain", "bfloat16", weights="float16"), "weights"),
    ("plain", types_of("plain", "float16", output="float32"), "output"),
    ("fused", types_of("fused", "float16", references="float16"), "references"),
    ("fused", types_of("fused", "float16", offsets="bfloat16"), "offsets"),
    ("fused", types_of("fused", "float16", offsets="float16"), "logits"),
    ("fused", types_of("fused", "float16", output="float32"), "output"),
]


def test_format_combinations(host: Host) -> None:
    commands, wanted = [f"load {host.plugin}"], []
    for form, types, refused in [(*case, None) for case in ACCEPTED] + REFUSED:
        commands += [f"create {NAMES[form]} build", tensors(form, types), "formats"]
        wanted.append(len(TENSORS[form]) if refused is None else TENSORS[form].index(refused))
    taken = [answer["taken"] for answer in host.talk(*commands)[3::3]]
    assert taken == wanted


def test_only_linear_tensors_are_taken(host: Host) -> None:
    linear = tensors("plain")
    parts = linear.split()
    commands = [f"load {host.plugin}", f"create {NAMES['plain']} build"]
    for which in range(1, len(parts)):
        commands += [" ".join([*parts[:which], parts[which] + ":3", *parts[which + 1 :]]), "formats"]
    assert [answer["taken"] for answer in host.talk(*commands)[3::2]] == list(range(len(TENSORS["plain"])))


@pytest.mark.parametrize("form", NAMES)
def test_whole_life(host: Host, tmp_path: Path, form: str) -> None:
    """Parsed, configured, cloned, written into an engine and read back, attached to a context, given shapes."""
    commands = [tensors(form), "configure", "clone", "reread", "clone", "attach", "change", "output"]
    _, parsed, _, configured, cloned, reread, again, attached, changed, output = host.talk(
        f"load {host.plugin}", f"parse {model(tmp_path, form, True)}", *commands
    )
    assert parsed["parsed"] and configured["code"] == changed["code"] == 0
    assert {answer["name"] for answer in (cloned, reread, again, attached)} == {NAMES[form]}
    assert reread["fields"] == [{"name": "revision", "value": 1}]
    assert output["dims"] == [B, Q, M * D]


def test_library_built_for_tensorrt_10_lives_in_11(host: Host, tmp_path: Path) -> None:
    """The build takes the oldest headers that it finds: TensorRT's interfaces carry their own versions."""
    if WHY_NOT[10]:
        pytest.skip(WHY_NOT[10])
    older = build_plugin(10, tmp_path / "older.so")
    commands = [tensors("fused"), "configure", "reread", "attach", "change", "output"]
    *_, changed, output = host.talk(f"load {older}", f"parse {model(tmp_path, 'fused', True)}", *commands)
    assert changed["code"] == 0 and output["dims"] == [B, Q, M * D]


def test_library_as_users_build_it(host: Host, tmp_path: Path) -> None:
    """With the real CUDA kernels where nvcc was found. Without a driver their launch fails, and enqueue must say so."""
    library = Path(
        os.environ.get("OVAVSS_TENSORRT_PLUGIN", ROOT / "build" / "plugins" / "libovavss_msdeform_attn_trt.so")
    )
    if not library.exists():
        pytest.skip("the plugin library is not built: run make plugins, or name the file in OVAVSS_TENSORRT_PLUGIN")
    check_symbols(library)
    commands = [tensors("plain"), "configure", "reread", "attach", "change"]
    if not Path("/dev/nvidiactl").exists():
        commands.append("enqueue")
    answers, heard = host.talk_and_hear(f"load {library}", f"parse {model(tmp_path, 'plain', True)}", *commands)
    assert answers[1]["parsed"] and answers[3]["code"] == answers[6]["code"] == 0
    if commands[-1] == "enqueue":
        code = answers[-1]["code"]
        assert code != 0 and heard.strip().endswith(f"(CUDA error {code}).")


BAD_SHAPES = [
    ("plain", {"value": (B, S, M)}, "value has shape [2,30,4] where [B,S,M,D] is wanted."),
    ("plain", {"level_shapes": (L, 3)}, "level_shapes has shape [3,3] where [L,2] is wanted: dimension 1 must be 2."),
    (
        "plain",
        {"locations": (B, Q, 8, L, P, 2)},
        "locations has shape [2,5,8,3,4,2] where [B,Q,M,L,P,2] is wanted: value tells that M is 4.",
    ),
    (
        "plain",
        {"weights": (B, Q, M, 2, P)},
        "weights has shape [2,5,4,2,4] where [B,Q,M,L,P] is wanted: level_shapes tells that L is 3.",
    ),
    (
        "plain",
        {"output": (B, Q, M * D + 1)},
        "output has shape [2,5,129] where [B,Q,M*D] is wanted: dimension 2 must be 128.",
    ),
    (
        "plain",
        {"value": (B, S, M, 12), "output": (B, Q, M * 12)},
        "cannot be computed (value has shape [2,30,4,12]): the channels of a head must be a multiple of 8.",
    ),
    (
        "fused",
        {"references": (3, Q, L, 2)},
        "references has shape [3,5,3,2] where [B or 1,Q,L or 1,2] is wanted: value tells that B is 2.",
    ),
    (
        "fused",
        {"offsets": (B, 6, M, L, P, 2)},
        "offsets has shape [2,6,4,3,4,2] where [B,Q,M,L,P,2] is wanted: references tells that Q is 5.",
    ),
    (
        "fused",
        {"logits": (B, Q, M, L, 3)},
        "logits has shape [2,5,4,3,3] where [B,Q,M,L,P] is wanted: offsets tells that P is 4.",
    ),
]


@pytest.mark.parametrize("call", ["change", "configure", "enqueue"])
def test_shapes_that_do_not_fit_are_refused_with_one_sentence(host: Host, call: str) -> None:
    commands = [f"load {host.plugin}"]
    for form, shapes, _ in BAD_SHAPES:
        commands += [f"create {NAMES[form]} run", tensors(form, **shapes), call]
    answers, heard = host.talk_and_hear(*commands)
    assert all(answer["code"] != 0 for answer in answers[3::3])
    assert heard.splitlines() == [f"{NAMES[form]}: {sentence}" for form, _, sentence in BAD_SHAPES]


def test_references_may_be_shared_and_sizes_may_be_zero(host: Host) -> None:
    commands = [f"load {host.plugin}", f"create {NAMES['fused']} run"]
    for shape in [(1, Q, 1, 2), (B, Q, 1, 2), (B, Q, L, 2)]:
        commands += [tensors("fused", references=shape), "change"]
    empty = {name: (B, 0, *SHAPES[name][2:]) for name in ("offsets", "logits", "output")} | {"references": (1, 0, L, 2)}
    commands += [tensors("fused", **empty), "change"]
    assert [answer["code"] for answer in host.talk(*commands)[3::2]] == [0, 0, 0, 0]


def test_shapes_that_are_wrong_already_in_the_graph_are_refused_while_parsing(host: Host) -> None:
    commands = [f"create {NAMES['plain']} build", tensors("plain", weights=(-1, -1, M, L + 1, P)), "output"]
    answers, heard = host.talk_and_hear(f"load {host.plugin}", *commands)
    assert answers[-1]["refused"] and heard.startswith("OvavssMSDeformAttn: weights has shape [-1,-1,4,4,4]")


def test_sentences_go_to_the_logger_that_tensorrt_gives(host: Host) -> None:
    commands = [f"create {NAMES['plain']} run", tensors("plain", value=(B, S, M)), "change"]
    answers, heard = host.talk_and_hear(f"load {host.plugin}", f"finder {host.plugin}", *commands)
    assert answers[-1]["log"] == ["OvavssMSDeformAttn: value has shape [2,30,4] where [B,S,M,D] is wanted."]
    assert heard == ""


def test_enqueue_without_cuda_says_so(host: Host) -> None:
    (*_, answer), heard = host.talk_and_hear(
        f"load {host.plugin}", f"create {NAMES['plain']} run", tensors("plain"), "enqueue"
    )
    assert answer["code"] == 801  # cudaErrorNotSupported
    assert heard.strip() == (
        "OvavssMSDeformAttn: the plugin library was built without CUDA; configure it again where nvcc is found "
        "(CUDA error 801)."
    )


@pytest.mark.parametrize("form", NAMES)
def test_enqueue_hands_every_tensor_to_the_kernel(host: Host, tmp_path: Path, form: str) -> None:
    """The library is linked with a kernel that writes down what it is given."""
    types = types_of(form, "float16", level_shapes="int32")
    files = []
    for i, name in enumerate(TENSORS[form]):
        size = int(np.prod(SHAPES[name])) * {"float16": 2, "float32": 4, "int32": 4}[types[name]]
        (tmp_path / name).write_bytes(struct.pack("<q", 1000 + i).ljust(size, b"\0"))
        files.append(str(tmp_path / name))
    enqueue = "enqueue " + " ".join(files)
    *_, answer = host.talk(
        f"load {host.plugin_with_kernel}", f"create {NAMES[form]} run", tensors(form, types), "attach", enqueue
    )
    assert answer["code"] == 0
    seen = struct.unpack("<17q", (tmp_path / "output").read_bytes()[:136])
    assert seen[:7] == (B, S, M, D, L, Q, P)
    assert seen[7:9] == ((1, L) if form == "fused" else (B, L))
    assert seen[9:12] == (1, 0, 1)  # float16 values, float32 weights, int32 level shapes
    assert list(seen[12 : 12 + len(files) - 1]) == [1000 + i for i in range(len(files) - 1)]


def test_enqueue_returns_the_error_of_the_launch(host: Host) -> None:
    thirteen = {name: (B, 13, *SHAPES[name][2:]) for name in ("locations", "weights", "output")}
    (*_, answer), heard = host.talk_and_hear(
        f"load {host.plugin_with_kernel}", f"create {NAMES['plain']} run", tensors("plain", **thirteen), "enqueue"
    )
    assert answer["code"] == 719
    assert heard.strip() == "OvavssMSDeformAttn: the kernel was not launched (CUDA error 719)."

from __future__ import annotations

from pathlib import Path

import numpy as np

SIDE = 640


def _save(path: Path, nodes, constants, inputs, outputs) -> None:
    """Write a graph; `inputs` and `outputs` are (name, shape), shapes may hold names."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def described(items):
        kinds = {"labels": TensorProto.INT64}
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in items
        ]

    graph = helper.make_graph(
        nodes,
        path.stem,
        described(inputs),
        described(outputs),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_constant(path: Path, input_shape, outputs: dict[str, np.ndarray]) -> None:
    """A network that gives the same outputs for every picture; `outputs` are without the batch.

    The batch is repeated as often as the input has pictures.
    """
    from onnx import helper

    nodes = [
        helper.make_node("Shape", ["input"], ["size"], start=0, end=1),
    ]
    constants, described = {}, []
    for name, value in outputs.items():
        constants[f"{name}-one"] = np.float32(value)[None]
        constants[f"{name}-ones"] = np.ones(value.ndim, np.int64)
        nodes += [
            helper.make_node("Concat", ["size", f"{name}-ones"], [f"{name}-repeats"], axis=0),
            helper.make_node("Tile", [f"{name}-one", f"{name}-repeats"], [name]),
        ]
        described.append((name, [input_shape[0], *value.shape]))
    _save(path, nodes, constants, [("input", input_shape)], described)


def write_yolox(path: Path, *, side: int = SIDE, batch=1, seed: int = 0) -> None:
    """As Megvii's: raw output (N, cells, 85) of three strides, sure of persons here and there."""
    from onnx import helper

    rng = np.random.default_rng(seed)
    nodes, constants, parts = [], {}, []
    constants["shape"] = np.array([0, 85, -1], np.int64)
    for stride in (8, 16, 32):
        kernel = rng.normal(0, 1 / (255 * stride * 1.7), (85, 3, stride, stride))
        # Differences of colours and of places, so that a flat picture leaves the bias alone.
        kernel -= kernel.mean((1, 2, 3), keepdims=True)
        bias = np.zeros(85)
        bias[2:4] = np.log(4.0)
        kernel[4:6] *= 4
        bias[4:6] = -0.8
        bias[6:] = -6.0
        constants[f"kernel-{stride}"] = kernel.astype(np.float32)
        constants[f"bias-{stride}"] = bias.astype(np.float32)
        nodes += [
            helper.make_node(
                "Conv",
                ["images", f"kernel-{stride}", f"bias-{stride}"],
                [f"conv-{stride}"],
                strides=[stride, stride],
            ),
            helper.make_node("Reshape", [f"conv-{stride}", "shape"], [f"flat-{stride}"]),
        ]
        parts.append(f"flat-{stride}")
    constants["cut"] = np.array([4, 81], np.int64)
    nodes += [
        helper.make_node("Concat", parts, ["all"], axis=2),
        helper.make_node("Transpose", ["all"], ["cells"], perm=[0, 2, 1]),
        helper.make_node("Split", ["cells", "cut"], ["boxes", "logits"], axis=2),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["output"], axis=2),
    ]
    cells = sum((side // stride) ** 2 for stride in (8, 16, 32))
    _save(
        path,
        nodes,
        constants,
        [("images", [batch, 3, side, side])],
        [("output", [batch, cells, 85])],
    )


def write_simcc(path: Path, size_hw: tuple[int, int], *, seed: int = 0) -> None:
    """As DWPose and RTMW: (N, 133, 2 w) and (N, 133, 2 h), its batch of any length."""
    from onnx import helper

    rng = np.random.default_rng(seed)
    height, width = size_hw
    nodes, constants, outputs = [], {}, []
    constants["shape"] = np.array([0, 192], np.int64)
    nodes += [
        helper.make_node(
            "AveragePool",
            ["input"],
            ["small"],
            kernel_shape=[height // 8, width // 8],
            strides=[height // 8, width // 8],
        ),
        helper.make_node("Reshape", ["small", "shape"], ["features"]),
    ]
    for name, length in (("simcc_x", 2 * width), ("simcc_y", 2 * height)):
        constants[f"{name}-in"] = rng.normal(0, 0.3, (192, 133)).astype(np.float32)
        wave = np.sin(np.linspace(0, 3, length)[None] + np.linspace(0, 3, 133)[:, None])
        constants[f"{name}-wave"] = wave[None].astype(np.float32)
        constants["axis"] = np.array([2], np.int64)
        nodes += [
            helper.make_node("MatMul", ["features", f"{name}-in"], [f"{name}-points"]),
            helper.make_node("Unsqueeze", [f"{name}-points", "axis"], [f"{name}-wide"]),
            helper.make_node("Mul", [f"{name}-wide", f"{name}-wave"], [name]),
        ]
        outputs.append((name, ["batch", 133, length]))
    _save(path, nodes, constants, [("input", ["batch", 3, height, width])], outputs)


def write_boxes(path: Path, *, side: int = SIDE, seed: int = 0) -> None:
    """As OpenMMLab's: (N, K, 5) boxes with scores and (N, K) labels, thinned out and sorted."""
    from onnx import TensorProto, helper

    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, side / 2, (6, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(60, 200, (6, 2))], axis=1)
    constants = {
        "boxes": boxes[None].astype(np.float32),
        "weights": rng.normal(0, 1, (64 * 3, 6)).astype(np.float32),
        "zeros": np.zeros((1, 6), np.float32),
        "shape": np.array([0, 192], np.int64),
        "last": np.array([2], np.int64),
        "mean": np.float32(114),
        "scale": np.float32(60),
        "ones": np.ones(2, np.int64),
    }
    step = side // 8
    nodes = [
        helper.make_node(
            "AveragePool", ["input"], ["small"], kernel_shape=[step, step], strides=[step, step]
        ),
        helper.make_node("Reshape", ["small", "shape"], ["levels"]),
        helper.make_node("Sub", ["levels", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["features"]),
        helper.make_node("MatMul", ["features", "weights"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Unsqueeze", ["scores", "last"], ["column"]),
        helper.make_node("Shape", ["input"], ["count"], start=0, end=1),
        helper.make_node("Concat", ["count", "ones"], ["repeats"], axis=0),
        helper.make_node("Tile", ["boxes", "repeats"], ["all-boxes"]),
        helper.make_node("Concat", ["all-boxes", "column"], ["dets"], axis=2),
        helper.make_node("Mul", ["scores", "zeros"], ["label-zeros"]),
        helper.make_node("Cast", ["label-zeros"], ["labels"], to=TensorProto.INT64),
    ]
    outputs = [("dets", ["batch", 6, 5]), ("labels", ["batch", 6])]
    _save(path, nodes, constants, [("input", ["batch", 3, side, side])], outputs)

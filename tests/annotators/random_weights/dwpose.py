from __future__ import annotations

import runpy
from pathlib import Path


def write(folder: Path) -> None:
    """Small random networks with the inputs and outputs of the two published files."""
    networks = runpy.run_path(str(Path(__file__).with_name("onnx_networks.py")))
    networks["write_yolox"](folder / "yolox_l.onnx")
    networks["write_simcc"](folder / "dw-ll_ucoco_384.onnx", (384, 288))

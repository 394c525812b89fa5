from __future__ import annotations

import runpy
from pathlib import Path


def write(folder: Path) -> None:
    """Small random networks with the inputs and outputs of the three published files."""
    networks = runpy.run_path(str(Path(__file__).with_name("onnx_networks.py")))
    networks["write_boxes"](folder / "yolox_m_8xb8-300e_humanart-c2c7a14a.onnx")
    for size_hw in ((384, 288), (256, 192)):
        name = f"rtmw-dw-x-l_simcc-cocktail14_270e-{size_hw[0]}x{size_hw[1]}_20231122.onnx"
        networks["write_simcc"](folder / name, size_hw)

from __future__ import annotations

import pytest
import torch

from condkit.device import choose_device, choose_dtype, computes_bf16
from condkit.errors import ConfigError, UnknownNameError

CPU = torch.device("cpu")


def test_a_named_device_is_honoured() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize(
    ("name", "words"),
    [("tpux", "expected auto, cpu"), ("cuda:99", "CUDA devices; use"), ("mps", "not available")],
)
def test_a_device_that_is_not_there_says_what_to_do(name: str, words: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has an MPS device")
    with pytest.raises(ConfigError, match=words):
        choose_device(name)


def test_auto_is_bf16_only_where_the_hardware_has_it() -> None:
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if computes_bf16(CPU) else torch.float32)
    assert choose_dtype("fp32", CPU) == torch.float32
    assert choose_dtype("fp16", torch.device("cuda")) == torch.float16


def test_an_impossible_dtype_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bf16'"):
        choose_dtype("bf166", CPU)
    with pytest.raises(ConfigError, match="not on the CPU"):
        choose_dtype("fp16", CPU)

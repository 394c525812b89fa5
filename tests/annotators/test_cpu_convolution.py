from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from condkit.annotators.nets import cpu_convolution
from condkit.annotators.nets.colour_convolution import ColourConvolution
from condkit.annotators.nets.cpu_convolution import (
    MaxPool2x2,
    PackedConvolution,
    convolve_onto,
    max_pool_2x2,
    pack,
)
from condkit.annotators.nets.strips import in_strips


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def fused(request, monkeypatch):
    """With oneDNN's fused call, and as where it is missing."""
    if request.param and not cpu_convolution.fused_calls_are_there():
        pytest.skip("this torch has no oneDNN")
    if not request.param:
        monkeypatch.setattr(cpu_convolution, "fused_calls_are_there", lambda: False)
    return request.param


def _random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _close(found, expected, *, levels=1.0):
    scale = expected.abs().max()
    return float((found.float() - expected).abs().max()) <= levels * 2**-7 * float(scale)


GEOMETRIES = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "stride": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 5, "dilation": 5},
    "depthwise": {"kernel_size": 5, "padding": 2, "groups": 8},
    "without bias": {"kernel_size": 3, "bias": False},
}


@pytest.mark.parametrize("activation", [None, nn.ReLU(), nn.ReLU6()], ids=str)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_packed_convolution_is_the_convolution(name, activation, fused):
    convolution = nn.Conv2d(8, 8, **GEOMETRIES[name]).requires_grad_(False)
    inputs = 3 * _random(2, 8, 17, 23)
    expected = convolution(inputs)
    expected = expected if activation is None else activation(expected)
    packed = PackedConvolution(convolution, activation)
    with torch.inference_mode():
        for size in (23, 12):  # packed for the first size, right for the next
            found = packed(inputs[..., :size])
            assert found.dtype == torch.bfloat16
        assert _close(packed(inputs), expected, levels=2)


def test_an_exact_convolution_keeps_what_bf16_loses(fused):
    convolution = nn.Conv2d(3, 16, 3, padding=1).requires_grad_(False)
    inputs = 100 + _random(1, 3, 20, 20)
    expected = convolution(inputs)
    with torch.inference_mode():
        exact, rounded = (PackedConvolution(convolution, exact=e)(inputs) for e in (True, False))
    assert torch.equal(exact, expected.bfloat16()) or _close(exact, expected, levels=0.5)
    assert (exact - expected).abs().mean() < (rounded - expected).abs().mean()


def test_a_sum_is_made_before_it_is_rounded(fused):
    convolution = nn.Conv2d(8, 8, 1, bias=False).requires_grad_(False)
    inputs, base = _random(1, 8, 9, 9), _random(1, 8, 9, 9, seed=1)
    with torch.inference_mode():
        found = convolve_onto(base, PackedConvolution(convolution), inputs)
        plain = convolve_onto(base, convolution, inputs)
    assert _close(found, plain)
    assert torch.allclose(plain, base + convolution(inputs))


class _Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(8, 2, 1)
        self.odd = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect")

    def forward(self, pixels):
        return self.odd(self.head(self.features(pixels)))


def test_packing_a_network_keeps_its_output(fused):
    torch.manual_seed(0)
    network = _Small()
    for _ in range(3):
        network(4 * torch.randn(2, 3, 16, 16))  # so that the normalisation has seen something
    network.eval().requires_grad_(False)
    inputs = 4 * _random(2, 3, 20, 26)
    expected = network(inputs)
    pack(network, exact=("features.0",))
    kinds = [type(layer).__name__ for layer in network.features]
    assert kinds == [
        "PackedConvolution",
        "Identity",
        "Identity",
        "MaxPool2x2",
        "PackedConvolution",
        "Identity",
    ]
    assert type(network.odd) is nn.Conv2d
    with torch.inference_mode():
        found = network(inputs)
    assert _close(found, expected, levels=4)


def test_an_exact_name_that_is_no_convolution_is_refused():
    with pytest.raises(KeyError, match=r"features\.9"):
        pack(_Small().eval(), exact=("features.9",))


@given(
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
def test_max_pooling_is_torchs(height, width, dtype, seed):
    inputs = _random(2, 3, height, width, seed=seed).to(dtype)
    assert torch.equal(max_pool_2x2(inputs), F.max_pool2d(inputs, 2))
    assert torch.equal(MaxPool2x2()(inputs), F.max_pool2d(inputs, 2))


@pytest.mark.parametrize("bgr", [False, True])
@pytest.mark.parametrize("mean", [(0.0, 0.0, 0.0), (122.67891, 116.66877, 104.00699)])
def test_a_first_convolution_is_exact_in_bf16(bgr, mean):
    convolution = nn.Conv2d(3, 16, 3, padding=1).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (1, 3, 12, 14), generator=generator).float()
    centred = (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / 255
    expected = convolution(centred.flip(1) if bgr else centred)
    whole, split = (
        ColourConvolution(convolution, mean=mean, scale=1 / 255, bgr=bgr, split=split)
        for split in (False, True)
    )
    with torch.inference_mode():
        assert torch.allclose(whole(pixels), expected, atol=1e-5)
        inner = (..., slice(1, -1), slice(1, -1))  # at the border the mean is a whole number
        assert torch.allclose(split(pixels)[inner], expected[inner], atol=1e-5)
        low = split.to(torch.bfloat16)(pixels).float()
    assert torch.allclose(low[inner], expected[inner], atol=2**-8 * float(expected.abs().max()))


@pytest.mark.parametrize("height", [2, 64, 66, 130])
def test_strips_give_what_the_whole_gives(height):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
    pixels = _random(1, 3, height, 10)

    def finish(hidden):
        return hidden.sum(dim=1, keepdim=True), max_pool_2x2(hidden)

    with torch.inference_mode():
        whole = finish(layers(pixels))
        strips = in_strips(layers, finish, pixels, reach=2)
    for one, other in zip(whole, strips, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_convolutions_in_groups_cannot_be_kept_exact():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)).eval()
    with pytest.raises(ValueError, match="in groups cannot be kept exact"):
        pack(network, exact={"0"})


def test_layers_kept_in_full_give_fp32_and_its_values():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    network.eval().requires_grad_(False)
    inputs = torch.randn(1, 3, 20, 24)
    first = network[:3](inputs)
    pack(network, full=("0",))
    assert network[0](inputs).dtype == torch.float32
    assert torch.allclose(network[0](inputs), first, atol=1e-5)
    assert network(inputs).dtype == torch.bfloat16

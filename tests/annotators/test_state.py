"""Reading weight files: plain tensors, on the CPU, all of them."""

from __future__ import annotations

import re

import pytest
import torch

from condkit.annotators.nets.state import load_strictly, read_state_dict
from condkit.errors import WeightsError


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))


def _equal(state, network):
    expected = network.state_dict()
    assert state.keys() == expected.keys()
    return all(torch.equal(state[key], value) for key, value in expected.items())


def _save_as_on_a_gpu(state, path, monkeypatch):
    """The same bytes that saving CUDA tensors writes: each storage is labelled cuda:0."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(state, path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the plain load succeeds where there is CUDA")
def test_a_file_saved_on_a_gpu_needs_a_place_to_load_to(tmp_path, network, monkeypatch):
    """The premise of the next test: without it, such a file cannot be read on this machine."""
    _save_as_on_a_gpu(network.state_dict(), tmp_path / "cuda.pth", monkeypatch)
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(tmp_path / "cuda.pth", weights_only=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_saved_on_a_gpu_loads_on_a_machine_without_one(
    tmp_path, network, monkeypatch, zipped
):
    """Defect 20: map_location is the CPU for every file, of torch's new and old format."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(
            network.state_dict(), tmp_path / "cuda.pth", _use_new_zipfile_serialization=zipped
        )
    state = read_state_dict(tmp_path / "cuda.pth")
    assert {value.device.type for value in state.values()} == {"cpu"}
    assert _equal(state, network)


@pytest.mark.parametrize("key", ["state_dict", "model", None])
@pytest.mark.parametrize("prefix", ["module.", ""])
def test_wrapped_checkpoints_of_data_parallel_trainings_are_understood(
    tmp_path, network, key, prefix
):
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / "a.pth")
    assert _equal(read_state_dict(tmp_path / "a.pth"), network)


def test_safetensors_and_halves_come_as_float32(tmp_path, network):
    from safetensors.torch import save_file

    save_file(network.half().state_dict(), tmp_path / "a.safetensors")
    state = read_state_dict(tmp_path / "a.safetensors")
    floats = [value for value in state.values() if value.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}
    assert _equal(state, network.float())


class _Evil:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_no_code_in_a_weight_file_runs(tmp_path, capsys):
    torch.save({"weight": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth: not a torch file of plain tensors"):
        read_state_dict(tmp_path / "evil.pth")
    assert "must never run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", b"PK\3\4 cut off"])
def test_what_is_no_weight_file_is_named(tmp_path, content):
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"page\.pth: not a torch file"):
        read_state_dict(path)


def test_something_else_than_tensors_is_refused(tmp_path):
    torch.save([1, 2, 3], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="expected a state dict, got list"):
        read_state_dict(tmp_path / "list.pth")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda state: state.pop("0.bias"), "0.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not tiny's"),
        (lambda state: state.update({"0.bias": torch.zeros(5)}), "0.bias has shape (5,)"),
    ],
)
def test_a_network_is_filled_whole_or_not_at_all(tmp_path, network, change, complaint):
    """Defect 17: no strict=False, which leaves a network half filled and still drawing."""
    state = network.state_dict()
    change(state)
    with pytest.raises(WeightsError, match=re.escape(complaint)):
        load_strictly(network, state, tmp_path / "a.pth", "tiny")

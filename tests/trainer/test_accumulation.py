"""Many passes in one step, and steps that do not fit into memory at once."""

import logging

import numpy as np
import pytest
import torch

from condkit.errors import DeviceMemoryError
from condkit.trainer.base_loading import load_base
from condkit.trainer.compute import resolve_compute
from condkit.trainer.config import ControlConfig
from condkit.trainer.control_net import new_control_net
from condkit.trainer.data import Example
from condkit.trainer.latents import LatentCache, LatentEncoder
from condkit.trainer.run_folder import RunFolder
from condkit.trainer.run_log import read_metrics
from condkit.trainer.step import OptimizerStep
from condkit.trainer.train import train

CPU = resolve_compute("cpu", "fp32")


def example(key: str, size: int = 32) -> Example:
    rng = np.random.default_rng([ord(letter) for letter in key])
    return Example(
        key=key,
        use=0,
        caption="a red circle",
        pixels=rng.uniform(-1, 1, (3, size, size)).astype(np.float32),
        hint=rng.uniform(0, 1, (3, size, size)).astype(np.float32),
        picture_hw=(size, size),
        box=(0, 0, size, size),
        flipped=False,
        crop_repeats=True,
    )


@pytest.fixture(scope="module")
def base(epsilon_base):
    return load_base(str(epsilon_base), CPU)


def descent(base, config, batches, *, watch=None, steps: int = 1):
    """The weights after plain gradient descent: Adam would hide a wrong scale of the gradient."""
    control_net = new_control_net(base, ControlConfig(), 0)
    if watch is not None:
        watch(control_net)
    sgd = torch.optim.SGD(control_net.parameters(), lr=0.1)
    step = OptimizerStep(base, control_net, sgd, LatentEncoder(base, LatentCache(2**20)), config)
    results = [step(done, batches, 0.1) for done in range(1, steps + 1)]
    return control_net.state_dict(), results


def assert_close(one, other):
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-3, atol=1e-6, msg=name)


class LittleMemory:
    """A device on which a network takes `limit` samples at once.

    Attributes:
        taken: How many each finished pass had.
        refused: How many each failed pass had.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken: list[int] = []
        self.refused: list[int] = []

    def __call__(self, control_net) -> None:
        control_net.register_forward_pre_hook(self._look)

    def _look(self, module, arguments) -> None:
        size = len(arguments[0])
        if size > self.limit:
            self.refused.append(size)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.taken.append(size)


def test_a_short_last_pass_counts_as_many_samples_as_it_has(base, small_run):
    """A mean of means would weigh the one sample of the last pass as much as three others."""
    keys = [example(key) for key in "abcd"]
    config = small_run(optim__accumulation="2", optim__clip_norm="0")
    whole, _ = descent(base, config, [keys])
    parts, (result,) = descent(base, config, [keys[:3], keys[3:]])
    assert_close(parts, whole)
    assert result.keys == ("a", "b", "c", "d")
    assert result.losses.shape == (4,)


def test_pictures_of_several_sizes_share_a_step(base, small_run):
    config = small_run(optim__accumulation="2")
    _, (result,) = descent(base, config, [[example("a", 32)], [example("b", 48)]])
    assert result.latents_hw == ((8, 8), (12, 12))
    assert bool(result.losses.isfinite().all())


@pytest.mark.parametrize(("limit", "sizes"), [(2, [2, 2]), (1, [1, 1, 1, 1])])
def test_a_step_that_runs_out_of_memory_is_done_again_in_halves(
    base, small_run, caplog, limit, sizes
):
    batch = [example(key) for key in "abcd"]
    config = small_run(optim__clip_norm="0")
    whole, (wanted,) = descent(base, config, [batch])
    memory = LittleMemory(limit)
    with caplog.at_level(logging.WARNING):
        halves, (result,) = descent(base, config, [batch], watch=memory)
    assert memory.taken == sizes
    assert_close(halves, whole)
    assert result.keys == wanted.keys
    torch.testing.assert_close(result.losses, wanted.losses)
    said = [record.getMessage() for record in caplog.records]
    assert f"does not hold {2 * limit} samples at once" in said[-1]
    assert f"with {limit} at once in {4 // limit} passes" in said[-1]


def test_what_was_learnt_to_fit_is_kept_for_the_run(base, small_run):
    memory = LittleMemory(2)
    batch = [example(key) for key in "abcd"]
    descent(base, small_run(), [batch], watch=memory, steps=3)
    assert memory.refused == [4]
    assert memory.taken == [2] * 6


def test_a_failure_in_a_later_pass_leaves_nothing_of_the_earlier_ones(base, small_run):
    """The first pass left its gradient before the second one failed: it must not count twice."""
    small, large = [example("a")], [example("b"), example("c")]
    config = small_run(optim__accumulation="2", optim__clip_norm="0")
    whole, _ = descent(base, config, [small, large])
    again, _ = descent(base, config, [small, large], watch=LittleMemory(1))
    assert_close(again, whole)


def test_one_sample_that_does_not_fit_says_what_to_do(base, small_run):
    with pytest.raises(
        DeviceMemoryError, match=r"step 1: .* one sample \(CUDA out of memory.*data\.resolution"
    ):
        descent(base, small_run(), [[example("a")]], watch=LittleMemory(0))


def test_an_optimizer_that_does_not_fit_says_what_to_do(base, small_run, monkeypatch):
    """It is not tried again: some weights may have moved already."""
    tried = []

    def fail(self, closure=None):
        tried.append(0)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.optim.SGD, "step", fail)
    with pytest.raises(DeviceMemoryError, match=r"the optimizer remembers.*adamw8bit"):
        descent(base, small_run(), [[example("a"), example("b")]])
    assert tried == [0]


def test_other_errors_are_not_taken_for_a_lack_of_memory(base, small_run):
    def break_it(control_net):
        def fail(module, arguments):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

        control_net.register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        descent(base, small_run(), [[example("a")]], watch=break_it)


def test_a_whole_run_goes_through_on_a_small_device(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    """Rows 1 and 2: no memory for the batch, and none for the previews."""
    from condkit.trainer import train as train_module
    from condkit.trainer.preview import Previewer

    memory, original = LittleMemory(1), train_module.initial_control_net

    def limited(*arguments):
        control_net = original(*arguments)
        memory(control_net)
        return control_net

    def too_large(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(train_module, "initial_control_net", limited)
    monkeypatch.setattr(Previewer, "draw", too_large)
    config = small_run(preview__every="2", preview__pairs="1")
    train(config, dataset, tmp_path, base=str(epsilon_base), device="cpu", dtype="fp32")
    assert memory.refused == [2]
    assert [entry["step"] for entry in read_metrics(RunFolder(tmp_path))] == [2, 4]
    assert not RunFolder(tmp_path).previews.exists()


def test_a_preview_that_fails_for_another_reason_is_an_error(
    dataset, epsilon_base, small_run, tmp_path, monkeypatch
):
    from condkit.trainer.preview import Previewer

    def broken(self):
        raise RuntimeError("a shape does not fit")

    monkeypatch.setattr(Previewer, "draw", broken)
    config = small_run(preview__every="2", preview__pairs="1")
    with pytest.raises(RuntimeError, match="a shape does not fit"):
        train(config, dataset, tmp_path, base=str(epsilon_base), device="cpu", dtype="fp32")

"""Two processes that train together, over gloo on the CPU, started by torchrun."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from condkit.errors import ConfigError
from condkit.trainer.checkpoint import complete_checkpoints
from condkit.trainer.distributed import Ranks, RankSampler
from condkit.trainer.launching import joined
from condkit.trainer.recipes import load_recipe
from condkit.trainer.run_folder import RunFolder, read_record
from condkit.trainer.run_log import read_metrics
from condkit.trainer.train import train

USUAL = {
    "run.steps": "3",
    "run.log_every": "1",
    "run.trackers": "none",
    "data.batch_size": "2",
    "data.resolution": "none",
    "optim.accumulation": "1",
    "optim.lr": "1e-3",
    "optim.schedule": "cosine",
    "optim.warmup_steps": "2",
    "checkpoint.every": "1",
    "checkpoint.keep": "5",
    "preview.every": "0",
    "ema.decay": "0.9",
}

WATCH = """
    import torch
    from condkit.trainer import step as step_module

    class Watch:
        '''Notes every step's rate and samples, and the gradient of the first one.'''

        def __init__(self):
            self.steps, self.gradient = [], None
            self._call = step_module.OptimizerStep.__call__
            self._clip = torch.nn.utils.clip_grad_norm_

        def __enter__(self):
            watch = self

            def call(self, step, micro_batches, rate):
                batches = list(micro_batches)
                samples = [(e.key, e.use) for batch in batches for e in batch.examples]
                watch.steps.append([step, rate, samples])
                return watch._call(self, step, batches, rate)

            def clip(parameters, limit):
                if watch.gradient is None:
                    found = [p.grad.detach() for p in parameters]
                    # Of a network that is shared out, every rank has a part.
                    found = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in found]
                    watch.gradient = torch.cat([g.reshape(-1).clone() for g in found])
                return watch._clip(parameters, limit)

            step_module.OptimizerStep.__call__ = call
            torch.nn.utils.clip_grad_norm_ = clip
            return self

        def __exit__(self, *error):
            step_module.OptimizerStep.__call__ = self._call
            torch.nn.utils.clip_grad_norm_ = self._clip
"""

CHILD = """
    import json, sys
    from pathlib import Path
    import torch
    import torch.distributed as dist
    from condkit.errors import TrainingError
    from condkit.trainer import step as step_module
    from condkit.trainer import train as train_module
    from condkit.trainer.recipes import load_recipe
    from condkit.trainer.preview import Previewer

    usual, data, output, base = json.loads(sys.argv[1])
    output = Path(output)
    # Several runs in one process: the group outlives each of them.
    dist.init_process_group("gloo")
    rank, found = dist.get_rank(), {}

    def run(name, resume=False, **changed):
        settings = usual | {k.replace("__", "."): v for k, v in changed.items()}
        options = {"base": base, "device": "cpu", "dtype": "fp32", "resume": resume}
        with Watch() as watch:
            config = load_recipe("canny", settings)
            train_module.train(config, Path(data), output / name, **options)
        found[name] = {"steps": watch.steps, "gradient": watch.gradient}

    run("accum1", preview__every="3", preview__pairs="1", preview__steps="1")
    sharded = {"compute__shard": "true", "preview__pairs": "1", "preview__steps": "1"}
    run("sharded", preview__every="3", **sharded)
    run("sharded-cut", run__steps="2", **sharded)
    run("sharded-cut", resume=True, **sharded)
    run("middle", control__only_mid="true", run__steps="1")
    run("accum4", optim__accumulation="4", run__steps="2", checkpoint__every="2")

    # Only the second rank has too little memory; only it has a bad loss.
    original, refused = train_module.initial_control_net, []

    def limited(*arguments):
        control_net = original(*arguments)

        def look(module, inputs):
            if rank == 1 and len(inputs[0]) > 1:
                refused.append(len(inputs[0]))
                raise torch.OutOfMemoryError("CUDA out of memory")

        control_net.register_forward_pre_hook(look)
        return control_net

    train_module.initial_control_net = limited
    run("tight")
    train_module.initial_control_net = original
    found["refused"] = refused

    losses = step_module.sample_losses

    def poisoned(predicted, wanted):
        values = losses(predicted, wanted)
        return values * float("nan") if rank == 1 else values

    step_module.sample_losses = poisoned
    try:
        run("poisoned")
    except TrainingError as error:
        found["error"] = str(error)
    torch.save(found, output / f"rank{rank}.pt")
    dist.destroy_process_group()
"""


def script(folder, code: str):
    path = folder / "child.py"
    path.write_text(textwrap.dedent(WATCH) + textwrap.dedent(code))
    return path


@pytest.fixture(scope="module")
def two_ranks(dataset, epsilon_base, tmp_path_factory):
    """What both ranks of several runs noted, and the folder of the runs."""
    output = tmp_path_factory.mktemp("ranks")
    words = json.dumps([USUAL, str(dataset), str(output), str(epsilon_base)])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(script(output, CHILD)), words],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    noted = [torch.load(output / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    return noted, output


@pytest.fixture(scope="module")
def one_rank(dataset, epsilon_base, tmp_path_factory):
    """The same runs in one process: as many passes as the two had together, and as one had."""
    namespace: dict = {}
    exec(textwrap.dedent(WATCH), namespace)
    output, noted = tmp_path_factory.mktemp("alone"), {}
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32"}
    for name, accumulation, steps in (("accum1", 1, 3), ("accum2", 2, 3), ("accum4", 4, 2)):
        settings = {"optim.accumulation": str(accumulation), "run.steps": str(steps)}
        with namespace["Watch"]() as watch:
            train(load_recipe("canny", USUAL | settings), dataset, output / name, **options)
        noted[name] = {"steps": watch.steps, "gradient": watch.gradient}
    return noted, output


def weights_of(run):
    from safetensors.torch import load_file

    return load_file(run / "controlnet" / "diffusion_pytorch_model.safetensors")


def test_the_rate_of_a_step_depends_on_neither_ranks_nor_passes(two_ranks, one_rank):
    """Rows 9 and 11: accumulation {1, 4} x ranks {1, 2}."""
    (first, second), _ = two_ranks
    alone, _ = one_rank
    for name in ("accum1", "accum4"):
        rates = [
            [[step, rate] for step, rate, _ in noted[name]["steps"]]
            for noted in (first, second, alone)
        ]
        assert rates[0] == rates[1] == rates[2]
    # And steps are as many as asked for, whoever shares them.
    assert [step for step, _, _ in first["accum4"]["steps"]] == [1, 2]


def test_no_two_ranks_see_the_same_sample_and_together_they_see_what_one_would(two_ranks, one_rank):
    (first, second), _ = two_ranks
    alone, _ = one_rank
    for (step, _, mine), (_, _, theirs), (same, _, whole) in zip(
        first["accum1"]["steps"],
        second["accum1"]["steps"],
        alone["accum2"]["steps"],
        strict=True,
    ):
        assert step == same
        assert not {tuple(s) for s in mine} & {tuple(s) for s in theirs}
        assert mine + theirs == whole


def test_averaged_gradients_are_the_large_batchs(two_ranks, one_rank):
    (first, second), _ = two_ranks
    alone, _ = one_rank
    gradient = alone["accum2"]["gradient"]
    assert torch.equal(first["accum1"]["gradient"], second["accum1"]["gradient"])
    assert float(gradient.abs().max()) > 0
    torch.testing.assert_close(first["accum1"]["gradient"], gradient, rtol=1e-3, atol=1e-7)


def test_the_first_rank_alone_writes_and_nobody_waits_for_ever(two_ranks, one_rank):
    """Row 25."""
    _, output = two_ranks
    run = output / "accum1"
    names = [path.name for path in complete_checkpoints(run / "checkpoints")]
    assert names == ["step-00000001", "step-00000002", "step-00000003"]
    assert read_record(run).status == "finished"
    assert len(list((run / "previews").iterdir())) == 1
    _, other = one_rank
    two = [entry["loss"] for entry in read_metrics(RunFolder(run))]
    one = [entry["loss"] for entry in read_metrics(RunFolder(other / "accum2"))]
    assert two == pytest.approx(one, rel=1e-3)


def test_weights_that_are_not_trained_stop_nobody(two_ranks):
    """Row 26: with the middle alone, the encoder's outputs have no gradient on any rank."""
    (first, second), output = two_ranks
    assert read_record(output / "middle").status == "finished"
    assert torch.equal(first["middle"]["gradient"], second["middle"]["gradient"])


def tensors_of(folder):
    """Every tensor of a checkpoint, by file and name."""
    from safetensors.torch import load_file

    found = {
        f"{path.relative_to(folder)} {name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }
    for index, state in torch.load(folder / "optimizer.pt", weights_only=True)["state"].items():
        found |= {f"optimizer {index} {name}": value for name, value in state.items()}
    return found


def test_a_shared_out_control_net_trains_as_a_whole_one(two_ranks):
    """FSDP: each rank holds half of the weights, gradients and averages."""
    (first, second), output = two_ranks
    assert [s[:2] for s in first["sharded"]["steps"]] == [s[:2] for s in first["accum1"]["steps"]]
    torch.testing.assert_close(
        first["sharded"]["gradient"], first["accum1"]["gradient"], rtol=1e-3, atol=1e-7
    )
    assert torch.equal(first["sharded"]["gradient"], second["sharded"]["gradient"])
    whole, parts = (
        tensors_of(output / name / "checkpoints" / "step-00000003")
        for name in ("accum1", "sharded")
    )
    assert whole.keys() == parts.keys()
    for name, tensor in whole.items():
        assert tensor.shape == parts[name].shape, name
        # Adam's first steps are as large as the rate, whatever the gradient's rounding.
        assert float((tensor - parts[name]).abs().mean()) < 1e-4, name
    one, other = (read_metrics(RunFolder(output / name)) for name in ("accum1", "sharded"))
    assert [e["loss"] for e in one] == pytest.approx([e["loss"] for e in other], rel=1e-3)
    assert [e["gradient_norm"] for e in one] == pytest.approx(
        [e["gradient_norm"] for e in other], rel=1e-2
    )
    assert len(list((output / "sharded" / "previews").iterdir())) == 1


def test_a_shared_out_run_resumes_exactly(two_ranks):
    _, output = two_ranks
    whole, cut = (
        tensors_of(output / name / "checkpoints" / "step-00000003")
        for name in ("sharded", "sharded-cut")
    )
    assert whole.keys() == cut.keys()
    assert [name for name in whole if not torch.equal(whole[name], cut[name])] == []
    one, other = (weights_of(output / name) for name in ("sharded", "sharded-cut"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", ["accum1", "sharded"])
def test_a_run_of_two_goes_on_alone_with_twice_the_passes(
    two_ranks, dataset, epsilon_base, tmp_path, name
):
    import shutil

    _, output = two_ranks
    shutil.copytree(output / name, tmp_path / "run")
    options = {"base": str(epsilon_base), "device": "cpu", "dtype": "fp32", "resume": True}
    settings = USUAL | {"run.steps": "4", "optim.accumulation": "2"}
    summary = train(load_recipe("canny", settings), dataset, tmp_path / "run", **options)
    assert summary.resumed_from == 3


def test_when_one_rank_lacks_memory_all_go_on_in_smaller_parts(two_ranks):
    (first, second), output = two_ranks
    assert first["refused"] == []
    assert second["refused"] == [2]
    torch.testing.assert_close(
        second["tight"]["gradient"], second["accum1"]["gradient"], rtol=1e-3, atol=1e-7
    )
    assert read_record(output / "tight").status == "finished"


def test_a_bad_loss_on_one_rank_stops_all_and_names_its_samples(two_ranks):
    """Row 12."""
    (first, second), output = two_ranks
    assert first["error"] == second["error"]
    assert "step 1: the loss is not finite" in first["error"]
    samples = {key for key, _ in second["accum1"]["steps"][0][2]}
    assert all(key in first["error"] for key in samples)
    assert not complete_checkpoints(output / "poisoned" / "checkpoints")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_out_every_micro_batch_once(size):
    shares = [RankSampler(lambda cursor: cursor, Ranks(rank, size)) for rank in range(size)]
    assert sorted(share(cursor) for share in shares for cursor in range(4)) == list(range(4 * size))


def test_a_run_of_one_needs_no_launcher(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as (ranks, device):
        assert (ranks.size, ranks.is_main, device) == (1, True, "cpu")
        assert ranks.gather("x") == ["x"]
        assert ranks.any(True)
        assert not ranks.any(False)


def test_one_named_device_for_several_ranks_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match="each on a device of its own"), joined("cuda:1"):
        pass


@pytest.mark.slow
def test_the_command_line_starts_the_processes_itself(dataset, epsilon_base, tmp_path):
    words = ["train", "canny", "--data", str(dataset), "-o", str(tmp_path / "run")]
    words += ["--base", str(epsilon_base), "--devices", "2", "--device", "cpu", "--dtype", "fp32"]
    settings = USUAL | {"run.steps": "1"}
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]

    def condkit(*more):
        return subprocess.run(
            [sys.executable, "-m", "condkit", *words, *more],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    done = condkit("--json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["steps"] == 1
    # The same again: the run is there already. One line for each process, no traceback.
    refused = condkit()
    assert refused.returncode == 1
    assert "already holds a run" in refused.stderr
    assert "Traceback" not in refused.stderr

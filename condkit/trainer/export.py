"""A trained ControlNet for others: a diffusers folder with its model card, or one file."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from condkit import __version__, atomic
from condkit.errors import OutputError, TrainingError
from condkit.settings import choose
from condkit.trainer.checkpoint import LORA_WEIGHTS, saved_control_net
from condkit.trainer.control_lora import published_names
from condkit.trainer.decoder import DECODER_FILE, RECORD_FILE, has_decoder, read_decoder
from condkit.trainer.ldm_keys import to_ldm
from condkit.trainer.model_card import write_model_card
from condkit.trainer.run_folder import RunRecord, read_record

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

ExportFormat: TypeAlias = Literal["diffusers", "single-file", "control-lora"]
FORMATS = ("diffusers", "single-file", "control-lora")
DTYPES = ("fp32", "fp16", "bf16")

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHOWN = ("evaluation.png",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written.

    Attributes:
        path: The folder or file.
        format: "diffusers", "single-file" or "control-lora".
        keys: "diffusers" or "ldm": how the tensors are called.
        tensors: How many.
        dtype: Their type.
        size: Bytes of the weights' file.
    """

    path: str
    format: str
    keys: str
    tensors: int
    dtype: str
    size: int


def export_run(
    run: Path,
    output: Path,
    *,
    format: str = "diffusers",
    dtype: str = "fp16",
    overwrite: bool = False,
) -> Exported:
    """Write a run's ControlNet in a form that other programs read.

    Args:
        run: Folder of a training run; the newest checkpoint is taken while it is not finished.
        output: The folder ("diffusers"), or the `.safetensors` file ("single-file").
        format: "diffusers" is a folder for `ControlNetModel.from_pretrained`, with a model card;
            "single-file" is for A1111 and ComfyUI: the original release's names for SD 1.x and
            2.x, diffusers' names for SDXL, as those programs expect them; "control-lora" is one
            file for ComfyUI with the differences alone, of a run with `control.lora_rank`. The
            other two forms of such a run have the differences added to the base's weights.
        dtype: Type of the weights: "fp16" (what is usually published), "bf16" or "fp32".
        overwrite: Replace what is there.

    Raises:
        TrainingError: if the folder is no run, or has saved nothing yet.
        OutputError: if the place is taken or cannot be written.
        UnknownNameError: for another format or dtype.
    """
    choose(format, FORMATS, what="format")
    choose(dtype, DTYPES, what="dtype")
    record = read_record(run)
    source = saved_control_net(run, record)
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists; give another place, or --overwrite to replace it")
    if format != "diffusers" and has_decoder(source):
        raise TrainingError(
            f"{run} was trained with its base's decoder unlocked, and a single file holds the "
            "ControlNet alone, which would steer any other decoder wrongly; use --format "
            "diffusers, which keeps the decoder beside it"
        )
    state, config = _read(source, dtype)
    if format == "diffusers":
        return _write_folder(run, record, source, output, state, config, dtype)
    if format == "control-lora":
        return _write_lora(record, source, output, state, config, dtype)
    return _write_file(record, output, state, config, dtype)


def _read(source: Path, dtype: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors.torch import load_file

    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        state = load_file(source / _WEIGHTS)
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot read the ControlNet in {source}: {error}") from error
    return _cast(state, dtype), config


def _cast(state: Mapping[str, torch.Tensor], dtype: str) -> dict[str, torch.Tensor]:
    """The tensors as `dtype`.

    Raises:
        TrainingError: if a number becomes infinite.
    """
    import torch

    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    cast = {name: tensor.to(kinds[dtype]) for name, tensor in state.items()}
    lost = [name for name, tensor in cast.items() if not bool(torch.isfinite(tensor).all())]
    if lost:
        raise TrainingError(
            f"{len(lost)} tensors do not fit into {dtype} ({', '.join(lost[:3])}); "
            "use --dtype bf16 or fp32"
        )
    return cast


def _write_folder(
    run: Path,
    record: RunRecord,
    source: Path,
    output: Path,
    state: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    dtype: str,
) -> Exported:
    from safetensors.torch import save_file

    if output.is_file():
        raise OutputError(f"{output} is a file; a diffusers ControlNet is a folder")
    with atomic.new_folder(output) as temporary:
        for name in ("config.json", "condition.json"):
            shutil.copyfile(source / name, temporary / name)
        save_file(dict(state), temporary / _WEIGHTS, metadata={"format": "pt"})
        if has_decoder(source):
            decoder = _cast(read_decoder(source), dtype)
            save_file(decoder, temporary / DECODER_FILE, metadata={"format": "pt"})
            shutil.copyfile(source / RECORD_FILE, temporary / RECORD_FILE)
        shown = [name for name in _SHOWN if (run / name).is_file()]
        for name in shown:
            shutil.copyfile(run / name, temporary / name)
        size = (temporary / _WEIGHTS).stat().st_size
        trained = source / LORA_WEIGHTS
        lora_size = trained.stat().st_size if trained.is_file() else None
        card = write_model_card(run, record, shown, is_xl=_is_xl(config), lora_size=lora_size)
        atomic.write_text(temporary / "README.md", card)
    return Exported(
        path=str(output),
        format="diffusers",
        keys="diffusers",
        tensors=len(state),
        dtype=dtype,
        size=size,
    )


def _write_file(
    record: RunRecord,
    output: Path,
    state: dict[str, torch.Tensor],
    config: Mapping[str, Any],
    dtype: str,
) -> Exported:
    _check_file(output)
    if "shuffle" in output.name and record.condition.name != "shuffle":
        logger.warning(
            "%s: A1111 and ComfyUI pool the control of files that have 'shuffle' in their names; "
            "choose another name",
            output.name,
        )
    # A1111 and ComfyUI read SDXL ControlNets under diffusers' names only.
    is_xl = _is_xl(config)
    if not is_xl:
        state = to_ldm(state, layers_per_block=int(config["layers_per_block"]))
    size = _save_file(record, output, state, config, "ControlNet")
    return Exported(
        path=str(output),
        format="single-file",
        keys="diffusers" if is_xl else "ldm",
        tensors=len(state),
        dtype=dtype,
        size=size,
    )


def _write_lora(
    record: RunRecord,
    source: Path,
    output: Path,
    full: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    dtype: str,
) -> Exported:
    from safetensors.torch import load_file

    _check_file(output)
    try:
        state = load_file(source / LORA_WEIGHTS)
    except FileNotFoundError as error:
        raise TrainingError(
            f"{source} is no Control-LoRA: the run trained the whole encoder; use --format "
            "single-file, or train with control.lora_rank"
        ) from error
    layers_per_block = int(config["layers_per_block"])
    published = published_names(state, list(full), layers_per_block=layers_per_block)
    published = _cast(published, dtype)
    size = _save_file(record, output, published, config, "Control-LoRA")
    return Exported(
        path=str(output),
        format="control-lora",
        keys="ldm",
        tensors=len(published),
        dtype=dtype,
        size=size,
    )


def _check_file(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise OutputError(f"{output}: expected a file name that ends in .safetensors")
    if output.is_dir():
        raise OutputError(f"{output} is a folder; give a file")


def _save_file(
    record: RunRecord,
    output: Path,
    state: dict[str, torch.Tensor],
    config: Mapping[str, Any],
    kind: str,
) -> int:
    """Write one file that says what it is; its bytes."""
    from safetensors.torch import save

    metadata = {
        "format": "pt",
        "condkit": __version__,
        "modelspec.architecture": f"{_family(config)}/{kind.lower()}",
        "modelspec.title": f"{kind} for {record.condition.name}",
        "condition": json.dumps(record.condition.as_dict()),
        "base_fingerprint": record.base_fingerprint,
    }
    data = save(state, metadata=metadata)
    atomic.write_bytes(output, data)
    return len(data)


def _is_xl(config: Mapping[str, Any]) -> bool:
    return config.get("addition_embed_type") is not None


def _family(config: Mapping[str, Any]) -> str:
    if _is_xl(config):
        return "stable-diffusion-xl-v1-base"
    return {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2"}.get(
        int(config["cross_attention_dim"]), "condkit"
    )

"""How pictures are brought to a network: resized with Pillow, normalised on the device."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from condkit.errors import WeightsError
from condkit.pretrained import read_normalisation
from condkit.types import RgbImage

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

_BICUBIC = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureInput:
    """What `preprocessor_config.json` says: the whole picture is squashed to one size.

    Attributes:
        height: In pixels.
        width: In pixels.
        resample: Pillow's number of the filter.
        mean: Per channel, of RGB in [0, 1].
        std: Per channel.
    """

    height: int
    width: int
    resample: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @classmethod
    def read(cls, folder: Path) -> PictureInput:
        """Of a model's folder.

        Raises:
            WeightsError: if the file is broken, or asks for a crop.
        """
        mean, std = read_normalisation(folder)
        path = folder / "preprocessor_config.json"
        settings = json.loads(path.read_text(encoding="utf-8"))
        if settings.get("do_center_crop"):
            raise WeightsError(f"{path}: expected no centre crop, which would hide a part")
        try:
            height, width = _sides(settings["size"])
            resample = int(settings.get("resample", _BICUBIC))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: expected size and resample: {error!r}") from error
        return cls(height=height, width=width, resample=resample, mean=mean, std=std)

    def resize(self, image: RgbImage) -> NDArray[np.uint8]:
        """A picture at this size, (height, width, 3) uint8."""
        import numpy as np
        from PIL import Image

        filters = Image.Resampling(self.resample)
        return np.asarray(Image.fromarray(image).resize((self.width, self.height), filters))

    def to_device(
        self, pictures: NDArray[np.uint8], device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor:
        """Pictures as the network takes them, copied once.

        Args:
            pictures: (B, height, width, 3) uint8.
            device: Where to.
            dtype: What in.

        Returns:
            (B, 3, height, width), normalised.
        """
        import torch

        pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255
        mean = torch.tensor(self.mean, device=device).view(3, 1, 1)
        std = torch.tensor(self.std, device=device).view(3, 1, 1)
        return ((pixels - mean) / std).to(dtype)


def _sides(size: Any) -> tuple[int, int]:  # noqa: ANN401 - a number or a table
    if isinstance(size, int):
        return size, size
    return int(size["height"]), int(size["width"])

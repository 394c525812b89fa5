"""The layout of SimpleTuner: pictures with text files, conditions in parallel folders.

Its rules, as its documentation and data code have them: a picture and its condition have the same
relative path, ending included; each line of the text file is a caption; an empty file is an empty
caption, an empty line would leave none. `multidatabackend.json` links the folders by their ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from condkit import atomic
from condkit.datasets.formats.base import Columns, EncodedRow
from condkit.datasets.formats.fill50k import list_name
from condkit.datasets.formats.folder import IMAGES, FolderFormat
from condkit.datasets.formats.kohya import one_line
from condkit.datasets.planning import Split
from condkit.errors import ConfigError


class SimpleTunerFormat(FolderFormat):
    """`train/multidatabackend.json` for the first condition, `..._NAME.json` for the others."""

    name: ClassVar[str] = "simpletuner"

    def __init__(self, columns: Columns) -> None:
        if columns.image_suffix != ".png":
            raise ConfigError(
                "simpletuner pairs files by their whole names and maps are PNG files, so pictures "
                f"must be .png, got {columns.image_suffix}; choose another format or PNG pictures"
            )
        super().__init__(columns)

    def caption_file(self, row: EncodedRow) -> bytes | None:
        """See `FolderFormat`."""
        captions = [one_line(text) for text in row.captions or (row.text,)]
        return "\n".join(filter(None, captions)).encode()

    def lists(self, dataset: Path, split: Split) -> list[str]:
        """See `FolderFormat`."""
        written = []
        for name in self.columns.conditions:
            relative = f"{split}/{list_name('multidatabackend', name, self.columns)}.json"
            atomic.write_json(dataset / relative, _backends(split, name))
            written.append(relative)
        return written


def _backends(split: Split, condition: str) -> list[dict[str, Any]]:
    """Pictures, conditions and where text embeddings go; paths hold in the dataset's folder."""
    pictures, maps = f"{split}-{IMAGES}", f"{split}-{condition}"
    shared = {"type": "local", "metadata_backend": "discovery", "caption_strategy": "textfile"}
    return [
        {
            "id": pictures,
            "dataset_type": "image",
            "conditioning_data": maps,
            "instance_data_dir": f"{split}/{IMAGES}",
            **shared,
            "cache_dir_vae": f"cache/vae/{pictures}",
        },
        {
            "id": maps,
            "dataset_type": "conditioning",
            "conditioning_type": "controlnet",
            "instance_data_dir": f"{split}/{condition}",
            **shared,
            "caption_strategy": "filename",
            "cache_dir_vae": f"cache/vae/{maps}",
        },
        {
            "id": f"{split}-text-embeds",
            "dataset_type": "text_embeds",
            "default": True,
            "type": "local",
            "cache_dir": "cache/text",
        },
    ]

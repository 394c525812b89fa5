"""One tree that `datasets`, diffusers, sd-scripts (kohya) and fill50k's readers read as it is.

```
train/metadata.jsonl          for `datasets.load_dataset`, and with it diffusers' scripts
train/prompt.json             for the tutorial code of ControlNet
train/dataset.toml            for sd-scripts
train/images/000000.png       and 000000.txt, its caption, for sd-scripts
train/canny/000000.png
validation/...
```
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from condkit.datasets.formats.base import EncodedRow
from condkit.datasets.formats.fill50k import write_prompts
from condkit.datasets.formats.folder import FolderFormat
from condkit.datasets.formats.kohya import caption_line, write_dataset_files
from condkit.datasets.planning import Split


class TreeFormat(FolderFormat):
    """Everything that the "imagefolder", "fill50k" and "kohya" formats write, in one place."""

    name: ClassVar[str] = "tree"

    def caption_file(self, row: EncodedRow) -> bytes | None:
        """See `FolderFormat`."""
        return caption_line(row)

    def lists(self, dataset: Path, split: Split) -> list[str]:
        """See `FolderFormat`."""
        prompts = write_prompts(dataset, split, self.columns)
        return prompts + write_dataset_files(dataset, split, self.columns)

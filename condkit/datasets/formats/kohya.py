"""The layout of kohya's sd-scripts: flat folders, files paired by stem, `dataset.toml`.

Its rules, as its dataset code has them: the caption is the first line of the text file beside a
picture; a text file without a line stops the run, while an empty line is an empty caption. A
picture without a condition stops it too, and so did a condition without a picture in earlier
versions. A subset has one folder of conditions, and no two subsets may share their pictures: so
each condition has a TOML file of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from condkit import atomic
from condkit.datasets.formats.base import Columns, EncodedRow
from condkit.datasets.formats.fill50k import list_name
from condkit.datasets.formats.folder import IMAGES, FolderFormat
from condkit.datasets.planning import Split


class KohyaFormat(FolderFormat):
    """`train/dataset.toml` for the first condition, `train/dataset_NAME.toml` for the others."""

    name: ClassVar[str] = "kohya"

    def caption_file(self, row: EncodedRow) -> bytes | None:
        """See `FolderFormat`."""
        return caption_line(row)

    def lists(self, dataset: Path, split: Split) -> list[str]:
        """See `FolderFormat`."""
        return write_dataset_files(dataset, split, self.columns)


def caption_line(row: EncodedRow) -> bytes:
    """The first caption as one line; an empty one is an empty line, never an empty file."""
    return f"{one_line(row.text)}\n".encode()


def one_line(text: str) -> str:
    """A caption without line breaks: its lines, joined by spaces."""
    return " ".join(filter(None, (part.strip() for part in text.splitlines())))


def write_dataset_files(dataset: Path, split: Split, columns: Columns) -> list[str]:
    """Write the TOML file of each condition; its paths hold in the dataset's folder.

    Returns:
        The files, relative to the dataset.

    Raises:
        OutputError: if they cannot be written.
    """
    written = []
    for name in columns.conditions:
        relative = f"{split}/{list_name('dataset', name, columns)}.toml"
        lines = (
            "# For sd-scripts' --dataset_config; start it in the dataset's folder and give",
            "# --resolution, and --enable_bucket where the pictures differ in size.",
            "[[datasets]]",
            "",
            "[[datasets.subsets]]",
            f"image_dir = {_quoted(f'{split}/{IMAGES}')}",
            f"conditioning_data_dir = {_quoted(f'{split}/{name}')}",
            'caption_extension = ".txt"',
        )
        atomic.write_text(dataset / relative, "\n".join(lines) + "\n")
        written.append(relative)
    return written


def _quoted(text: str) -> str:
    """A basic string of TOML, which JSON's strings are."""
    return json.dumps(text)

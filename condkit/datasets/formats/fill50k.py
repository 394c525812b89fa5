"""The layout of ControlNet's own tutorial: `prompt.json`, a JSON line per pair.

Each line names `source` (the condition), `target` (the picture), both relative to the folder of
`prompt.json`, and `prompt`. Readers open it in the locale's encoding, so it is only ASCII.
Source: the "fill50k" data of github.com/lllyasviel/ControlNet, docs/train.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

from condkit import atomic
from condkit.datasets.formats import tables
from condkit.datasets.formats.base import Columns
from condkit.datasets.formats.folder import FolderFormat
from condkit.datasets.planning import Split


class Fill50kFormat(FolderFormat):
    """`train/prompt.json` for the first condition, `train/prompt_NAME.json` for the others."""

    name: ClassVar[str] = "fill50k"

    def lists(self, dataset: Path, split: Split) -> list[str]:
        """See `FolderFormat`."""
        return write_prompts(dataset, split, self.columns)


def write_prompts(dataset: Path, split: Split, columns: Columns) -> list[str]:
    """Write a list of pairs for each condition; tutorial code knows only one.

    Returns:
        The files, relative to the dataset.

    Raises:
        OutputError: if they cannot be written.
    """
    written = []
    for name in columns.conditions:
        relative = f"{split}/{list_name('prompt', name, columns)}.json"
        with atomic.new_file(dataset / relative) as temporary, temporary.open("wb") as file:
            for text in tables.shard_lines(dataset, split):
                row = json.loads(text)
                source, target = row[f"{name}_file_name"], row["file_name"]
                pair = {"source": source, "target": target, "prompt": row["text"]}
                file.write(json.dumps(pair, ensure_ascii=True).encode("ascii") + b"\n")
        written.append(relative)
    return written


def list_name(name: str, condition: str, columns: Columns) -> str:
    """The stem of a condition's list: the plain name for the first condition."""
    return name if condition == columns.conditions[0] else f"{name}_{condition}"

"""Hugging Face's "imagefolder" layout: picture files with a metadata table per split."""

from __future__ import annotations

from typing import ClassVar

from condkit.datasets.formats.folder import FolderFormat


class ImageFolderFormat(FolderFormat):
    """One file per picture and map; nothing but what `datasets` needs."""

    name: ClassVar[str] = "imagefolder"

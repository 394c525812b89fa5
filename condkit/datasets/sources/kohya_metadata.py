"""kohya's JSON of captions and tags: one object, a key per picture."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from condkit.datasets.sources.fields import json_fields
from condkit.datasets.sources.text_files import digest_of
from condkit.errors import DatasetError


class KohyaMetadata:
    """What a metadata file says of the pictures of a folder.

    A key is a picture's full path, its path below the folder, its name, or any of these without the
    ending. The file is read whole, as it is one JSON object.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        """Read the file.

        Raises:
            DatasetError: if it cannot be read or is not an object of objects in JSON.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise DatasetError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{path} is not JSON in UTF-8: {error}") from error
        if not isinstance(values, dict) or not all(isinstance(v, dict) for v in values.values()):
            raise DatasetError(f"{path}: expected one JSON object with an object per picture")
        self._values: dict[str, dict[str, Any]] = values
        self._folder = folder.absolute()

    def fields(self, name: str) -> dict[str, Any]:
        """What is said of the picture so called in the folder; empty where nothing is."""
        full = str(self._folder / name)
        for key in (full, name, os.path.splitext(full)[0], os.path.splitext(name)[0]):  # noqa: PTH122
            if key in self._values:
                return json_fields(self._values[key])
        return {}

    def stamp(self, name: str) -> str:
        """Text that changes with what is said of a picture."""
        said = self.fields(name)
        return digest_of(json.dumps(said, sort_keys=True).encode()) if said else ""

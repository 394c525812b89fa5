"""What was left out of a dataset, by stage and reason."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from condkit.datasets.inspecting.tallies import Frequencies
from condkit.datasets.manifest import REJECTED
from condkit.errors import DatasetError

SHOWN_REASONS = 30

# What differs from one input to the next: quoted text, names of files, numbers.
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_FILE = re.compile(r"\S*/\S*|\S+\.[A-Za-z]\w{1,4}\b")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SAME = re.compile(r"\b(same bytes as|near copy of|copy of|kept is|in favour of) .*")


@dataclass(slots=True)
class Rejections:
    """Counts of the inputs that became no row.

    Attributes:
        by_stage: How many at each stage.
        reasons: How many for each stage and kind of reason, as "stage: reason".
    """

    by_stage: Counter[str] = field(default_factory=Counter)
    reasons: Frequencies = field(default_factory=Frequencies)

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON values."""
        return {
            "count": self.by_stage.total(),
            "by_stage": dict(self.by_stage.most_common()),
            "reasons": dict(self.reasons.most_common(SHOWN_REASONS)),
        }


def read_rejections(dataset: Path) -> Rejections:
    """Count the lines of `rejected.jsonl`, one at a time; none where there is no such file.

    Raises:
        DatasetError: if a line cannot be read.
    """
    found = Rejections()
    path = dataset / REJECTED
    if not path.is_file():
        return found
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                values = json.loads(line)
                stage, reason = str(values["stage"]), str(values["reason"])
            except (ValueError, KeyError, TypeError) as error:
                raise DatasetError(
                    f"{path}, line {number}: expected a rejection as JSON, got {line[:80]!r} "
                    f"({error}); restore the file"
                ) from error
            found.by_stage[stage] += 1
            found.reasons.add([f"{stage}: {kind_of(reason)}"])
    return found


def kind_of(reason: str) -> str:
    """A reason without what belongs to one input alone: names, numbers and quoted text."""
    text = _SAME.sub(r"\1 …", reason)
    for pattern in (_QUOTED, _FILE, _NUMBER):
        text = pattern.sub("…", text)
    return " ".join(text.split())

"""What a check finds: faults with their place, and notes that are no faults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

OnProgress: TypeAlias = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and what is being done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: A few words that all faults of this sort share, such as "missing file".
        where: The file (relative to the dataset), or the row with its split and source.
        expected: What should be there.
        got: What is there.
        advice: What to do about it.
    """

    kind: str
    where: str
    expected: str
    got: str
    advice: str

    def __str__(self) -> str:
        """All of it as one line."""
        return f"{self.where}: expected {self.expected}, got {self.got}; {self.advice}"

    def as_dict(self) -> dict[str, str]:
        """The fields as JSON values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """The outcome of `validate`.

    Attributes:
        path: The dataset's folder.
        rules: What was checked: "condkit" (the dataset's own promises) and the trainer's name.
        files: Files whose hashes were compared.
        rows: Rows that were looked at.
        faults: Everything that is wrong, in the order in which it was found.
        notes: What is good to know and no fault.
    """

    path: str
    rules: tuple[str, ...]
    files: int
    rows: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Faults by kind, the most frequent first."""
        return dict(Counter(fault.kind for fault in self.faults).most_common())

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {
            "path": self.path,
            "rules": list(self.rules),
            "files": self.files,
            "rows": self.rows,
            "good": not self.faults,
            "counts": self.counts,
            "faults": [fault.as_dict() for fault in self.faults],
            "notes": list(self.notes),
        }


@dataclass(slots=True, kw_only=True)
class Findings:
    """Collects what the checks find.

    Attributes:
        faults: So far.
        notes: So far, each once.
        files: Files whose hashes were compared.
        rows: Rows that were looked at.
        on_progress: Told now and then; may be None.
    """

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: int = 0
    rows: int = 0
    on_progress: OnProgress | None = None

    def add(self, kind: str, where: str, *, expected: str, got: str, advice: str) -> None:
        """Note a fault."""
        fault = Fault(kind=kind, where=where, expected=expected, got=got, advice=advice)
        self.faults.append(fault)

    def note(self, text: str) -> None:
        """Note what is no fault; the same text once."""
        if text not in self.notes:
            self.notes.append(text)

    def progress(self, done: int, total: int, what: str) -> None:
        """Tell how far it is."""
        if self.on_progress is not None:
            self.on_progress(done, total, what)

"""ControlNet's own layout: `prompt.json` with one JSON object a line.

As `tutorial_dataset.py` of ControlNet reads it: the file is opened in the locale's encoding; each
line names `source` (the map), `target` (the picture) and `prompt`, the files relative to the
folder of `prompt.json`; OpenCV reads them in that order, and batches are stacked without resizing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from condkit.datasets.checks.faults import Fault, Findings
from condkit.datasets.checks.pictures import Unreadable, decode_picture
from condkit.datasets.checks.rows import caption_problem
from condkit.datasets.checks.trainers.folders import relative
from condkit.datasets.in_order import map_in_order

NAMES = "prompt*.json"
MULTIPLE = 64
"""Pixels: a latent is an eighth of the picture, and the U-Net halves it three times."""

_KEYS = ("source", "target", "prompt")


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the table that can be read."""

    where: str
    folder: Path
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class _Looked:
    """Size of a pair as OpenCV reads it; None where it cannot."""

    size: tuple[int, int] | None
    faults: list[Fault]


def check(root: Path, findings: Findings, *, decode: bool, workers: int | None) -> None:
    """See `Rules`; OpenCV reads the pictures in any case, as the trainer does."""
    tables = sorted((*root.glob(NAMES), *root.glob(f"*/{NAMES}")))
    if not tables:
        findings.add(
            "layout",
            str(root),
            expected="prompt.json at the top, or in a folder per split",
            got="none",
            advice="name the folder that holds it, or condkit export --format fill50k",
        )
    for table in tables:
        _check_table(root, table, findings, decode=decode, workers=workers)


def _check_table(
    root: Path, table: Path, findings: Findings, *, decode: bool, workers: int | None
) -> None:
    lines = list(_lines(root, table, findings))
    sizes: Counter[tuple[int, int]] = Counter()
    found = map_in_order(lambda line: _look(line, decode), lines, workers=workers)
    for done, looked in enumerate(found, start=1):
        findings.faults += looked.faults
        if looked.size is not None:
            sizes[looked.size] += 1
        findings.progress(done, len(lines), relative(table, root))
    findings.rows = max(findings.rows, len(lines))
    _check_sizes(relative(table, root), sizes, findings)


def _lines(root: Path, table: Path, findings: Findings) -> Iterator[_Line]:
    """The lines that name a pair; a fault for each of the others."""
    where = relative(table, root)
    try:
        raw = table.read_bytes()
    except OSError as error:
        _bad(findings, where, "a file that can be read", error.strerror or str(error))
        return
    if not raw.strip():
        _bad(findings, where, "one JSON object a line", "an empty file")
    for number, line in enumerate(raw.splitlines(), start=1):
        place = f"{where}, line {number}"
        if not line.strip():
            _bad(findings, place, "a JSON object", "an empty line")
            continue
        if not line.isascii():
            findings.add(
                "encoding",
                place,
                expected="ASCII with other letters escaped, since the locale decides the encoding",
                got="other bytes",
                advice="write it with json.dumps(..., ensure_ascii=True)",
            )
        yield from _line(place, table.parent, line, findings)


def _line(place: str, folder: Path, line: bytes, findings: Findings) -> Iterator[_Line]:
    try:
        values = json.loads(line)
    except ValueError as error:
        _bad(findings, place, "a JSON object", str(error))
        return
    missing = [key for key in _KEYS if not isinstance(values, dict) or key not in values]
    if missing:
        _bad(findings, place, f"the keys {', '.join(_KEYS)}", f"none called {', '.join(missing)}")
        return
    problem = caption_problem(values["prompt"])
    if problem is not None:
        findings.add(
            "bad caption",
            place,
            expected="a prompt of plain text",
            got=problem,
            advice="correct the line",
        )
    names = [values[key] for key in ("source", "target")]
    if not all(isinstance(name, str) and name for name in names):
        _bad(findings, place, "file names in source and target", repr(names)[:120])
        return
    yield _Line(place, folder, *names)


def _bad(findings: Findings, place: str, expected: str, got: str) -> None:
    findings.add("broken table", place, expected=expected, got=got, advice="correct the line")


def _look(line: _Line, decode: bool) -> _Looked:
    faults: list[Fault] = []
    sizes: list[tuple[int, int]] = []
    for key, name in (("source", line.source), ("target", line.target)):
        path = line.folder / name
        where = f"{line.where}, {key} {name}"
        problem = _problem(path, decode)
        if problem is not None:
            kind, got = problem
            expected = "a picture that OpenCV reads in full"
            faults.append(
                Fault(
                    kind=kind,
                    where=where,
                    expected=expected,
                    got=got,
                    advice="restore the file, or remove the line",
                )
            )
            continue
        sizes.append(_opencv_size(path))
    if len(sizes) == 2 and sizes[0] != sizes[1]:
        faults.append(
            Fault(
                kind="size differs from picture",
                where=f"{line.where}, source {line.source}",
                expected=f"the size of {line.target}, {sizes[1][0]}x{sizes[1][1]}",
                got=f"{sizes[0][0]}x{sizes[0][1]}",
                advice="make the map again from the picture; resizing shifts its lines",
            )
        )
    return _Looked(sizes[1] if len(sizes) == 2 else None, faults)


def _problem(path: Path, decode: bool) -> tuple[str, str] | None:
    """Kind and reason why a file is no whole picture.

    OpenCV itself gives a truncated JPEG as a picture with grey rows, so our decoder is asked first.
    """
    if not path.is_file():
        return "missing file", "nothing"
    decoded = decode_picture(path) if decode else None
    if isinstance(decoded, Unreadable):
        return "broken picture", decoded.reason
    if _opencv_size(path) == (0, 0):
        return "broken picture", f"a {path.suffix} file that OpenCV cannot read"
    return None


def _opencv_size(path: Path) -> tuple[int, int]:
    """Width and height as `cv2.imread` gives them; (0, 0) where it gives nothing."""
    import cv2

    pixels = cv2.imread(str(path))
    return (0, 0) if pixels is None else (pixels.shape[1], pixels.shape[0])


def _check_sizes(where: str, sizes: Counter[tuple[int, int]], findings: Findings) -> None:
    if len(sizes) > 1:
        findings.add(
            "sizes differ",
            where,
            expected="one size for all rows, since batches are stacked as they are",
            got=_told(sizes),
            advice="condkit build --size makes square pictures of one size",
        )
    odd = {size: n for size, n in sizes.items() if size[0] % MULTIPLE or size[1] % MULTIPLE}
    if odd:
        findings.add(
            "size no multiple of 64",
            where,
            expected=f"width and height that are multiples of {MULTIPLE}",
            got=_told(Counter(odd)),
            advice="condkit build --size with a multiple of 64",
        )


def _told(sizes: Counter[tuple[int, int]]) -> str:
    """The most frequent sizes, and how many more there are."""
    shown = [f"{w}x{h} in {count} rows" for (w, h), count in sizes.most_common(4)]
    more = len(sizes) - len(shown)
    return ", ".join(shown) + (f", and {more} more sizes" if more else "")

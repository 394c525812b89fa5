"""diffusers' ControlNet scripts: three columns of `load_dataset`, by position.

As `train_controlnet.py` and its SDXL sister have it: with `--train_data_dir` the folder goes to
`datasets.load_dataset`; of its split `train`, column 0 is the picture, 1 the caption (text, or a
list of texts of which one is drawn), 2 the map, unless the columns are named; picture and map are
each resized to `--resolution`, a multiple of 8, and cropped in the middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit.datasets.checks.faults import Fault, Findings
from condkit.datasets.checks.pictures import Unreadable, decode_picture, size_text
from condkit.datasets.checks.rows import caption_problem
from condkit.datasets.checks.trainers.folders import pictures, relative
from condkit.datasets.in_order import map_in_order

MULTIPLE = 8
_FLAGS = ("--image_column", "--caption_column", "--conditioning_image_column")
_FAMILIAR = (("image", "target"), ("text", "caption", "prompt"), ("conditioning_image", "source"))


@dataclass(frozen=True, slots=True)
class _Row:
    """What the scripts take of a row, not yet decoded."""

    where: str
    image: Any
    caption: Any
    map: Any


@dataclass(frozen=True, slots=True)
class _Looked:
    """Short side of the picture in pixels, its file, and what is wrong with the row."""

    short: int | None
    file: Path | None
    faults: list[Fault]


def check(root: Path, findings: Findings, *, decode: bool, workers: int | None) -> None:
    """See `Rules`; every row is read through `datasets`, whether or not it was decoded before."""
    splits = _load(root, findings)
    if splits is None:
        return
    if "train" not in splits:
        findings.add(
            "no train split",
            str(root),
            expected="a split called train",
            got=", ".join(splits),
            advice="name it so in the card's configs, or by the folder",
        )
        return
    columns = _columns(root, splits["train"], findings)
    if columns is None:
        return
    shorts: Counter[int] = Counter()
    named: dict[Path, set[str]] = {}
    done = 0
    looked = map_in_order(_look, _rows(splits["train"], columns, findings), workers=workers)
    for done, one in enumerate(looked, start=1):
        findings.faults += one.faults
        if one.short is not None:
            shorts[one.short] += 1
        if one.file is not None:
            named.setdefault(one.file.parent, set()).add(one.file.name)
        findings.progress(done, done, "rows read through datasets")
    findings.rows = max(findings.rows, done)
    _check_resolution(root, shorts, findings)
    if decode:
        _check_forgotten(root, named, findings)


def _load(root: Path, findings: Findings) -> dict[str, Any] | None:
    """The splits that `load_dataset` sees, read row by row; None where it sees nothing."""
    import datasets

    try:
        loaded = datasets.load_dataset(str(root), streaming=True)
        return {str(name): split._resolve_features() for name, split in loaded.items()}
    except Exception as error:  # the library raises whatever its readers raise
        findings.add(
            "does not load",
            str(root),
            expected="a folder that datasets.load_dataset reads",
            got=f"{type(error).__name__}: {_first_line(error)}",
            advice="see the message; condkit export --format imagefolder makes one",
        )
        return None


def _columns(root: Path, split: Any, findings: Findings) -> tuple[str, ...] | None:  # noqa: ANN401
    """The names of the three columns; None where one of them cannot be used."""
    import datasets

    names = list(split.features)
    if len(names) < len(_FLAGS):
        findings.add(
            "columns",
            str(root),
            expected="at least three columns: picture, caption, map",
            got=", ".join(names) or "none",
            advice="add metadata.jsonl with file_name, text and NAME_file_name",
        )
        return None
    good = True
    for place, name in enumerate(names[: len(_FLAGS)]):
        feature = split.features[name]
        fits = _is_text(feature) if place == 1 else isinstance(feature, datasets.Image)
        if fits:
            continue
        good = False
        named = next((n for n in _FAMILIAR[place] if n in names), None)
        findings.add(
            "columns",
            f"column {place}, {name!r}",
            expected="text or lists of text" if place == 1 else "pictures (an Image feature)",
            got=str(feature),
            advice=f"give {_FLAGS[place]} {named}"
            if named
            else f"put the {('picture', 'caption', 'map')[place]} there, or give {_FLAGS[place]}",
        )
    return tuple(names[: len(_FLAGS)]) if good else None


def _is_text(feature: Any) -> bool:  # noqa: ANN401 - a feature of datasets'
    import datasets

    inner = getattr(feature, "feature", feature)
    texts = ("string", "large_string")
    return isinstance(inner, datasets.Value) and inner.dtype in texts


def _rows(split: Any, columns: tuple[str, ...], findings: Findings) -> Iterator[_Row]:  # noqa: ANN401
    """The rows, pictures as files; ends with a fault where reading fails."""
    import datasets

    image, caption, hint = columns
    plain = split.select_columns(list(columns))
    for name in (image, hint):
        plain = plain.cast_column(name, datasets.Image(decode=False))
    number = 0
    try:
        for number, row in enumerate(plain):
            where = f"row {number} of train"
            yield _Row(where, row[image], row[caption], row[hint])
    except Exception as error:  # the library raises whatever its readers raise
        findings.add(
            "does not load",
            f"train, behind row {number}",
            expected="rows that datasets reads",
            got=f"{type(error).__name__}: {_first_line(error)}",
            advice="restore the file that it names, or remove the row",
        )


def _look(row: _Row) -> _Looked:
    faults = list(_caption_faults(row))
    sizes: list[tuple[str, int]] = []
    for what, cell in (("image", row.image), ("map", row.map)):
        content = _content(cell)
        decoded = decode_picture(content) if content else Unreadable("nothing")
        if isinstance(decoded, Unreadable):
            faults.append(_broken(f"{row.where}, {what}", content, decoded))
        else:
            sizes.append((size_text(decoded[0]), min(decoded[0].shape[:2])))
    if len(sizes) == 2 and sizes[0][0] != sizes[1][0]:
        faults.append(
            Fault(
                kind="size differs from picture",
                where=f"{row.where}, map",
                expected=f"the picture's size, {sizes[0][0]}",
                got=sizes[1][0],
                advice="make the map again from the picture: each is resized on its own",
            )
        )
    file = _content(row.image)
    return _Looked(
        sizes[0][1] if len(sizes) == 2 else None, file if isinstance(file, Path) else None, faults
    )


def _broken(where: str, content: bytes | Path | None, found: Unreadable) -> Fault:
    missing = content is None or (isinstance(content, Path) and not content.exists())
    return Fault(
        kind="missing picture" if missing else "broken picture",
        where=f"{where} {content.name}" if isinstance(content, Path) else where,
        expected="a picture that decodes in full",
        got="no such file" if missing and content else found.reason,
        advice="restore it, or remove the row",
    )


def _check_forgotten(root: Path, named: Mapping[Path, set[str]], findings: Findings) -> None:
    """Pictures beside those of the table that no row names: `datasets` leaves them out silently."""
    for folder, names in named.items():
        for path in pictures(folder):
            if path.name not in names:
                findings.add(
                    "picture without row",
                    relative(path, root),
                    expected="a row of the table for each picture",
                    got="none; it is left out silently",
                    advice="add a row, or move the picture away",
                )


def _content(cell: object) -> bytes | Path | None:
    """The bytes of a picture, or the file that has them."""
    if not isinstance(cell, dict):
        return None
    data, path = cell.get("bytes"), cell.get("path")
    if data is not None:
        return bytes(data)
    return Path(path) if path else None


def _caption_faults(row: _Row) -> Iterator[Fault]:
    texts = row.caption if isinstance(row.caption, list) else [row.caption]
    problems = [caption_problem(text) for text in texts] if texts else ["an empty list"]
    for problem in filter(None, problems):
        yield Fault(
            kind="bad caption",
            where=row.where,
            expected="text, or a list of texts",
            got=problem,
            advice="write a caption; an empty one is allowed",
        )


def _check_resolution(root: Path, shorts: Counter[int], findings: Findings) -> None:
    """Pictures of one size should be trained at it, so that no map is resampled."""
    if len(shorts) > 1:
        findings.note(
            f"pictures have {len(shorts)} short sides, from {min(shorts)} to {max(shorts)} pixels; "
            "the scripts resize picture and map to --resolution and crop the middle"
        )
    elif shorts and next(iter(shorts)) % MULTIPLE:
        findings.add(
            "resolution",
            str(root),
            expected=f"a short side that is a multiple of {MULTIPLE}, to give as --resolution",
            got=f"{next(iter(shorts))} in all {shorts.total()} rows",
            advice="condkit build --size with a multiple of 8, so that maps are not resampled",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]

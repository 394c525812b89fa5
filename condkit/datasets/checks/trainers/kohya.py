"""kohya's sd-scripts: flat folders, pairs by stem, captions of one line beside the pictures.

Read in `library/train_util.py` of sd-scripts: a ControlNet dataset is a list of subsets with
`image_dir`, `caption_extension` and `conditioning_data_dir`; pictures are found by their endings in
lower or in upper case, folders below are not searched, and a picture without map, or a map without
picture, ends the run.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from condkit.datasets.checks.faults import Findings
from condkit.datasets.checks.rows import caption_problem
from condkit.datasets.checks.trainers.folders import (
    ImageSet,
    Pair,
    by_stem,
    check_pairs,
    find_sets,
    nested_pictures,
    no_sets,
    pictures,
    relative,
)

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")
_READ = frozenset(SUFFIXES) | {suffix.upper() for suffix in SUFFIXES}
_LAYOUT = (
    "a TOML file with [[datasets.subsets]], or a folder `images` with a folder of maps beside it"
)


def check(root: Path, findings: Findings, *, decode: bool, workers: int | None) -> None:
    """See `Rules`."""
    sets = _from_toml(root, findings) or find_sets(root)
    if not sets:
        no_sets(root, findings, _LAYOUT)
    for one in sets:
        pairs = list(_check_set(root, one, findings))
        if decode:
            check_pairs(root, pairs, findings, turns=False, workers=workers)
        else:
            findings.rows = max(findings.rows, len({pair.image for pair in pairs}))


def _from_toml(root: Path, findings: Findings) -> list[ImageSet]:
    """The subsets of the dataset configurations at the top of a folder."""
    sets: list[ImageSet] = []
    for file in sorted((*root.glob("*.toml"), *root.glob("*/*.toml"))):
        where = relative(file, root)
        try:
            config = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            findings.add(
                "broken configuration",
                where,
                expected="TOML in UTF-8",
                got=str(error),
                advice="correct it",
            )
            continue
        for dataset in config.get("datasets", ()):
            sets += _subsets(root, where, config.get("general", {}), dataset, findings)
    return sets


def _subsets(
    root: Path, file: str, general: dict[str, Any], dataset: dict[str, Any], findings: Findings
) -> Iterator[ImageSet]:
    for number, subset in enumerate(dataset.get("subsets", ())):
        where = f"{file}, subset {number}"
        settings = {**general, **dataset, **subset}
        if float(settings.get("validation_split", 0) or 0) > 0:
            findings.add(
                "validation split",
                where,
                expected="no validation_split: the held-out maps would count as superfluous",
                got=str(settings["validation_split"]),
                advice="remove it, and hold rows out in a folder of their own",
            )
        folders = []
        for key in ("image_dir", "conditioning_data_dir"):
            folder = _resolved(root, settings.get(key))
            if folder is None:
                findings.add(
                    "missing folder",
                    where,
                    expected=f"{key} to name a folder",
                    got=repr(settings.get(key)),
                    advice="correct the path; paths are relative to where the trainer is started",
                )
            else:
                folders.append(folder)
        if len(folders) == 2:
            yield ImageSet(
                images=folders[0],
                conditions=(folders[1],),
                caption_suffix=settings.get("caption_extension", ".caption"),
            )


def _resolved(root: Path, value: object) -> Path | None:
    """A folder of a configuration: as it stands, or relative to the dataset."""
    if not isinstance(value, str) or not value:
        return None
    candidates = (root / value, root.parent / value, Path(value))
    return next((path for path in candidates if path.is_dir()), None)


def _check_set(root: Path, one: ImageSet, findings: Findings) -> Iterator[Pair]:
    images = by_stem(_flat(root, one.images, findings, inside=one.conditions))
    for stem, paths in images.items():
        _check_stem(root, paths, findings)
        _check_caption(root, one.images / f"{stem}{one.caption_suffix}", findings)
    if not one.conditions:
        findings.add(
            "layout",
            relative(one.images, root),
            expected="a folder of maps beside the pictures",
            got="none",
            advice="make maps with condkit build",
        )
    for folder in one.conditions:
        hints = by_stem(_flat(root, folder, findings, inside=()))
        for stem, paths in hints.items():
            _check_stem(root, paths, findings)
            if stem not in images:
                findings.add(
                    "extra map",
                    relative(paths[0], root),
                    expected=f"a picture called {stem} in {relative(one.images, root)}",
                    got="none; kohya stops",
                    advice="move the map away",
                )
        for stem, paths in images.items():
            if stem in hints:
                yield Pair(paths[0], hints[stem][0])
                continue
            findings.add(
                "missing map",
                relative(paths[0], root),
                expected=f"a map called {stem} in {relative(folder, root)}",
                got="none; kohya stops",
                advice="make the map, or move the picture away",
            )


def _flat(
    root: Path, folder: Path, findings: Findings, *, inside: tuple[Path, ...]
) -> Iterator[Path]:
    """The pictures that kohya finds in a folder; the others are faults."""
    for path in pictures(folder):
        if path.suffix in _READ:
            yield path
            continue
        findings.add(
            "ending",
            relative(path, root),
            expected=f"one of {', '.join(SUFFIXES)}, all in lower or all in upper case",
            got=f"{path.suffix}; kohya leaves the file out silently",
            advice="rename or convert it",
        )
    for path in nested_pictures(folder):
        if not any(path.is_relative_to(condition) for condition in inside):
            findings.add(
                "nested picture",
                relative(path, root),
                expected=f"all pictures directly in {relative(folder, root)}",
                got="one in a folder below; kohya leaves it out silently",
                advice="move it up under a name of its own",
            )


def _check_stem(root: Path, paths: list[Path], findings: Findings) -> None:
    if len(paths) > 1:
        findings.add(
            "same stem",
            relative(paths[1], root),
            expected="a name that differs from others in more than its ending",
            got=f"the stem of {paths[0].name}; both would share one map and caption",
            advice="rename one of them",
        )


def _check_caption(root: Path, path: Path, findings: Findings) -> None:
    where = relative(path, root)
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        _bad(findings, "missing caption", where, "nothing", "write one, of one line")
        return
    except (OSError, ValueError) as error:
        _bad(findings, "bad caption", where, str(error), "save it as UTF-8")
        return
    lines = text.splitlines()
    problem = caption_problem(text.replace("\r\n", "\n"))
    if not lines:
        advice = "write a caption, or an empty line for an empty caption"
        _bad(findings, "empty caption", where, "an empty file; kohya stops", advice)
    elif any(line.strip() for line in lines[1:]):
        got = f"{len(lines)} lines, of which kohya reads the first"
        _bad(findings, "caption of many lines", where, got, "join them to one line")
    elif not lines[0].strip():
        findings.note("some captions are an empty line, which is an empty caption")
    if problem is not None:
        _bad(findings, "bad caption", where, problem, "save it as UTF-8 without such letters")


def _bad(findings: Findings, kind: str, where: str, got: str, advice: str) -> None:
    expected = "a caption of one line of UTF-8 text"
    findings.add(kind, where, expected=expected, got=got, advice=advice)

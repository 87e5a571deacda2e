"""From file paths to classes and splits; reads names only, never a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from hwautoml.core.finding import Finding
from hwautoml.core.shown import shown
from hwautoml.datasets.naming import first_of
from hwautoml.datasets.sources import OTHER_SUFFIXES, ImageFile, Listing
from hwautoml.errors import DatasetError

SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
EXPECTED = "expected one sub-folder of images per class, at the top or inside train/ (and val/, test/)"


@dataclass(frozen=True)
class LabelledFile:
    """``split`` is train, val or test where the source says so, else empty; ``label`` indexes the classes. Files of
    one ``group`` (a burst, a patient) belong into one split; an empty one is nobody's."""

    file: ImageFile
    split: str
    label: int
    group: str = ""


@dataclass(frozen=True)
class Layout:
    """``classes`` are sorted by name; ``files`` by split, class, path. ``given_splits`` come from the source.

    ``loose``: paths of images without a class. ``findings``: what was decided, where it could have been otherwise.
    """

    classes: tuple[str, ...]
    files: tuple[LabelledFile, ...]
    given_splits: frozenset[str]
    loose: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass
class _Folder:
    path: str
    folders: dict[str, _Folder] = field(default_factory=dict)
    images: list[ImageFile] = field(default_factory=list)


def find_layout(listing: Listing, origin: str) -> Layout:
    """Classes and splits of ``listing``; ``origin`` names the source in messages.

    Raises:
        DatasetError: not an image folder, one class only, an empty or misplaced folder, or splits
            whose classes differ.
    """
    root = _unwrap(_tree(listing))
    split_folders = _split_folders(root, origin)
    if split_folders is None:
        split_folders = {"": root}
    classes = _class_names(split_folders, root, origin)
    files: list[LabelledFile] = []
    for split, folder in split_folders.items():
        if set(folder.folders) != set(classes):
            _raise_class_mismatch(folder, classes, origin)
        for label, name in enumerate(classes):
            files.extend(LabelledFile(f, split, label) for f in _images_of(folder.folders[name], origin, listing))
    beside = {folder.path: folder.images for folder in (root, *split_folders.values())}
    loose = tuple(file.path for images in beside.values() for file in images)
    findings = _nested(next(iter(split_folders.values())))
    return Layout(classes, tuple(files), frozenset(split_folders) - {""}, loose, findings)


def _tree(listing: Listing) -> _Folder:
    root = _Folder("")
    nodes = {"": root}

    def node(path: str) -> _Folder:
        if path not in nodes:
            parent, _, name = path.rpartition("/")
            nodes[path] = node(parent).folders.setdefault(name, _Folder(path))
        return nodes[path]

    for path in listing.folders:
        node(path)
    for file in listing.files:
        node(file.path.rpartition("/")[0]).images.append(file)
    return root


def _unwrap(root: _Folder) -> _Folder:
    """Step into a single wrapping folder; ``train`` alone, or a folder of images, is no wrapper."""
    if len(root.folders) == 1 and not root.images:
        (only,) = root.folders.values()
        if only.folders and not only.images and next(iter(root.folders)).lower() not in SPLIT_NAMES:
            return only
    return root


def _split_folders(root: _Folder, origin: str) -> dict[str, _Folder] | None:
    """Folders by canonical split name (train first), or None when the classes lie at the top.

    A folder called ``train`` that holds images itself is a class (of vehicles, say).
    """
    named = {name: folder for name, folder in sorted(root.folders.items()) if name.lower() in SPLIT_NAMES}
    if not any(folder.folders for folder in named.values()):
        return None
    others = sorted(set(root.folders) - set(named))
    if others:
        raise DatasetError(
            f"{_at(origin, root.path)} holds split folders ({', '.join(named)}) and others ({', '.join(others[:3])})",
            fix="move the other folders away, or into train/",
        )
    splits: dict[str, _Folder] = {}
    for name, folder in named.items():
        split = SPLIT_NAMES[name.lower()]
        if split in splits:
            raise DatasetError(
                f"{_at(origin, folder.path)} and {_at(origin, splits[split].path)} both name the {split} split",
                fix="keep one of them",
            )
        splits[split] = folder
    if "train" not in splits:
        raise DatasetError(
            f"{_at(origin, root.path)} has {' and '.join(named)} but no train folder",
            fix="name the training folder train",
        )
    return {split: splits[split] for split in ("train", "val", "test") if split in splits}


def _class_names(split_folders: Mapping[str, _Folder], root: _Folder, origin: str) -> tuple[str, ...]:
    top = next(iter(split_folders.values()))
    where = _at(origin, top.path)
    if not top.folders:
        what = f"{len(top.images)} images but no class folders" if top.images else "no images"
        raise DatasetError(f"{where} is not an image folder: it holds {what}; {EXPECTED}", fix="sort them by class")
    if not any(_holds_images(folder) for folder in root.folders.values()):
        raise DatasetError(f"{where} is not an image folder: its folders hold no images; {EXPECTED}")
    classes = tuple(sorted(top.folders))
    for name in classes:
        if not name.isprintable():  # bytes that are not UTF-8, too: no manifest or report could hold them
            raise DatasetError(f"class folder {name!r} in {where} has no printable name", fix="rename the folder")
    if len(classes) == 1:
        raise DatasetError(f"{where} has one class only, {classes[0]!r}", fix="add a folder of images of another class")
    return classes


def _holds_images(folder: _Folder) -> bool:
    return bool(folder.images) or any(_holds_images(inner) for inner in folder.folders.values())


def _images_of(folder: _Folder, origin: str, listing: Listing) -> list[ImageFile]:
    """Those of the folders below it, too; refuses a folder without any, naming what it holds instead."""
    images = sorted(_all_images(folder), key=lambda file: file.path)
    if not images:
        others = [path for path in listing.others if path.startswith(f"{folder.path}/")]
        reason = f", but {len(others)} that are not read: {OTHER_SUFFIXES[_suffix(others[0])]}" if others else ""
        raise DatasetError(
            f"class folder {_at(origin, folder.path)} holds no images{reason}",
            fix="add images to it, or remove the folder",
        )
    return images


def _all_images(folder: _Folder) -> Iterator[ImageFile]:
    yield from folder.images
    for inner in folder.folders.values():
        yield from _all_images(inner)


def _suffix(path: str) -> str:
    return path[path.rfind(".") :].lower()


def _nested(top: _Folder) -> tuple[Finding, ...]:
    """That folders lie in class folders; a doubt where they are named alike, as classes would be."""
    inner = {name: sorted(folder.folders) for name, folder in top.folders.items() if folder.folders}
    if not inner:
        return ()
    example = next(f"{name}/{below[0]}" for name, below in inner.items())
    text = f"{len(inner)} of {len(top.folders)} class folders hold folders, such as {shown(example)}; "
    shared = set.intersection(*(set(folder.folders) for folder in top.folders.values()))
    if len(shared) >= 2:
        text += f"the class is the outer folder ({first_of(sorted(top.folders), 3)}), not the inner one"
        fix = f"if {first_of(sorted(shared), 3)} are the classes: --label-pattern '*/{{label}}/**'"
        return (Finding("warn", "nested-classes", text, fix, len(inner)),)
    return (Finding("note", "nested-folders", f"{text}the outer one is the class", count=len(inner)),)


def _raise_class_mismatch(folder: _Folder, classes: tuple[str, ...], origin: str) -> None:
    where = _at(origin, folder.path)
    unknown = sorted(set(folder.folders) - set(classes))
    if unknown:
        raise DatasetError(f"{where} has a class {unknown[0]!r} that train lacks", fix="add it to train, or remove it")
    missing = sorted(set(classes) - set(folder.folders))
    raise DatasetError(f"{where} lacks the class {missing[0]!r} that train has", fix="add images of it to both")


def _at(origin: str, path: str) -> str:
    return shown(f"{origin}/{path}" if path else origin)

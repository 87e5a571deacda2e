"""Tables that label files: as spreadsheets, scripts and hubs write them, and what is wrong with some."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hwautoml.core.shown import shown
from hwautoml.datasets import load_dataset
from hwautoml.datasets.label_table import Columns, label_rows, parse_table
from hwautoml.datasets.path_pattern import PathPattern
from hwautoml.errors import DatasetError, InvalidValueError
from tests.datasets.shared import case, finding

Picture = Callable[..., Image.Image]
ZipFolder = Callable[..., Path]


@pytest.fixture
def images(tmp_path: Path, picture: Picture) -> Path:
    """A folder with 20 pictures in ``images/``; those of even numbers are cats."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for number in range(20):
        picture(number).save(tmp_path / "set" / "images" / f"{number:02d}.png")
    return tmp_path / "set"


def label_of(number: int) -> str:
    return "cat" if number % 2 == 0 else "dog, wild"


def csv_of(delimiter: str = ",", newline: str = "\n", prefix: str = "images/", header: str = "path,label") -> str:
    lines = [header.replace(",", delimiter)] if header else []
    lines += [f'{prefix}{n:02d}.png{delimiter}"{label_of(n)}"' for n in range(20)]
    return newline.join(lines) + newline


def counts(root: Path, **options: object) -> dict[str, int]:
    dataset = load_dataset(root, **options)
    labels = np.concatenate([split.labels.numpy() for split in (dataset.train, dataset.val, dataset.test)])
    return dict(zip(dataset.classes, np.bincount(labels).tolist(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        csv_of(),
        csv_of(newline="\r\n"),
        csv_of(newline="\r"),
        "\ufeff" + csv_of(delimiter=";"),
        csv_of(delimiter="\t", header="file_name,category"),
        csv_of(prefix="", header="image_id,target"),
        csv_of(prefix="./images/"),
        csv_of(prefix="images\\"),
        csv_of(header=""),
        csv_of(header="image_id,target").replace(".png", "").replace("images/", ""),
        csv_of(header="filename,breed"),
    ],
)
def test_a_table_beside_the_images(images: Path, text: str) -> None:
    (images / "labels.csv").write_bytes(text.encode())
    assert counts(images) == {"cat": 10, "dog, wild": 10}
    assert counts(images / "labels.csv") == {"cat": 10, "dog, wild": 10}


def test_in_a_zip(images: Path, tmp_path: Path, zip_folder: ZipFolder) -> None:
    (images / "labels.tsv").write_text(csv_of("\t"))
    for name, prefix in (("a.zip", ""), ("b.zip", "set/")):
        assert counts(zip_folder(images, tmp_path / name, prefix)) == {"cat": 10, "dog, wild": 10}


def test_hugging_face_imagefolder(images: Path) -> None:
    for split, numbers in (("train", range(14)), ("test", range(14, 20))):
        (images / split).mkdir()
        lines = []
        for number in numbers:
            name = f"{number:02d}.png"
            (images / "images" / name).rename(images / split / name)
            lines.append(json.dumps({"file_name": name, "label": label_of(number)}))
        (images / split / "metadata.jsonl").write_text("\n".join(lines))
    (images / "images").rmdir()
    dataset = load_dataset(images)
    assert dataset.classes == ("cat", "dog, wild") and dataset.test.num_images == 6


def test_columns_of_split_and_chosen_names(images: Path) -> None:
    rows = [f"images/{n:02d}.png,{label_of(n)[:3]},{n % 5},{'test' if n >= 16 else 'train'}" for n in range(20)]
    (images / "labels.csv").write_text("\n".join(["where,animal,mark,split", *rows]))
    with pytest.raises(
        DatasetError, match=r"no column of paths.*it has where, animal, mark, split[\s\S]*--path-column"
    ):
        load_dataset(images / "labels.csv")
    dataset = load_dataset(images, path_column="where", label_column="mark")
    assert dataset.classes == ("0", "1", "2", "3", "4") and dataset.test.num_images == 4
    with pytest.raises(DatasetError, match=r"has no column 'kind'; it has where, animal"):
        load_dataset(images, path_column="where", label_column="kind")


def expect(images: Path, text: str | bytes, message: str, name: str = "labels.csv", **options: object) -> None:
    (images / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError, match=message):
        load_dataset(images, **options)


def test_paths_that_do_not_exist(images: Path) -> None:
    expect(
        images, csv_of(prefix="pictures/"), r"20 of the 20 paths in .*labels\.csv do not exist, such as: pictures/00"
    )
    (images / "images" / "03.png").unlink()
    (images / "labels.csv").write_text(csv_of())
    assert "images/03.png" in finding(load_dataset(images), "missing-files").message


def test_labels_that_cannot_be_learnt(images: Path) -> None:
    expect(images, csv_of().replace("dog, wild", "cat"), "has one class only: 'cat' in all 20 rows")
    expect(images, csv_of() + "images/00.png,horse\n", r"1 images have more than one label .*00\.png \(cat, horse\)")
    expect(images, csv_of() + "images/00.png\n", r"row 22 of .*labels\.csv has 1 cells, the first one 2")
    expect(images, csv_of().replace("cat", "c\x07t"), r"the label c\\\\x07t|'c\\\\x07t' in .* is not printable")


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (csv_of().replace("cat", "Mädchen").encode("cp1252"), "WINDOWS-1252"),
        (csv_of().encode("utf-16"), "UTF-16"),
        (csv_of().replace("cat", "猫").encode("shift_jis").replace(b"dog", b"\x81"), "ISO-8859-1"),
    ],
)
def test_encodings_are_named(images: Path, data: bytes, encoding: str) -> None:
    expect(images, data, rf"is not UTF-8: byte 0x.. in line \d+; it looks like {encoding}[\s\S]*iconv -f {encoding}")


def test_json_lines_that_are_none(images: Path) -> None:
    expect(images, '{"file_name": "images/00.png"\n', "line 1 of .*metadata.jsonl is no JSON", "metadata.jsonl")
    expect(images, "[1, 2]\n", "line 1 of .* is no JSON object", "metadata.jsonl")


def test_a_table_that_disagrees_with_class_folders(images: Path) -> None:
    for number in range(20):
        folder = images / label_of(number)[:3]
        folder.mkdir(exist_ok=True)
        (images / "images" / f"{number:02d}.png").rename(folder / f"{number:02d}.png")
    (images / "images").rmdir()
    agreeing = [f"{n:02d}.png,{label_of(n)[:3]}" for n in range(20)]
    (images / "metadata.csv").write_text("\n".join(["file_name,label", *agreeing]))
    assert counts(images) == {"cat": 10, "dog": 10}
    torn = "\n".join(["file_name,label", "02.png,dog", *agreeing[:2], *agreeing[3:]])
    expect(images, torn, r"disagree on 1 of 20 images: cat/02\.png \(cat by its folder, dog by the", "metadata.csv")
    (images / "metadata.csv").write_text("\n".join(["file_name,label", *(f"{n:02d}.png,{n % 3}" for n in range(20))]))
    dataset = load_dataset(images)
    assert dataset.classes == ("0", "1", "2") and finding(dataset, "labels-from-table")
    (images / "metadata.csv").write_text("file_name,text\n00.png,a cat in the sun\n01.png,a dog")
    dataset = load_dataset(images)
    assert dataset.classes == ("cat", "dog") and finding(dataset, "table-without-labels")


def test_what_was_found_and_what_would_be_accepted(images: Path) -> None:
    expect(images, "a,b,c\n1,2,3\n", r"labels\.csv has the columns a, b, c, and none of labels\s+fix: .*accepted are")


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"labels/00.txt": "0 0.5 0.5 0.1 0.2\n1 0.2 0.2 0.1 0.1\n", "data.yaml": "nc: 2"}, "YOLO"),
        ({"images/00.txt": "3 0.5 0.5 0.1 0.2"}, "YOLO"),
        ({"Annotations/00.xml": "<annotation><object><bndbox/></object></annotation>"}, "Pascal VOC"),
        ({"annotations/instances_train2017.json": "{}"}, "COCO"),
        ({"train/_annotations.coco.json": "{}"}, "COCO"),
    ],
)
def test_object_detection_is_called_by_its_name(images: Path, files: dict[str, str], kind: str) -> None:
    for path, text in files.items():
        (images / path).parent.mkdir(exist_ok=True)
        (images / path).write_text(text)
    with pytest.raises(DatasetError, match=rf"object detection \({kind}[\s\S]*crop each box"):
        load_dataset(images)


def test_a_table_of_boxes_is_called_by_its_name(images: Path) -> None:
    expect(images, "filename,class,xmin,ymin\n00.png,cat,1,2\n01.png,dog,3,4\n", "has boxes .*object detection")


def test_notes_beside_the_pictures_are_no_boxes(images: Path) -> None:
    (images / "images" / "00.txt").write_text("3 cats on a roof")
    (images / "labels.csv").write_text(csv_of())
    assert counts(images) == {"cat": 10, "dog, wild": 10}


def test_label_patterns(tmp_path: Path, picture: Picture) -> None:
    for number in range(12):
        picture(number).save(tmp_path / f"{'ab'[number % 2]}_c_{number}.png")
    assert counts(tmp_path, label_pattern="{label}_*.png") == {"a_c": 6, "b_c": 6}
    with pytest.raises(DatasetError, match=r"no image of .* matches the pattern 'x/\{label\}'; there are a_c_0\.png"):
        load_dataset(tmp_path, label_pattern="x/{label}")
    for bad in ("{label", "{lable}/*", "{label}{label}", "*"):
        with pytest.raises(InvalidValueError, match="pattern"):
            load_dataset(tmp_path, label_pattern=bad)


@given(st.text("ab_", min_size=1), st.text("ab", min_size=1))
def test_a_pattern_finds_what_a_path_was_made_of(group: str, label: str) -> None:
    pattern = PathPattern("**/{label}/{group}-*.png")
    for top in ("", "x/", "x/y/"):
        assert pattern.match(f"{top}{label}/{group}-7.png") == {"label": label, "group": group}
    assert pattern.match(f"{label}/deeper/{group}.png") is None


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1), st.sampled_from(",;\t"))
def test_what_the_csv_module_writes_is_read(rows: list[tuple[str, str]], delimiter: str) -> None:
    import csv
    import io

    clean = [(p.strip().replace("\0", ""), s.strip().replace("\0", "")) for p, s in rows]
    clean = [(p, s) for p, s in clean if p and s and not (p + s).encode("utf-8", "replace").count(b"?")]
    if not clean:
        return
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("path", "label"), *clean])
    table = parse_table(buffer.getvalue().encode(), "x.csv")
    assert [(row.path, row.label) for row in label_rows(table, Columns())] == clean


def test_names_with_control_characters_are_shown_escaped(images: Path) -> None:
    assert shown("a\x1b[31m\n\udcff é") == "a\\x1b[31m\\n\\xff é"
    (images / "images" / "evil\x1b[2J.png").write_bytes(b"nonsense")
    names = [f"images/{n:02d}.png" for n in range(20)] + ["images/evil\x1b[2J.png"] * 1
    text = "\n".join(["path,label", *(f"{name},{label_of(i)[:3]}" for i, name in enumerate(names))])
    for name in names[:-1]:
        (images / name).write_bytes(b"nonsense")
    with pytest.raises(DatasetError) as caught:
        (images / "labels.csv").write_text(text)
        load_dataset(images)
    assert "\x1b" not in str(caught.value)


def test_links_that_lead_in_circles_end(images: Path) -> None:
    (images / "images" / "again").symlink_to(images)
    (images / "labels.csv").write_text(csv_of())
    assert counts(images) == {"cat": 10, "dog, wild": 10}


# From Python.


def test_data_frame_and_pairs(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    pairs = [(images / "images" / f"{n:02d}.png", label_of(n)) for n in range(20)]
    frame = pandas.DataFrame({"file": [str(p) for p, _ in pairs], "label": [label for _, label in pairs]})
    assert counts(frame) == counts(pairs) == {"cat": 10, "dog, wild": 10}
    monkeypatch.chdir(images)
    assert counts([(f"images/{n:02d}.png", n % 2) for n in range(20)]) == {"0": 10, "1": 10}
    with pytest.raises(DatasetError, match="2 of the 2 paths in the list do not exist"):
        load_dataset([("x.png", 1), ("y.png", 2)])


def test_arrays_tensors_and_datasets() -> None:
    import torch
    from torch.utils.data import TensorDataset

    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 12, 12), dtype=np.uint8)
    labels = np.arange(20) % 2
    channels_last = pixels.transpose(0, 2, 3, 1)
    wanted = load_dataset((channels_last, labels))
    assert (wanted.image_size, wanted.channels, wanted.classes) == (12, 3, ("0", "1"))
    for source in (
        (torch.from_numpy(pixels), torch.from_numpy(labels)),
        (torch.from_numpy(pixels) / 255, torch.from_numpy(labels)),
        TensorDataset(torch.from_numpy(pixels), torch.from_numpy(labels)),
        [(Image.fromarray(image), int(label)) for image, label in zip(channels_last, labels, strict=True)],
    ):
        dataset = load_dataset(source)
        assert np.array_equal(dataset.train.images_uint8(), wanted.train.images_uint8())


def test_other_objects_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="int is no source of labelled images; expected a path, a pandas"):
        load_dataset(7)
    with pytest.raises(DatasetError, match=r"have 2 shapes, such as \[\(2, 2\), \(3, 3\)\]"):
        load_dataset([(np.zeros((2, 2)), 0), (np.zeros((3, 3)), 1)])


def test_the_reported_case() -> None:
    root = case("csv")
    assert counts(root) == counts(root / "labels.csv") == {"circle": 30, "square": 30}

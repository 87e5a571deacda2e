import re
from pathlib import Path

import pytest

from hwautoml.core.resources import package_folder
from hwautoml.core.target import load_target, parse_target, target_names
from hwautoml.errors import InvalidValueError, UnknownTargetError

TARGETS = package_folder("targets")
FILES = sorted(TARGETS.glob("*"))
CPU = (TARGETS / "cpu.toml").read_text(encoding="utf-8")


def test_the_promised_targets_are_there() -> None:
    assert {"cpu", "gpu", "rpi4", "rpi5", "jetson-orin-nano"} <= set(target_names([TARGETS]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_in_targets_is_valid_and_names_its_source(path: Path) -> None:
    assert path.suffix == ".toml"
    target = load_target(path.stem, [TARGETS])
    assert target.name == path.stem
    assert (target.connection == "rpc") == (target.kind == "edge")
    comments = re.findall(r"^#.*", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert any("Source:" in line for line in comments), "datasheet figures need their source in a comment"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_tvm_accepts_every_target(path: Path) -> None:
    tvm = pytest.importorskip("tvm")
    description = {k: v for k, v in load_target(path.stem, [TARGETS]).tvm.items() if v != "native"}
    assert tvm.target.Target(description).kind.name == description["kind"]


def test_all_problems_are_reported_together() -> None:
    text = CPU.replace('kind = "cpu"', "kind = 3").replace("num_threads = 1", 'threads = "two"')
    with pytest.raises(InvalidValueError) as caught:
        parse_target("mine", text, "mine.toml")
    message = str(caught.value)
    assert message.startswith("mine.toml: ")
    for part in ("missing field 'num_threads'", "unknown field 'threads'", "kind must be str, got 3"):
        assert part in message


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('kind = "cpu"', 'kind = "tpu"', "kind must be one of"),
        ('connection = "local"', 'connection = "usb"', "connection must be one of"),
        ("num_threads = 1", "num_threads = 0", "num_threads must be positive"),
        ("num_threads = 1", "num_threads = true", "num_threads must be int, got True"),
        ('"int8"]', '"int7"]', "precision must be one of"),
        ('runtimes = ["onnxruntime", "tvm"]', "runtimes = []", "at least one runtime"),
        ('kind = "llvm"', "", r"needs a \[tvm\] table"),
        ("num_threads = 1", "num_threads = = 1", "not valid TOML"),
    ],
)
def test_a_wrong_field_is_named(before: str, after: str, message: str) -> None:
    assert before in CPU
    with pytest.raises(InvalidValueError, match=message):
        parse_target("mine", CPU.replace(before, after), "mine.toml")


def test_precisions_are_asked_of_the_target() -> None:
    cpu, gpu = (load_target(name, [TARGETS]) for name in ("cpu", "gpu"))
    assert (cpu.is_cuda, gpu.is_cuda, load_target("jetson-orin-nano", [TARGETS]).is_cuda) == (False, True, True)
    gpu.require_precision("bf16")
    with pytest.raises(InvalidValueError, match="target 'cpu' computes in fp32, int8, not in 'fp16'"):
        cpu.require_precision("fp16")


def test_an_unknown_name_lists_the_nearest_first_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(UnknownTargetError, match="unknown target 'rpi3'; known: rpi[245]") as caught:
        load_target("rpi3", [tmp_path, TARGETS])
    assert str(tmp_path / "rpi3.toml") in str(caught.value)


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(CPU)
    folder = tmp_path / "targets"
    folder.mkdir()
    with pytest.raises(UnknownTargetError):
        load_target("../mine", [folder])


def test_the_first_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "cpu.toml").write_text(CPU.replace("num_threads = 1", "num_threads = 2"))
    assert load_target("cpu", [tmp_path, TARGETS]).num_threads == 2
    assert load_target("cpu", [TARGETS, tmp_path]).num_threads == 1

from __future__ import annotations

import inspect
import re
import resource
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import typer

import hwautoml
from hwautoml import pipeline
from hwautoml.cli import app
from hwautoml.core.duration import parse_duration
from hwautoml.errors import HwAutoMLError, StorageError
from tests.compilers.graphs import GraphBuilder
from tests.invoking import invoke

VERBS = tuple(pipeline.__all__)
#: What is typed for verbs whose name would not tell what they inspect, or merge; the others are typed as they are.
GROUPED = {
    "compare_tables": "tables compare",
    "estimate_table": "tables estimate",
    "export_networks": "tables export",
    "import_table": "tables import",
    "inspect_records": "records inspect",
    "inspect_table": "tables inspect",
    "merge_records": "records merge",
    "merge_tables": "tables merge",
    "starting_points": "starts",
}
GROUPS = ("records", "tables")
# Flags whose name or type differs from the verb's argument: what a person types, and what a program does.
RENAMED = {"budget": "budget_sec", "tune": "tune_sec"}
CLI_ONLY, PYTHON_ONLY = {"json"}, {"on_progress", "on_listening"}
POSITIONAL = {
    "run": ["source"],
    "check": ["source"],
    "compile": ["model"],
    "bench": ["artifacts"],
    "report": ["run"],
    "verify": ["bundle"],
    "records merge": ["files"],
    "tables compare": ["first", "second"],
    "tables export": ["folder"],
    "tables import": ["csv"],
    "tables inspect": ["table"],
    "tables merge": ["first", "second"],
    "targets show": ["name"],
    "targets new": ["name"],
}


@cache
def commands() -> dict[str, Any]:
    """Every command that does something, by what is typed."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        found[name] = command
        found |= {f"{name} {inner}": sub for inner, sub in getattr(command, "commands", {}).items()}
    return found


def verb_of(name: str) -> str:
    """Of what is typed."""
    verbs = {command: verb for verb, command in GROUPED.items()}
    return verbs.get(name, name.split()[0])


def arguments(verb: str) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(getattr(pipeline, verb)).parameters
    return {name: p for name, p in signature.items() if name not in PYTHON_ONLY}


def flags(name: str) -> dict[str, Any]:
    """By the name of the verb's argument; ``name`` is a verb's, or what is typed."""
    parameters = commands()[GROUPED.get(name, name)].params
    return {RENAMED.get(p.name or "", p.name or ""): p for p in parameters if p.name not in CLI_ONLY | {"help"}}


def test_every_verb_is_a_command_and_every_command_a_verb() -> None:
    assert {verb_of(name) for name in commands() if name not in GROUPS} == set(VERBS)
    assert set(VERBS) == set(hwautoml.__all__) - {"__version__"}


def test_no_verb_has_the_name_of_a_room() -> None:
    """Importing the room would replace the verb in the package."""
    rooms = {path.name.removesuffix(".py") for path in Path(hwautoml.__file__).parent.iterdir()}
    assert not rooms & set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_flags_are_the_verbs_arguments(verb: str) -> None:
    given = flags(verb)
    if verb == "targets":  # the rest is given as: targets show NAME, targets new NAME --like OTHER
        assert set(flags("targets show")) - {"targets_dir"} == {"name"}
        assert set(flags("targets new")) - {"targets_dir"} == {"name", "like"}
        given = {**given, **flags("targets new")}
    assert set(given) == set(arguments(verb))


@pytest.mark.parametrize("name", sorted(commands()))
def test_flags_are_spelled_like_their_arguments(name: str) -> None:
    for argument, flag in flags(name).items():
        if argument in POSITIONAL.get(name, []):
            assert flag.param_type_name == "argument", argument
            continue
        typed = {long: short for short, long in RENAMED.items()}.get(argument, argument)
        assert f"--{typed.replace('_', '-')}" in flag.opts, argument
        assert getattr(flag, "help", None), f"{name} --{typed} has no help"


@pytest.mark.parametrize("verb", VERBS)
def test_defaults_are_the_verbs(verb: str) -> None:
    """``run``'s None stands for what the stored settings or the data say."""
    translate = {name: partial(parse_duration, may_be_zero=True) for name in RENAMED.values()}
    for name, parameter in arguments(verb).items():
        if parameter.default is inspect.Parameter.empty or (verb, name) in (("targets", "name"), ("targets", "like")):
            continue
        default = flags(verb)[name].default
        if name == "channels" and default is not None:
            default = {"rgb": 3, "grey": 1}[default]
        elif default is not None:
            default = translate.get(name, lambda value: value)(default)
        assert default == parameter.default, f"--{name}"


TABLE_FLAGS = (
    "--target gpu --space fbnet --image-size 48 --channels grey --runtime tvm --threads 3 --batch 4 --precision int8 "
    "--like rpi4,x.json --targets-dir t --profiles-dir p"
)
TABLE_OPTIONS = {
    "target": "gpu",
    "space": "fbnet",
    "image_size": 48,
    "channels": 1,
    "runtime": "tvm",
    "threads": 3,
    "batch": 4,
    "precision": "int8",
    "like": ["rpi4", "x.json"],
    "targets_dir": Path("t"),
    "profiles_dir": Path("p"),
}


class Recorded(HwAutoMLError):
    """Ends a command once its verb was called."""


def called_with(monkeypatch: pytest.MonkeyPatch, verb: str, *words: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    signature = inspect.signature(getattr(pipeline, verb))

    def record(*args: Any, **options: Any) -> None:
        seen.update(signature.bind(*args, **options).arguments)
        raise Recorded("stop")

    monkeypatch.setattr(pipeline, verb, record)
    result = invoke(*words)
    assert result.exit_code == 1 and "stop" in result.stderr, result.output
    return {name: value for name, value in seen.items() if name not in PYTHON_ONLY}


@pytest.mark.parametrize(
    ("verb", "words", "expected"),
    [
        (
            "run",
            "photos --target gpu --latency-ms 0.5 --objective macs --limit parameters<=9 --out x "
            "--budget 20m --image-size 48 --channels grey --fit pad --label-pattern {label}/* --group patient "
            "--path-column p --label-column l --runtime tvm "
            "--precision int8 --searcher random --task regression --space micro --start scratch --seed 7 --resume "
            "--overwrite --targets-dir t --profiles-dir p --device b:1 --tracker t:2 --key k",
            {
                "device": "b:1",
                "tracker": "t:2",
                "key": "k",
                "source": "photos",
                "target": "gpu",
                "latency_ms": 0.5,
                "objective": ["macs"],
                "limit": ["parameters<=9"],
                "out": Path("x"),
                "budget_sec": 1200.0,
                "image_size": 48,
                "channels": 1,
                "fit": "pad",
                "label_pattern": "{label}/*",
                "group": "patient",
                "path_column": "p",
                "label_column": "l",
                "runtime": "tvm",
                "precision": "int8",
                "searcher": "random",
                "task": "regression",
                "space": "micro",
                "start": "scratch",
                "seed": 7,
                "resume": True,
                "overwrite": True,
                "targets_dir": Path("t"),
                "profiles_dir": Path("p"),
            },
        ),
        (
            "profile",
            "--target gpu --space fbnet --image-size 48 --channels grey --runtime tvm --threads 3 --batch 4 "
            "--precision int8 --device b:1 --tracker t:2 --key k --like rpi4,x.json --measurements 5 --out o.json "
            "--budget 90s --seed 7 --targets-dir t --profiles-dir p",
            {
                "target": "gpu",
                "space": "fbnet",
                "image_size": 48,
                "channels": 1,
                "runtime": "tvm",
                "threads": 3,
                "batch": 4,
                "precision": "int8",
                "device": "b:1",
                "tracker": "t:2",
                "key": "k",
                "like": ["rpi4", "x.json"],
                "measurements": 5,
                "out": Path("o.json"),
                "budget_sec": 90.0,
                "seed": 7,
                "targets_dir": Path("t"),
                "profiles_dir": Path("p"),
            },
        ),
        (
            "search",
            "--run r --target gpu --latency-ms 0.5 --objective macs --objective num_kernels --limit parameters<=20000 "
            "--runtime tvm --precision int8 --budget 3s --seed 7 --targets-dir t --profiles-dir p",
            {
                "run": Path("r"),
                "target": "gpu",
                "latency_ms": 0.5,
                "objective": ["macs", "num_kernels"],
                "limit": ["parameters<=20000"],
                "runtime": "tvm",
                "precision": "int8",
                "budget_sec": 3.0,
                "seed": 7,
                "targets_dir": Path("t"),
                "profiles_dir": Path("p"),
            },
        ),
        (
            "export",
            "--run r --arch abc --format onnx --out x.onnx --targets-dir t",
            {"run": Path("r"), "arch": "abc", "format": "onnx", "out": Path("x.onnx"), "targets_dir": Path("t")},
        ),
        (
            "compile",
            "m.onnx --target gpu --runtime onnxruntime --out x --precision fp16 --tune 2m --inputs i.npz --seed 7 "
            "--targets-dir t --profiles-dir p --device b:1 --tracker t:2 --key k",
            {
                "device": "b:1",
                "tracker": "t:2",
                "key": "k",
                "model": Path("m.onnx"),
                "target": "gpu",
                "runtime": "onnxruntime",
                "out": Path("x"),
                "tune_sec": 120.0,
                "inputs": Path("i.npz"),
                "seed": 7,
                "targets_dir": Path("t"),
                "profiles_dir": Path("p"),
                "precision": "fp16",
            },
        ),
        (
            "tune",
            "--target gpu --space fbnet --image-size 48 --channels grey --batch 4 --precision int8 --budget 90s "
            "--records r --device b:1 --tracker t:2 --key k --seed 7 --targets-dir t --profiles-dir p",
            {
                "device": "b:1",
                "tracker": "t:2",
                "key": "k",
                "target": "gpu",
                "space": "fbnet",
                "image_size": 48,
                "channels": 1,
                "batch": 4,
                "precision": "int8",
                "budget_sec": 90.0,
                "records": Path("r"),
                "seed": 7,
                "targets_dir": Path("t"),
                "profiles_dir": Path("p"),
            },
        ),
        (
            "bench",
            "a.onnx b.so --target gpu --runtime tvm,torch --threads 2 --batch 4 --budget 9s --against base.json "
            "--fail-above 3% --csv t.csv --picture p.png --device d --tracker e --key k --seed 7 --targets-dir t "
            "--profiles-dir p",
            {
                "artifacts": [Path("a.onnx"), Path("b.so")],
                "target": "gpu",
                "runtime": "tvm,torch",
                "threads": 2,
                "batch": 4,
                "budget_sec": 9.0,
                "against": Path("base.json"),
                "fail_above": "3%",
                "csv": Path("t.csv"),
                "picture": Path("p.png"),
                "device": "d",
                "tracker": "e",
                "key": "k",
                "seed": 7,
                "targets_dir": Path("t"),
                "profiles_dir": Path("p"),
            },
        ),
        ("inspect_table", "t.json --picture p.png", {"table": Path("t.json"), "picture": Path("p.png")}),
        (
            "compare_tables",
            "a.json b.json --picture p.png",
            {"first": Path("a.json"), "second": Path("b.json"), "picture": Path("p.png")},
        ),
        (
            "merge_tables",
            "a.json b.json --out c.json",
            {"first": Path("a.json"), "second": Path("b.json"), "out": Path("c.json")},
        ),
        ("estimate_table", f"{TABLE_FLAGS} --out o.json", {**TABLE_OPTIONS, "out": Path("o.json")}),
        (
            "export_networks",
            f"d {TABLE_FLAGS} --measurements 5 --seed 7",
            {**TABLE_OPTIONS, "folder": Path("d"), "measurements": 5, "seed": 7},
        ),
        (
            "import_table",
            f"m.csv {TABLE_FLAGS} --out o.json",
            {**TABLE_OPTIONS, "csv": Path("m.csv"), "out": Path("o.json")},
        ),
        (
            "inspect_records",
            "--target gpu --records r --targets-dir t --profiles-dir p",
            {"target": "gpu", "records": Path("r"), "targets_dir": Path("t"), "profiles_dir": Path("p")},
        ),
        (
            "merge_records",
            "a b --target gpu --records r --targets-dir t --profiles-dir p",
            {
                "files": [Path("a"), Path("b")],
                "target": "gpu",
                "records": Path("r"),
                "targets_dir": Path("t"),
                "profiles_dir": Path("p"),
            },
        ),
        ("boards", "--device b:1 --tracker t:2 --key k", {"device": "b:1", "tracker": "t:2", "key": "k"}),
        ("report", "r", {"run": Path("r")}),
        (
            "check",
            "photos --task classification --image-size 48 --channels grey --fit pad --label-pattern {label}/* "
            "--group patient --path-column p --label-column l --seed 7 --page out.html --strict",
            {
                "source": "photos",
                "task": "classification",
                "image_size": 48,
                "channels": 1,
                "fit": "pad",
                "label_pattern": "{label}/*",
                "group": "patient",
                "path_column": "p",
                "label_column": "l",
                "seed": 7,
                "page": Path("out.html"),
                "strict": True,
            },
        ),
        (
            "verify",
            "b --no-latency --tolerance 9% --trusted ab",
            {"bundle": Path("b"), "no_latency": True, "tolerance": "9%", "trusted": "ab"},
        ),
        ("doctor", "", {}),
        ("targets", "--targets-dir t", {"name": None, "like": None, "targets_dir": Path("t")}),
        ("targets", "show rpi4 --targets-dir t", {"name": "rpi4", "like": None, "targets_dir": Path("t")}),
        ("targets", "--targets-dir t show rpi4", {"name": "rpi4", "like": None, "targets_dir": Path("t")}),
        ("targets", "new mine --like rpi4 --targets-dir t", {"name": "mine", "like": "rpi4", "targets_dir": Path("t")}),
    ],
)
def test_every_flag_reaches_the_verb(
    monkeypatch: pytest.MonkeyPatch, verb: str, words: str, expected: dict[str, Any]
) -> None:
    assert set(expected) == set(arguments(verb)), "a new flag belongs in this list"
    typed = GROUPED.get(verb, verb).split()
    assert called_with(monkeypatch, verb, *typed, *words.split()) == expected


@pytest.mark.parametrize("name", ["", *sorted(commands())])
def test_help_shows_an_example(name: str) -> None:
    result = invoke(*name.split(), "--help")
    assert result.exit_code == 0 and result.stderr == ""
    text = " ".join(result.stdout.split())
    assert f"hwautoml {name}".strip() in text.partition("Example: " if name else "Start with: ")[2]


@pytest.mark.parametrize("name", sorted(commands()))
def test_help_shows_every_default_that_is_written_in_words(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Square brackets are markup unless they are escaped, and vanish."""
    monkeypatch.setenv("COLUMNS", "200")
    shown = " ".join(invoke(*name.split(), "--help").stdout.replace("\u2502", " ").split())
    written = [text for p in commands()[name].params for text in re.findall(r"\[default[^\]]*\]", p.help or "")]
    assert all(text in shown for text in written), written


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_example_of_a_command_parses(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    example = (commands()[name].epilog or "").removeprefix("Example: hwautoml ")
    assert example.startswith(name)
    verb = verb_of(" ".join(example.split()[:2])) if name in GROUPS else verb_of(name)
    called_with(monkeypatch, verb, *example.split())


def test_help_leaves_torch_unloaded_and_is_quick() -> None:
    """Next to the help of a program with one flag, since machines differ: in processor time, the best of three."""
    ours = (
        "import sys\n"
        "sys.argv = ['hwautoml', 'run', '--help']\n"
        "from hwautoml.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'tvm', 'onnx', 'onnxruntime', 'nni', 'plotly', 'matplotlib', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    smallest = (
        "import sys, typer\n"
        "sys.argv = ['small', '--help']\n"
        "def main(latency_ms: float = 1.0): 'Does nothing.'\n"
        "typer.run(main)\n"
    )
    seconds: dict[str, list[float]] = {ours: [], smallest: []}
    for code in (ours, smallest) * 3:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        assert "--latency-ms" in done.stdout
        seconds[code].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds[ours]) < 3 * min(seconds[smallest])


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, hwautoml, hwautoml.pipeline; assert not {'torch', 'numpy', 'tvm'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_version_is_printed() -> None:
    result = invoke("--version")
    assert result.exit_code == 0 and result.stdout.strip() == hwautoml.__version__


@pytest.mark.parametrize("words", ["run digits --latency 1", "--nonsense", "traain digits", "run --seed many", "bench"])
def test_a_wrong_flag_ends_with_code_2(words: str) -> None:
    result = invoke(*words.split())
    assert result.exit_code == 2 and result.stdout == ""
    assert "Usage" in result.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("run digits --out {tmp}/r", 2, "fix: --latency-ms 1"),
        ("run digits --latency-ms -1 --out {tmp}/r", 2, "positive number of ms, got -1"),
        ("run digits --latency-ms 1 --budget soon --out {tmp}/r", 2, "'soon' is no duration"),
        ("run digits --latency-ms 1 --budget 3s --out {tmp}/r", 2, "take 30 s or more"),
        ("run digits --latency-ms 1 --channels blue --out {tmp}/r", 2, "--channels must be rgb or grey, got 'blue'"),
        ("run digits --latency-ms 1 --precision int4 --out {tmp}/r", 2, "unknown precision 'int4'; known: int8"),
        ("run digits --latency-ms 1 --searcher tpe --out {tmp}/r", 2, "unknown searcher 'tpe'"),
        (
            "run digits --latency-ms 1 --task classify --out {tmp}/r",
            2,
            "unknown task 'classify'; known: classification",
        ),
        ("run digits --latency-ms 1 --space mobil --out {tmp}/r", 2, "unknown space 'mobil'; known: mobile"),
        (
            "run digits --latency-ms 1 --space fbnet --out {tmp}/r",
            2,
            "'fbnet' has latency tables, but its members share",
        ),
        ("run digits --latency-ms 1 --runtime tensorrt --out {tmp}/r", 2, "tensorrt"),
        ("run digits --latency-ms 1 --target rpi3 --out {tmp}/r", 4, "unknown target 'rpi3'; known: rpi"),
        ("run digits --latency-ms 1 --target rpi4 --out {tmp}/r", 4, "search --run RUN --target rpi4 works"),
        ("run --resume --out {tmp}/r", 10, "nothing to resume"),
        ("run --resume", 2, "nothing to run"),
        ("targets show rpi44", 4, "unknown target 'rpi44'; known: rpi4"),
        ("profile --image-size 7", 2, "image size 7 must be between 8 and 224"),
        ("profile --space nasbench101", 2, "unknown space 'nasbench101'; known: nasbench201"),
        ("profile --runtime tensorrt", 2, "unknown runtime of target cpu 'tensorrt'"),
        ("profile --precision fp16", 2, "computes in fp32, int8, not in 'fp16'"),
        ("profile --runtime torch --precision int8", 2, "precision 'int8' cannot be measured on torch"),
        ("profile --device a:1 --tracker b:2 --key k", 2, "--device a:1 and --tracker b:2 exclude each other"),
        ("profile --target rpi4 --device nowhere", 2, "an address is host:port"),
        ("profile --measurements -1", 2, "measurements: must be at least 1, got -1"),
        ("tables export {tmp}/r --measurements 0", 2, "measurements: must be at least 1, got 0"),
        ("tables inspect {tmp}/none.json", 10, "no latency table"),
        ("tables compare {tmp}/none.json {tmp}/none.json", 10, "fix: hwautoml profile --target T"),
        ("tables merge {tmp}/none.json {tmp}/none.json --out {tmp}/r", 10, "no latency table"),
        ("records inspect --records {tmp}/none.json", 10, "nothing is tuned yet"),
        ("records merge {tmp}/none.json --records {tmp}/r", 10, "none.json does not exist"),
        ("profile --like nosuch --profiles-dir {tmp}/r", 10, "target 'nosuch' has no measured table of mobile"),
        ("tables import {tmp}/m.csv --target rpi4", 10, "networks.json does not exist"),
        ("run digits --latency-ms 1 --target rpi4 --device a:1 --runtime torch --out {tmp}/r", 2, "network run tvm"),
        ("run digits --latency-ms 1 --target rpi4 --device nowhere --out {tmp}/r", 2, "an address is host:port"),
        ("compile {tmp}/none.onnx --target rpi4 --tracker a:1", 8, "none.onnx does not exist"),
        ("tune --target gpu", 2, "what is tuned are our schedules for processors"),
        ("tables estimate --target gpu --precision fp8", 2, "computes in fp32, fp16, bf16, int8, not in 'fp8'"),
        ("compile {tmp}/none.onnx --target gpu --precision fp16", 8, "none.onnx does not exist"),
        ("build --target gpu", 2, "the C++ runner runs on processors"),
        ("build --wheels {tmp} --out {tmp}/x", 11, "no wheel of apache-tvm for"),
        ("build --out {tmp}", 10, "exists already"),
        ("boards", 2, "name one board or one tracker to ask, got neither"),
        ("boards --device nowhere", 2, "an address is host:port"),
        ("agent --host 0.0.0.0", 2, "listening on 0.0.0.0 without a key"),
        ("agent --tracker 127.0.0.1:9190", 2, "a tracker hands boards out by key"),
        ("targets new rpi4 --like rpi5", 2, "target 'rpi4' exists already"),
        ("targets new ../x --like rpi5", 2, "a target's name consists of letters"),
        ("targets new x --like rpi6", 4, "unknown target 'rpi6'; known: rpi"),
        ("profile --target rpi4", 4, "fix: --device host:port or --tracker host:port --key rpi4"),
        ("search --run {tmp}/r", 10, "holds no run"),
        ("export --run {tmp}/r", 10, "holds no run"),
        ("export --run {tmp}/r --format tflite", 2, "unknown format 'tflite'; known: onnx"),
        ("report {tmp}/r", 10, "holds no run"),
        ("compile {tmp}/none.onnx", 8, "none.onnx does not exist"),
        ("bench {tmp}/none.onnx", 2, "none.onnx does not exist"),
        ("bench {tmp}", 10, "is no bundle"),
        ("verify {tmp}", 10, "is no bundle"),
        ("verify {tmp} --tolerance lots", 2, "must be a share such as 5% or 0.05, got 'lots'"),
        ("bench {tmp}/none.onnx --runtime tmv", 2, "unknown runtime 'tmv'; known: tvm"),
        ("bench {tmp}/none.onnx --fail-above much", 2, "must be a share such as 5% or 0.05, got 'much'"),
        ("bench {tmp}/none.onnx --against {tmp}/none.json", 10, "none.json does not exist"),
    ],
)
def test_errors_have_their_code_and_stdout_stays_empty(tmp_path: Path, words: str, code: int, message: str) -> None:
    result = invoke(*words.format(tmp=tmp_path).split(), "--json")
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    text = " ".join(result.stderr.split())
    assert text.startswith("error: ") or " error: " in text
    assert message in text
    assert not (tmp_path / "r").exists(), "a refused run leaves no folder behind"


@pytest.mark.parametrize(
    "words",
    [
        "run digits --latency-ms 1 --out {tmp}/r --budget",
        "search --run {tmp}/r --budget",
        "profile --budget",
        "tune --budget",
        "bench {tmp}/none.onnx --budget",
        "compile {tmp}/none.onnx --tune",
    ],
)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0s", "must be longer than 0 s, got 0 s"),
        ("-3s", "'-3s' is no duration"),
        ("", "'' is no duration"),
        ("soon", "'soon' is no duration"),
        ("99999999h", "must be at most a year"),
    ],
)
def test_what_is_no_time_is_refused_with_the_fix(tmp_path: Path, words: str, text: str, message: str) -> None:
    given = words.format(tmp=tmp_path).split()
    result = invoke(*given, text)
    shown = " ".join(result.stderr.split())
    if (given[0], text) == ("compile", "0s"):  # no tuning, which is the default
        assert result.exit_code == 8 and "none.onnx does not exist" in shown
        return
    assert result.exit_code == 2 and result.stdout == ""
    assert f"error: {given[-1]}: {message}" in shown and f"fix: {given[-1]} 90s" in shown
    assert not (tmp_path / "r").exists()


def test_an_error_goes_to_the_real_stderr(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hwautoml.cli", "targets", "show", "rpi44"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 4 and done.stdout == ""
    assert done.stderr.startswith("error: unknown target 'rpi44'") and "Traceback" not in done.stderr


@pytest.mark.parametrize("out", ["file/x", "a" * 300])
def test_a_place_that_cannot_be_written_is_one_error(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    graph = GraphBuilder((1, 3, 8, 8))
    model = graph.save(tmp_path / "net.onnx", graph.head("images", 3, 4), rank=2)
    for words in (["compile", model, "--out"], ["bench", model, "--csv"]):
        found = invoke(*words, tmp_path / out)
        assert found.exit_code == StorageError.exit_code, found.output
        assert f"cannot write {tmp_path / out}" in found.stderr.replace("\n", "")


def test_a_picture_of_another_kind_is_refused_before_measuring(tmp_path: Path) -> None:
    graph = GraphBuilder((1, 3, 8, 8))
    model = graph.save(tmp_path / "net.onnx", graph.head("images", 3, 4), rank=2)
    found = invoke("bench", model, "--picture", tmp_path / "bench.jpg")
    assert found.exit_code == 2 and "must be a .png file" in found.stderr

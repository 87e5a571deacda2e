"""The layering rule of ``docs/architecture.md``, checked on the syntax tree of every file.

A room imports ``core`` and ``errors``, never another room; only ``pipeline`` wires rooms
together, only ``cli`` prints. Imports are absolute, so that this test sees them all,
those inside functions and under ``TYPE_CHECKING`` included.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "hwautoml"
ROOMS = (
    "bundles",
    "cli",
    "compilers",
    "core",
    "datasets",
    "devices",
    "errors",
    "exporters",
    "objectives",
    "pipeline",
    "profilers",
    "reports",
    "schedules",
    "searchers",
    "spaces",
    "starts",
    "store",
    "supernets",
    "tasks",
    "testing",
)
EVERYWHERE = frozenset({"core", "errors"})

# Every entry needs a reason. Entries make no cycle (test_no_cycles).
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("devices", "compilers"): "the child process that measures a model opens it through its runtime's backend",
    ("compilers", "schedules"): "the TVM backend applies our schedule family, which is a room because of its size",
    ("datasets", "tasks"): "what a label is, the task says: load_dataset takes its name and makes it of the labels",
}
# Floors of the room ``pipeline``, the highest first: a file imports from its own floor and from lower ones.
FLOORS = (("verbs",), ("stages",), ("tables", "runs"), ("connecting",))
# Programs and wire protocols, whose standard output is their interface.
MAY_PRINT = ("cli/", "bundles/runner/run.py", "bundles/runner/serve.py")
# Copied into bundles, where hwautoml is not installed.
STAND_ALONE = ("bundles/runner/run.py", "bundles/runner/serve.py")


@dataclass(frozen=True)
class Import:
    line: int
    module: str  # dotted, as far as the statement tells
    level: int = 0  # number of leading dots
    at_import_time: bool = True

    @property
    def room(self) -> str | None:
        """None for other packages; ``pipeline`` for the verbs that ``hwautoml`` itself offers."""
        parts = self.module.split(".")
        if parts[0] != "hwautoml":
            return None
        if len(parts) == 1 or parts[1].startswith("__"):
            return "hwautoml"
        return parts[1] if parts[1] in ROOMS else "pipeline"


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path, root: Path = PACKAGE) -> str:
    return path.relative_to(root).as_posix()


def room_of(name: str) -> str:
    return "hwautoml" if name == "__init__.py" else name.split("/")[0].removesuffix(".py")


@cache
def imports_of(source: str) -> tuple[Import, ...]:
    return tuple(_imports_of(ast.parse(source)))


def _imports_of(tree: ast.AST, at_import_time: bool = True) -> Iterator[Import]:
    """Statements and ``import_module("...")`` calls, nested ones included."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, at_import_time=at_import_time)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(node.lineno, f"{node.module or ''}.{alias.name}", node.level, at_import_time)
        elif isinstance(node, ast.Call) and _called(node) == "import_module" and node.args:
            # A computed name counts as far as its constant beginning goes.
            text = ast.unparse(node.args[0]).removeprefix("f").strip("'\"").split("{")[0].rstrip(".")
            yield Import(node.lineno, text, at_import_time=False)
        runs_later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_type_checking(node)
        yield from _imports_of(node, at_import_time and not runs_later)


def _called(call: ast.Call) -> str:
    """The last part of what is called by name."""
    function = call.func
    return getattr(function, "attr", "") or getattr(function, "id", "")


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def allowed_rooms(room: str) -> set[str]:
    if room in ("pipeline", "testing"):  # suites for authors test parts of every room
        return {*ROOMS, "hwautoml"} - {"cli"}
    allowed = {*EVERYWHERE, room, "hwautoml", *(to for start, to in EXCEPTIONS if start == room)}
    return allowed | {"pipeline"} if room in ("cli", "hwautoml") else allowed


def violations(name: str, source: str) -> list[str]:
    """One line per forbidden import: file, offender, what is allowed."""
    room, allowed = room_of(name), allowed_rooms(room_of(name))
    problems = []
    for item in imports_of(source):
        where = f"hwautoml/{name}:{item.line}"
        if item.level:
            problems.append(f"{where}: relative import {'.' * item.level}{item.module}; write it absolutely")
        elif name in STAND_ALONE and item.room is not None:
            problems.append(f"{where}: imports {item.module}, but is copied to where hwautoml is not installed")
        elif item.room is not None and item.room not in allowed:
            problems.append(f"{where}: room {room!r} imports {item.module}; allowed: {', '.join(sorted(allowed))}")
    return problems


def prints(name: str, source: str) -> list[str]:
    if name.startswith(MAY_PRINT):
        return []
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        f"hwautoml/{name}:{call.lineno}: print(); log or return instead, only cli prints"
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_a_room_imports_core_and_errors_only(path: Path) -> None:
    problems = violations(name_of(path), path.read_text(encoding="utf-8"))
    assert not problems, "\n" + "\n".join(problems)


# What is to be known of a runtime its traits say (compilers/base.py). Bundles have a runner and a format of their own.
RUNTIMES = {"onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt", "torch-inductor", "tvm"}
MAY_NAME_RUNTIMES = {
    "cli/deploying.py": "what compile's --runtime is where it is not given",
    "core/target.py": "a target's file has a table [tvm]",
    "pipeline/stages/results.py": "keys of result.json",
    "pipeline/verbs/compiling.py": "the verb's default",
    "pipeline/verbs/inspecting.py": "doctor looks at TVM's code generators",
    "pipeline/verbs/runner_building.py": "the C++ runner is TVM's",
    "pipeline/verbs/tuning.py": "what is tuned are our schedules for TVM",
}


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_runtimes_are_asked_not_named(path: Path) -> None:
    name = name_of(path)
    constants = (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant))
    named = {constant.value for constant in constants if isinstance(constant.value, str)} & RUNTIMES
    if not name.startswith(("compilers/", "bundles/")) and name not in MAY_NAME_RUNTIMES:
        assert not named, f"hwautoml/{name} names {', '.join(named)}: ask compilers.traits_of(...) instead"


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_only_cli_prints(path: Path) -> None:
    problems = prints(name_of(path), path.read_text(encoding="utf-8"))
    assert not problems, "\n" + "\n".join(problems)


def test_only_testing_imports_pytest() -> None:
    importing = {
        name_of(path)
        for path in source_files()
        if any(item.module.split(".")[0] == "pytest" for item in imports_of(path.read_text(encoding="utf-8")))
    }
    assert importing == {"testing/_pytest.py"}, "no dependency of the package; hwautoml.testing says how to get it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").rglob("*.py")), ids=name_of)
def test_core_knows_no_flags_of_commands(path: Path) -> None:
    """Errors that name a command line are made where commands are known."""
    flags = flags_in(path.read_text(encoding="utf-8"))
    assert not flags, f"{name_of(path)} says {flags}"


def flags_in(source: str) -> list[str]:
    """In string literals, those that document apart."""
    tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if isinstance(node, documented) and _is_text(node)}
    texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings]
    return [flag for text in texts if isinstance(text, str) for flag in re.findall(r"--[a-z][a-z-]*", text)]


def _is_text(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> bool:
    return bool(node.body) and isinstance(node.body[0], ast.Expr)


def test_the_check_finds_flags() -> None:
    assert sorted(flags_in('"""Takes --this."""\nx = f"run --that {y}", "--target"\n"a -- b"')) == [
        "--target",
        "--that",
    ]


def test_every_file_is_in_a_known_room() -> None:
    unknown = [name_of(p) for p in source_files() if room_of(name_of(p)) not in (*ROOMS, "hwautoml")]
    assert not unknown, f"no room for {unknown}; rooms: {', '.join(ROOMS)}"


def test_no_cycles_between_rooms() -> None:
    graph: dict[str, set[str]] = {}
    for path in source_files():
        room = room_of(name_of(path))
        if room != "hwautoml":  # the package itself offers pipeline's verbs lazily
            found = {item.room for item in imports_of(path.read_text(encoding="utf-8"))}
            graph.setdefault(room, set()).update({r for r in found if r} - {room, "hwautoml"})
    assert_acyclic(graph)


def test_no_cycles_between_modules_at_import_time() -> None:
    assert_acyclic(module_graph(lambda item: item.at_import_time))


def test_no_cycles_between_modules_with_late_imports_counted() -> None:
    in_cycles = modules_in_cycles(module_graph(lambda item: True))
    assert in_cycles == set(), "import cycles, late imports counted"


def module_graph(counts: Callable[[Import], bool]) -> dict[str, set[str]]:
    """Which modules each module imports, the package itself apart: it offers pipeline's verbs lazily."""
    modules = {module_name(path) for path in source_files()}
    graph: dict[str, set[str]] = {}
    for path in source_files():
        here = module_name(path)
        found = (i.module for i in imports_of(path.read_text(encoding="utf-8")) if counts(i))
        targets = {m if m in modules else m.rpartition(".")[0] for m in found if m.startswith("hwautoml")}
        graph[here] = {m for m in targets if m in modules} - {here, "hwautoml"}
    return graph


def modules_in_cycles(graph: dict[str, set[str]]) -> set[str]:
    """Those that reach themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [*graph[start]]
        while waiting:
            module = waiting.pop()
            if module not in seen:
                seen.add(module)
                waiting += graph.get(module, ())
        return seen

    return {module for module in graph if module in reached(module)}


def test_pipeline_has_floors() -> None:
    climbs = set()
    for path in source_files():
        here = module_name(path)
        for item in imports_of(path.read_text(encoding="utf-8")):
            below, above = floor_of(here), floor_of(item.module)
            if below is not None and above is not None and above < below:
                climbs.add(f"{here} -> {'.'.join(item.module.split('.')[:4])}")
    assert not climbs, "imports from a higher floor of pipeline"


def floor_of(module: str) -> int | None:
    """0 is the highest; None outside of pipeline and for the room itself, which offers the verbs."""
    parts = module.split(".")
    if parts[:2] != ["hwautoml", "pipeline"] or len(parts) < 3:
        return None
    return next((number for number, names in enumerate(FLOORS) if parts[2] in names), None)


def test_the_check_finds_cycles_through_any_number_of_modules() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert modules_in_cycles(graph) == {"a", "b", "c"}


def test_every_part_of_pipeline_has_a_floor() -> None:
    parts = {path.stem for path in (PACKAGE / "pipeline").iterdir() if path.stem not in ("__init__", "__pycache__")}
    assert parts == {name for names in FLOORS for name in names}


def module_name(path: Path) -> str:
    return "hwautoml." + name_of(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def assert_acyclic(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail("import cycle: " + " -> ".join(reversed(error.args[1])))


def test_exceptions_have_reasons_and_known_rooms() -> None:
    for (start, to), reason in EXCEPTIONS.items():
        assert start in ROOMS and to in ROOMS and start != to and len(reason.split()) > 5


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("searchers/a.py", "from hwautoml.store import journal", "'searchers' imports hwautoml.store"),
        ("searchers/a.py", "from hwautoml import store", "'searchers' imports hwautoml.store"),
        ("searchers/a.py", "def f():\n    import hwautoml.store", ":2: room 'searchers'"),
        ("searchers/a.py", "from hwautoml import run", "imports hwautoml.run"),
        ("store/a.py", "from . import b", "relative import"),
        ("devices/a.py", "from hwautoml.schedules import x", "allowed: compilers, core, devices, errors"),
        ("cli/a.py", "import hwautoml.store", "'cli' imports hwautoml.store"),
        ("pipeline/a.py", "import hwautoml.cli", "'pipeline' imports hwautoml.cli"),
        ("store/a.py", "import_module(f'hwautoml.spaces.{name}')", "'store' imports hwautoml.spaces"),
        ("bundles/runner/run.py", "import hwautoml.errors", "not installed"),
    ],
)
def test_the_check_finds(name: str, source: str, message: str) -> None:
    problems = violations(name, source)
    assert len(problems) == 1 and message in problems[0], problems


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("searchers/a.py", "from hwautoml.core.space import Choice\nfrom hwautoml.errors import InvalidValueError"),
        ("searchers/a.py", "from hwautoml import __version__\nimport numpy"),
        ("devices/a.py", "from hwautoml.compilers import backend"),
        ("pipeline/a.py", "from hwautoml.store import journal"),
        ("__init__.py", "def __getattr__(name):\n    from hwautoml import pipeline"),
    ],
)
def test_the_check_allows(name: str, source: str) -> None:
    assert violations(name, source) == []


def test_the_check_finds_prints() -> None:
    assert prints("store/a.py", "def f():\n    print(1)") == [
        "hwautoml/store/a.py:2: print(); log or return instead, only cli prints"
    ]
    assert prints("cli/console.py", "print(1)") == []

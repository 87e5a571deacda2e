from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwautoml.core.latency_file import dumps, load, save
from hwautoml.core.latency_model import Hyperparameters
from hwautoml.core.latency_table import LatencyTable
from hwautoml.core.layer import Layer
from hwautoml.core.observation import Entry, Observation
from hwautoml.core.table_identity import TableIdentity
from hwautoml.errors import RunFolderError

times = st.floats(1e-4, 1e4)
layers = st.builds(
    Layer,
    st.sampled_from(["stem", "mbconv", "head"]),
    st.integers(1, 512),
    st.integers(1, 224),
    st.integers(1, 224),
    st.integers(1, 512),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 6),
    st.integers(1, 2),
)
origins = st.sampled_from(["measured", "inferred", "estimated"])
entries = st.builds(Entry, times, st.floats(0, 1e3), origins, st.sampled_from([0, 0, 20_000]))


@st.composite
def tables(draw: st.DrawFn) -> LatencyTable:
    content = {layer.key: draw(entries) for layer in draw(st.lists(layers, min_size=1, max_size=6, unique=True))}
    counts = st.dictionaries(st.sampled_from(sorted(content)), st.integers(1, 5), min_size=1)
    observations = draw(
        st.lists(
            st.builds(
                Observation,
                st.text("0123456789abcdef", min_size=12, max_size=12),
                counts.map(lambda c: tuple(sorted(c.items()))),
                times,
                st.floats(0, 10),
            ),
            max_size=4,
        )
    )
    return LatencyTable(
        TableIdentity(
            draw(st.sampled_from(["cpu", "rpi4"])), "tvm", draw(st.integers(1, 8)), 1, "fp32", "mobile/v1/32x32x3"
        ),
        dict(sorted(content.items())),
        draw(entries),
        tuple(observations),
        draw(st.none() | st.just(Hyperparameters(entry=0.0123))),
        draw(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5) | st.just([1, 0.5]))),
    )


@given(tables())
@settings(max_examples=40, deadline=None)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, table: LatencyTable) -> None:
    path = tmp_path_factory.mktemp("tables") / "sub" / "t.json"
    save(table, path)
    read = load(path)
    assert dumps(read) == dumps(table) == path.read_text(encoding="utf-8")
    assert replace(read, entries={}, overhead=table.overhead, observations=(), conditions={}) == replace(
        table, entries={}, observations=(), conditions={}
    )
    assert list(read.entries) == list(table.entries)
    for key, entry in read.entries.items():
        assert entry.mean_ms == pytest.approx(table.entries[key].mean_ms, rel=1e-5)
    assert [o.counts for o in read.observations] == [o.counts for o in table.observations]
    assert [p.name for p in path.parent.iterdir()] == ["t.json"]  # no temporary file stays


LAYER = Layer("stem", 3, 32, 32, 16)
TABLE = LatencyTable(
    TableIdentity("cpu", "onnxruntime", 1, 1, "fp32", "mobile/v1/32x32x3"),
    {LAYER.key: Entry(0.5, 0.1)},
    Entry(0.01, 0.001),
    (Observation("0123456789ab", ((LAYER.key, 2),), 1.1),),
    conditions={"runtime_version": "1.20.0"},
)


def test_a_file_says_nothing_of_weights_that_no_layer_has(tmp_path: Path) -> None:
    """So that what was written before weights were a term stays as it is, and is read."""
    table = replace(TABLE, hyperparameters=Hyperparameters(entry=0.02))
    assert "weights" not in dumps(table)
    read = table_of(table, tmp_path)
    assert read.hyperparameters == table.hyperparameters
    reading = replace(table, entries={LAYER.key: Entry(0.5, 0.1, num_weights=432)})
    assert reading == table_of(reading, tmp_path) and dumps(reading).count("weights") == 2


def table_of(table: LatencyTable, folder: Path) -> LatencyTable:
    save(table, folder / "t.json")
    return load(folder / "t.json")


def test_damaged_json_names_line_and_column_and_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    text = dumps(TABLE).replace('"batch": 1,', '"batch": 1 1,')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"line 2, column 13.*\n  fix: move .*t.json away"):
        load(path)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema="latency-table/v9"), "v9.*\n  fix: move .*t.json away"),
        (lambda d: d.pop("target"), "required field `target`"),
        (lambda d: d.pop("entries"), "missing field 'entries'"),
        (lambda d: d.update(num_threads="two"), "Expected `int`, got `str` - at `..num_threads`"),
        (lambda d: d["entries"].update(nonsense=d["overhead"]), "'nonsense' is no layer key"),
        (lambda d: d["entries"][LAYER.key].update(mean_ms=-1), "mean_ms must be positive"),
        (lambda d: d["entries"][LAYER.key].update(mean_ms="1"), "damaged"),
        (lambda d: d["entries"][LAYER.key].update(unit="s"), "unit"),
        (lambda d: d.update(overhead=None), "damaged"),
        (lambda d: d["observations"][0].update(counts={LAYER.key.replace("out16", "out17"): 1}), "no entry for layer"),
        (lambda d: d.update(hyperparameters={"entry": -1}), "hyper-parameter entry"),
    ],
)
def test_wrong_content_is_refused(tmp_path: Path, change: Callable[[dict[str, object]], object], message: str) -> None:
    data = json.loads(dumps(TABLE))
    change(data)
    path = tmp_path / "t.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(RunFolderError, match=message):
        load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b'{"schema": NaN}', b"null"])
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.json"
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"t\.json"):
        load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="hwautoml profile"):
        load(tmp_path / "t.json")


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    save(TABLE, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save(replace(TABLE, conditions={"noise_floor_relative": float("nan")}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from hwautoml.core.space import Architecture
from hwautoml.errors import InvalidValueError
from hwautoml.exporters import export_probe
from hwautoml.spaces.nasbench201 import NasBench201Space, to_string
from hwautoml.spaces.nasbench201_layers import EDGES, OPERATIONS, live_edges

SPACE = NasBench201Space()
EVERY_CELL = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))))
PATHS = [nodes for n in (0, 1, 2) for middle in itertools.combinations((1, 2), n) for nodes in [(0, *middle, 3)]]


def cell(*operations: str) -> Architecture:
    """By initials: none, skip, pool, 1, 3."""
    names = {"n": "none", "s": "skip_connect", "p": "avg_pool_3x3", "1": "nor_conv_1x1", "3": "nor_conv_3x3"}
    return SPACE.architecture({c.name: names[o] for c, o in zip(SPACE.choices, "".join(operations), strict=True)})


def num_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def by_paths(is_present: tuple[bool, ...]) -> list[bool]:
    live: set[tuple[int, int]] = set()
    present = {edge for edge, there in zip(EDGES, is_present, strict=True) if there}
    for nodes in PATHS:
        path = set(itertools.pairwise(nodes))
        live |= path if path <= present else set()
    return [edge in live for edge in EDGES]


def test_all_15625_cells_have_the_live_edges_that_paths_give() -> None:
    assert len(EVERY_CELL) == SPACE.size == 15625 and len(PATHS) == 4
    patterns = {tuple(pattern): by_paths(pattern) for pattern in itertools.product((False, True), repeat=6)}
    is_present = np.not_equal(EVERY_CELL, OPERATIONS.index("none"))
    for present, live in zip(is_present, live_edges(is_present), strict=True):
        assert list(live) == patterns[tuple(present)]


def test_all_cells_are_different_architectures() -> None:
    assert len({SPACE.decode(row).id for row in EVERY_CELL[::7]}) == len(EVERY_CELL[::7])
    assert SPACE.encode(cell("nnnnnn")).sum() == 0


def test_edges_say_what_is_on_them() -> None:
    edges = SPACE.edges(cell("3", "n", "1", "s", "n", "p"))
    assert [(e.source, e.target) for e in edges] == list(EDGES)
    assert [e.operation for e in edges][::5] == ["nor_conv_3x3", "avg_pool_3x3"]
    assert [e.is_live for e in edges] == [True, False, True, True, False, True]
    assert [e.is_live for e in SPACE.edges(cell("3n1snn"))] == [False, False, False, True, False, False]


def test_only_live_edges_are_layers_and_the_rest_is_dead() -> None:
    architecture = cell("3", "n", "1", "s", "n", "n")  # 0->1->2 leads nowhere
    assert Counter(layer.kind for layer in SPACE.layers(architecture)) == {"stem": 1, "reduction": 2, "head": 1}
    dead = Counter((layer.kernel_size, layer.in_channels) for layer in SPACE.dead_layers(architecture))
    assert dead == {(kernel, width): 5 for kernel in (1, 3) for width in (16, 32, 64)}


def test_sums_are_the_live_inputs_beyond_the_first() -> None:
    assert Counter(layer.kind for layer in SPACE.layers(cell("333333"))) == {
        "stem": 1,
        "relu_conv": 6 * 15,
        "add": 3 * 15,
        "reduction": 2,
        "head": 1,
    }
    kinds = Counter(layer.kind for layer in SPACE.layers(cell("sp1npn")))
    assert kinds == {"stem": 1, "avgpool": 15, "reduction": 2, "head": 1}, "0->2 and 1->2 end there"


def test_an_unconnected_cell_gives_zeros() -> None:
    architecture = cell("333nnn")
    assert Counter(layer.kind for layer in SPACE.layers(architecture))["zero"] == 15
    network = SPACE.module(architecture).eval()
    with torch.no_grad():
        logits = network(torch.randn(2, 3, 32, 32))
    assert torch.equal(logits[0], logits[1]), "nothing of the image is left"


def test_layers_and_dead_layers_together_are_all_operations() -> None:
    for options in EVERY_CELL[::97]:
        architecture = SPACE.decode(options)
        both = (*SPACE.layers(architecture), *SPACE.dead_layers(architecture))
        kinds = Counter(layer.kind for layer in both)
        names = [str(value) for _, value in architecture.values]
        assert kinds["avgpool"] == 15 * names.count("avg_pool_3x3")
        assert kinds["relu_conv"] == 15 * sum(name.startswith("nor_conv") for name in names)


def test_dead_layers_by_indices_are_the_dead_layers() -> None:
    everything, encodings = SPACE.all_layers(), EVERY_CELL[::211]
    for options, row in zip(encodings, SPACE.dead_layer_indices(encodings), strict=True):
        found = Counter(everything[i] for i in row if i < len(everything))
        assert found == Counter(SPACE.dead_layers(SPACE.decode(options)))


@pytest.mark.parametrize(
    ("operations", "parameters", "million_macs"),
    [("333333", 1_531_546, 220.12), ("ssssss", 73_306, 7.78), ("nnnnnn", 73_306, 7.78)],
)
def test_size_is_the_published_one(operations: str, parameters: int, million_macs: float) -> None:
    """The benchmark's own figures for its largest and smallest networks on CIFAR-10."""
    architecture = cell(operations)
    assert num_parameters(SPACE.module(architecture)) == parameters
    assert SPACE.total_cost(architecture).macs / 1e6 == pytest.approx(million_macs, abs=0.01)


def test_a_network_with_its_dead_layers_has_the_benchmarks_parameters() -> None:
    architecture = cell("3", "n", "1", "s", "n", "n")
    dead = sum(num_parameters(SPACE.layer_module(layer)) for layer in SPACE.dead_layers(architecture))
    # Per cell a 3x3 and a 1x1 convolution with norms of 16, 32 and 64 channels, on top of the rest.
    expected = 73_306 + 5 * sum(10 * width**2 + 4 * width for width in (16, 32, 64))
    assert num_parameters(SPACE.module(architecture)) + dead == expected


@pytest.mark.parametrize(("operations", "num_cell_convolutions"), [("333nnn", 0), ("31nsn3", 30), ("3n1sn3", 45)])
def test_dead_edges_are_not_exported(operations: str, num_cell_convolutions: int, tmp_path: Path) -> None:
    path = export_probe(SPACE.module(cell(operations)), tmp_path / "network.onnx", (1, 3, 32, 32)).path
    nodes = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert nodes["Conv"] == 1 + 2 * 3 + num_cell_convolutions


def test_cells_are_named_as_in_the_benchmark() -> None:
    text = "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
    architecture = cell("3n1snp")
    assert to_string(architecture) == text
    assert SPACE.from_string(text) == architecture


@pytest.mark.parametrize("text", ["", "|none~0|", "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|none~1|none~1|", "|x~0|"])
def test_what_is_no_cell_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        SPACE.from_string(text)


def test_published_cells_are_all_cells_and_their_strings_agree(published_file: Callable[[str], Path]) -> None:
    from benchmarks.published import load_published

    path = published_file("nasbench201.npz")
    encodings = load_published(path, SPACE).encodings
    assert len(np.unique(encodings, axis=0)) == SPACE.size
    with np.load(path, allow_pickle=False) as file:
        strings = file["arch_str"]
    for row in range(0, len(strings), 50):
        assert SPACE.from_string(str(strings[row])) == SPACE.decode(encodings[row])


def test_published_latencies_include_dead_edges(published_file: Callable[[str], Path]) -> None:
    """They were measured with eager runtimes: counts of dead layers explain what live ones leave over."""
    from benchmarks.published import load_published

    published = load_published(published_file("nasbench201.npz"), SPACE)
    latency = published.latency_ms["1080ti_256"]
    live = SPACE.layer_counts(published.encodings).astype(float)
    dead = np.stack([(SPACE.dead_layer_indices(published.encodings) == i).sum(axis=1) for i in range(live.shape[1])]).T

    def share_explained(counts: np.ndarray) -> float:
        design = np.column_stack([np.ones(len(counts)), counts])
        left = latency - design @ np.linalg.lstsq(design, latency, rcond=None)[0]
        return 1 - left.var() / latency.var()

    assert share_explained(live) < 0.8
    assert share_explained(np.hstack([live, dead])) > 0.98

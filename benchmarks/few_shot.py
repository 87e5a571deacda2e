"""Latency of an unseen device from a few measurements, on devices that others published.

Every sibling is known from ``--sibling-networks`` random networks; the target from ``--samples`` networks, which we
choose (``--selection active``, the default: before anything is measured, from the model's own uncertainty) or
draw at random. All networks that were not measured are predicted (``--subset help``: HELP's evaluation networks, 1,000
without the device's fastest and slowest tenth). Peers get random draws: multiply-accumulates, a plain ridge table, a
ridge on the siblings' latencies and, given a checkout of github.com/HayeonLee/HELP, HELP itself.

Units: mape and median_ape in percent, within_5, within_10 and coverage_95 as shares of 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr
from threadpoolctl import threadpool_limits

from benchmarks.few_shot_peers import predictions
from benchmarks.help_peer import POOL_SIZE, TRAINING_DEVICES, run_help
from benchmarks.published import PublishedLatencies, load_published
from benchmarks.published_terms import PublishedTerms, published_terms
from hwautoml.core import few_shot
from hwautoml.core.active_selection import choose_rows
from hwautoml.core.latency_components import components
from hwautoml.errors import HwAutoMLError
from hwautoml.spaces import load_space

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
CANDIDATES = 1500  # random networks among which the ones to measure are chosen
HELP_SUBSET = 1000
METRICS = ("spearman", "kendall", "mape", "median_ape", "within_5", "within_10", "coverage_95")


class Bench:
    """The space, its siblings, and what was learnt from each set of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        space = load_space(options.space)
        self.options = options
        self.published: PublishedLatencies = load_published(options.data, space)
        check_devices(self.published, [*options.siblings, *options.targets], options.data)
        self.terms: PublishedTerms = published_terms(space, self.published.encodings)
        self.counts = self.terms.counts
        self.components = components(self.terms.layers, self.terms.work, self.counts[:, :-1].mean(axis=0))
        self.work = self.counts[:, :-1] @ self.terms.work.macs
        self._siblings: dict[str, few_shot.Sibling] = {}
        self._priors: dict[tuple[str, ...], few_shot.FewShotPrior] = {}

    def sibling(self, name: str) -> few_shot.Sibling:
        if name not in self._siblings:
            say(f"fitting sibling {name}")
            number = min(self.options.sibling_networks, len(self.counts))
            rows = np.random.default_rng(0).permutation(len(self.counts))[:number]
            counts, latency_ms = self.counts[rows], self.published.latency_ms[name][rows]
            terms_ms = few_shot.fit_terms(self.components, counts, latency_ms)
            self._siblings[name] = few_shot.Sibling(name, family(name), terms_ms, counts, latency_ms)
        return self._siblings[name]

    def siblings_of(self, target: str) -> tuple[str, ...]:
        leave_out = self.options.leave_family_out
        names = (n for n in self.options.siblings if n != target and not (leave_out and family(n) == family(target)))
        return tuple(names)

    def prior(self, names: tuple[str, ...]) -> few_shot.FewShotPrior:
        if names not in self._priors:
            siblings = [self.sibling(name) for name in names]
            say(f"learning from {len(names)} siblings")
            self._priors[names] = few_shot.learn(self.components, siblings)
        return self._priors[names]

    def measured(self, prior: few_shot.FewShotPrior, number: int, seed: int) -> Indices:
        rng = np.random.default_rng(seed)
        if self.options.selection == "random":
            return self.drawn(number, seed)
        rows = rng.permutation(len(self.counts))[:CANDIDATES]
        unknown = few_shot.posterior(prior, self.counts[:0], np.zeros(0))
        return rows[list(choose_rows(unknown, self.counts[rows], number))]

    def drawn(self, number: int, seed: int) -> Indices:
        return np.random.default_rng(seed).permutation(len(self.counts))[:number]

    def evaluated(self, latency_ms: Array, measured: Indices) -> Indices:
        rows = np.arange(len(latency_ms))
        if self.options.subset == "help":
            start = POOL_SIZE[self.options.space]
            rows = rows[start : start + HELP_SUBSET]
            cut = len(rows) // 10
            rows = rows[np.argsort(latency_ms[rows], kind="stable")][cut:-cut]
        return np.setdiff1d(rows, measured)

    def rows(self) -> Iterator[dict[str, Any]]:
        for target in self.options.targets:
            for seed in range(self.options.seeds):
                for samples in self.options.samples:
                    yield from self.rows_of(target, samples, seed)
            yield from self.help_rows(target)

    def rows_of(self, target: str, samples: int, seed: int) -> Iterator[dict[str, Any]]:
        latency_ms, names = self.published.latency_ms[target], self.siblings_of(target)
        prior = self.prior(names)
        chosen = self.measured(prior, samples, seed)
        found = few_shot.posterior(prior, self.counts[chosen], latency_ms[chosen])
        mean, std = found.predict(self.counts)
        row = {"method": "hwautoml", "selection": self.options.selection}
        yield row | self.scored(target, samples, seed, chosen, mean, std)
        drawn = self.drawn(samples, seed)
        features = {
            "ridge table": self.counts[:, :-1],
            "sibling ridge": self.counts @ np.stack([self.sibling(name).terms_ms for name in names], axis=1),
        }
        for method, predicted in predictions(features, self.work, drawn, latency_ms[drawn]).items():
            row = {"method": method, "selection": "random"}
            yield row | self.scored(target, samples, seed, drawn, predicted)

    def help_rows(self, target: str) -> Iterator[dict[str, Any]]:
        """HELP's ten references are measurements too: with 10 samples it has 20."""
        options = self.options
        if options.help_repo is None or options.space not in POOL_SIZE or target in TRAINING_DEVICES[options.space]:
            return
        say(f"HELP on {target}")
        seeds = range(options.seeds)
        answers = run_help(options.help_repo, options.data.parent, options.space, target, 10, tuple(seeds))
        for seed, answer in zip(seeds, answers, strict=True):
            row = {"method": "HELP", "selection": "its own"}
            yield row | self.scored(target, 20, seed, answer.measured, answer.latency_ms)

    def scored(
        self, target: str, samples: int, seed: int, measured: Indices, mean: Array, std: Array | None = None
    ) -> dict[str, Any]:
        latency_ms = self.published.latency_ms[target]
        rows = self.evaluated(latency_ms, measured)
        where = {"space": self.options.space, "device": target, "samples": samples, "seed": seed}
        return where | metrics(latency_ms[rows], mean[rows], None if std is None else std[rows])


def metrics(actual: Array, predicted: Array, std: Array | None = None) -> dict[str, float | None]:
    """Of predictions (n,) ms with their standard deviations; constant predictions rank nothing: 0."""
    error = np.abs(predicted / actual - 1)
    spearman, kendall = spearmanr(predicted, actual).statistic, kendalltau(predicted, actual).statistic
    return {
        "spearman": float(np.nan_to_num(spearman)),
        "kendall": float(np.nan_to_num(kendall)),
        "mape": float(100 * error.mean()),
        "median_ape": float(100 * np.median(error)),
        "within_5": float((error <= 0.05).mean()),
        "within_10": float((error <= 0.10).mean()),
        "coverage_95": None if std is None else float((np.abs(predicted - actual) <= 1.96 * std).mean()),
    }


def family(device: str) -> str:
    """``1080ti`` of ``1080ti_32``: the batch size, or the model of a maker, comes behind the first underscore."""
    return device.split("_")[0]


def check_devices(published: PublishedLatencies, wanted: Sequence[str], path: Path) -> None:
    unknown = [name for name in wanted if name not in published.latency_ms]
    if unknown:
        sys.exit(f"no latencies of {', '.join(unknown)} in {path}; it has {', '.join(sorted(published.latency_ms))}")


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line per method, samples and device, and one for the mean over devices; means over seeds."""
    lines = [f"{'method':<14}{'samples':>8}  {'device':<16}" + "".join(f"{name:>12}" for name in METRICS)]
    groups = dict.fromkeys((row["method"], row["samples"]) for row in rows)
    for method, samples in sorted(groups, key=lambda group: (group[1], group[0] != "hwautoml", group[0])):
        group = [row for row in rows if (row["method"], row["samples"]) == (method, samples)]
        devices = list(dict.fromkeys(row["device"] for row in group))
        for device in [*devices, "mean"] if len(devices) > 1 else devices:
            means = []
            for name in METRICS:
                values = [row[name] for row in group if device in ("mean", row["device"]) and row[name] is not None]
                means.append(f"{np.mean(values):>12.4g}" if values else f"{'-':>12}")
            lines.append(f"{method:<14}{samples:>8}  {device:<16}" + "".join(means))
    return lines


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.few_shot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names: dict[str, Any] = {
        "type": lambda text: [name for name in text.split(",") if name],
        "required": True,
        "metavar": "A,B,..",
    }
    parser.add_argument("--space", choices=("nasbench201", "fbnet", "ofa-mobilenetv3"), required=True)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="arrays as in docs/spaces.md")
    parser.add_argument("--siblings", help="devices that are known", **names)
    parser.add_argument("--targets", help="devices to predict", **names)
    numbers: dict[str, Any] = {"type": lambda text: [int(each) for each in text.split(",")], "metavar": "N,N,.."}
    parser.add_argument("--samples", default=[0, 10, 20, 50], help="networks measured on the target", **numbers)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--selection", choices=("random", "active"), default="active")
    parser.add_argument("--subset", choices=("all", "help"), default="all", help="which networks are predicted")
    parser.add_argument("--leave-family-out", action="store_true", help="siblings of the target's family are unknown")
    parser.add_argument("--sibling-networks", type=int, default=900, help="networks known of each sibling")
    parser.add_argument("--help-repo", type=Path, metavar="FOLDER", help="checkout of github.com/HayeonLee/HELP")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="also write the JSON here")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parsed(arguments)
    try:
        with threadpool_limits(1):  # the matrices are small: more threads would wait for each other
            rows = list(Bench(options).rows())
    except HwAutoMLError as error:
        sys.exit(f"error: {error}")
    data = json.dumps({"rows": rows})
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(data + "\n", encoding="utf-8")
    print(data if options.json else "\n".join(summary(rows)))


if __name__ == "__main__":
    main()

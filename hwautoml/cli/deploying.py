"""Subcommands for model files: compile and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, summaries
from hwautoml.cli.options import (
    Batch,
    Device,
    Json,
    Key,
    ProfilesDir,
    Seed,
    Target,
    TargetsDir,
    Threads,
    Tracker,
    app,
)
from hwautoml.core.duration import parse_duration


@app.command(epilog="Example: hwautoml compile model.onnx --target cpu --runtime tvm --tune 30s")
def compile(
    model: Annotated[Path, typer.Argument(help="Any ONNX file, or a .pt2 program for torch runtimes.")],
    target: Target = "cpu",
    runtime: Annotated[str, typer.Option(help="tvm, or another of the target's.")] = "tvm",
    out: Annotated[Path | None, typer.Option(help="Folder to write. \\[default: beside the model]")] = None,
    precision: Annotated[
        str, typer.Option(help="fp32: as the file is. fp16, on GPUs: compiled in half precision.")
    ] = "fp32",
    tune: Annotated[str, typer.Option(help="Time for tuning kernels, e.g. 30s, 10m; 0s for none.")] = "0s",
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    inputs: Annotated[
        Path | None, typer.Option(help="An .npz with samples (n, ...) to check parity on, besides random ones.")
    ] = None,
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Compile any ONNX file for a target, checked against ONNX Runtime.

    For another kind of machine, this one needs a cross-compiler (pip install 'hwautoml[edge]', see hwautoml doctor);
    --device (or --tracker) checks the library on the board itself, and --tune times candidates there.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import compile as verb

        result = verb(
            model,
            target=target,
            runtime=runtime,
            out=out,
            precision=precision,
            tune_sec=parse_duration(tune, "--tune", may_be_zero=True),
            device=device,
            tracker=tracker,
            key=key,
            inputs=inputs,
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result.to_json(), summaries.compile_summary)


@app.command(epilog="Example: hwautoml bench runs/photos/bundle other.onnx --runtime onnxruntime,tvm --threads 1")
def bench(
    artifacts: Annotated[
        list[Path],
        typer.Argument(help="ONNX files, files or folders made by compile, .pt2 programs, bundles, run folders."),
    ],
    target: Target = "cpu",
    runtime: Annotated[
        str | None,
        typer.Option(help="Comma-separated, e.g. onnxruntime,tvm; compiled where needed. \\[default: each file's own]"),
    ] = None,
    threads: Threads = None,
    batch: Batch = 1,
    budget: Annotated[str, typer.Option(help="At most this long in rounds of measuring, e.g. 30s, 5m.")] = "60s",
    against: Annotated[Path | None, typer.Option(help="Stored --json output to compare with.")] = None,
    fail_above: Annotated[
        str, typer.Option(help="With --against: end with exit code 12 when slower by more than this.")
    ] = "5%",
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file as well.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw it into this .png file.")] = None,
    device: Device = None,
    tracker: Tracker = None,
    key: Key = None,
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Measure models and runtimes side by side on a target: interleaved, drift-corrected, with intervals.

    Exit code 9: some could not be measured (the others are shown); 12: slower than the baseline.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import bench as verb

        result = verb(
            artifacts,
            target=target,
            runtime=runtime,
            threads=threads,
            batch=batch,
            budget_sec=parse_duration(budget, "--budget"),
            against=against,
            fail_above=fail_above,
            csv=csv,
            picture=picture,
            device=device,
            tracker=tracker,
            key=key,
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result.to_json(), summaries.bench_summary)
        from hwautoml.pipeline.verbs.baseline import require_no_regression
        from hwautoml.pipeline.verbs.benching import require_all_measured

        require_all_measured(result)
        require_no_regression(result)


@app.command(epilog="Example: hwautoml build --target rpi4 --wheels wheels/ --out runner-rpi4")
def build(
    target: Target = "cpu",
    wheels: Annotated[
        Path | None, typer.Option(help="Folder with TVM's wheels for the target. \\[default: what is installed here]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write. \\[default: runner-TARGET]")] = None,
    targets_dir: TargetsDir = None,
    json: Json = False,
) -> None:
    """Build the C++ runner for a target: runs any bundle for it, without Python.

    For another architecture it needs a cross-compiler and TVM's wheels for it; without them, the error says how
    to get them.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import build as verb

        result = verb(target, wheels=wheels, out=out, targets_dir=targets_dir, on_progress=show.progress)
        show.result(result, summaries.build_summary)


@app.command(epilog="Example: hwautoml verify runs/photos/bundle --tolerance 25%")
def verify(
    bundle: Annotated[Path, typer.Argument(help="A bundle, or the run folder that holds it.")],
    no_latency: Annotated[bool, typer.Option("--no-latency", help="Check hashes and samples only.")] = False,
    tolerance: Annotated[str, typer.Option(help="How much slower than promised it may be.")] = "25%",
    trusted: Annotated[str | None, typer.Option(metavar="SHA256", help="Of manifest.json, as its maker told.")] = None,
    json: Json = False,
) -> None:
    """Check a bundle: hashes, class names, packed samples on every runtime, latency against its promise.

    Runs the bundle's native code, once the hashes that it brings along are right: give --trusted for a bundle
    that may come from a stranger. Exit code 7: samples or class names differ; 10: a file is missing, changed or
    unknown; 12: slower than promised.
    """
    with console.session(json) as show:
        from hwautoml.pipeline import verify as verb

        result = verb(bundle, no_latency=no_latency, tolerance=tolerance, trusted=trusted, on_progress=show.progress)
        show.result(result, summaries.verify_summary)
        from hwautoml.pipeline.verbs.verifying import require_verified

        require_verified(result)

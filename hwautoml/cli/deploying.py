"""Subcommands for model files: compile and measure them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli import console, summaries
from hwautoml.cli.options import Json, ProfilesDir, Seed, Target, TargetsDir, app, seconds


@app.command(epilog="Example: hwautoml compile model.onnx --target cpu --runtime tvm --tune 30s")
def compile(
    model: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    target: Target = "cpu",
    runtime: Annotated[str, typer.Option(help="tvm or onnxruntime.")] = "tvm",
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: beside the model]")] = None,
    tune: Annotated[str | None, typer.Option(help="Time for tuning kernels, e.g. 30s, 10m. [default: none]")] = None,
    inputs: Annotated[
        Path | None, typer.Option(help="An .npz with samples (n, ...) to check parity on, besides random ones.")
    ] = None,
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Compile any ONNX file for a target, checked against ONNX Runtime."""
    with console.session(json) as show:
        from hwautoml.pipeline import compile as verb

        result = verb(
            model,
            target=target,
            runtime=runtime,
            out=out,
            tune_sec=seconds(tune) or 0.0,
            inputs=inputs,
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, summaries.compile_summary)


@app.command(epilog="Example: hwautoml bench runs/photos/bundle other.onnx --target cpu --threads 1")
def bench(
    artifacts: Annotated[list[Path], typer.Argument(help="ONNX files, .so files made by compile, bundle folders.")],
    target: Target = "cpu",
    threads: Annotated[int | None, typer.Option(help="[default: the target's]")] = None,
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    json: Json = False,
) -> None:
    """Measure models side by side on a target: interleaved, drift-corrected, with intervals."""
    with console.session(json) as show:
        from hwautoml.pipeline import bench as verb

        result = verb(
            artifacts, target=target, threads=threads, seed=seed, targets_dir=targets_dir, on_progress=show.progress
        )
        show.result(result, summaries.bench_summary)

"""The command line: one subcommand per verb of ``pipeline``, whose flags are the verb's arguments.

Results go to stdout (with ``--json`` one object and nothing else), everything else to stderr.
Nothing heavy is imported before a verb runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from hwautoml import console
from hwautoml.core.duration import parse_duration

app = typer.Typer(
    name="hwautoml",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The best neural network for exactly your device, trained, exported, compiled and measured.\n\n"
    "Start with: [bold]hwautoml run digits --target cpu --latency-ms 0.3[/bold]",
    epilog="Exit codes: 0 done, 2 wrong argument, 3 unusable images, 4 target, 5 infeasible limit, 6 limit not met, "
    "7 parity, 8 compilation, 9 measurement, 10 run folder, 11 missing package, 130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
targets_app = typer.Typer(no_args_is_help=False, invoke_without_command=True)
app.add_typer(
    targets_app,
    name="targets",
    help="Known targets, what each needs, and which work from this machine.",
    epilog="Example: hwautoml targets --json",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same choices.")]
Runtime = Annotated[str, typer.Option(help="auto, onnxruntime or tvm.")]
TargetsDir = Annotated[Path | None, typer.Option(help="Folder with your own NAME.toml targets.")]
ProfilesDir = Annotated[Path | None, typer.Option(help="Folder for latency tables and tuning records.")]
Target = Annotated[str, typer.Option(help="Name of a target; see: hwautoml targets.")]


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is going on to stderr.")] = False,
) -> None:
    console.set_up_logging(verbose)
    if version:
        from hwautoml import __version__

        console.print_line(__version__)
        raise typer.Exit


@app.command(epilog="Example: hwautoml run photos/ --target cpu --image-size 32 --latency-ms 1 --budget 20m")
def run(
    source: Annotated[
        str | None, typer.Argument(help="digits, a folder of class folders, a .zip of one, or an .npz.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Name of a target; see: hwautoml targets. [default: cpu]")] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Limit for one image on the target, met by measurement.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder. [default: runs/NAME]")] = None,
    budget: Annotated[str | None, typer.Option(help="Wall-clock time for everything, e.g. 90s, 20m, 2h.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that images are brought to, 8 to 224.")] = None,
    channels: Annotated[str | None, typer.Option(help="rgb or grey; needed where the files are mixed.")] = None,
    runtime: Annotated[str | None, typer.Option(help="Runtime of the latency table: auto, onnxruntime or tvm.")] = None,
    searcher: Annotated[str | None, typer.Option(help="surrogate, nsga2 or random. [default: surrogate]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same choices. [default: 0]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the run in --out and start anew.")] = False,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Images and a target in; a trained, exported, compiled, measured, shippable model out."""
    hint = _resume_hint(source, out=out, targets_dir=targets_dir, profiles_dir=profiles_dir)
    with console.session(json, resume_hint=hint) as show:
        from hwautoml.pipeline import run as verb

        result = verb(
            source,
            target=target,
            latency_ms=latency_ms,
            out=out,
            budget_sec=_seconds(budget),
            image_size=image_size,
            channels=_channels(channels),
            runtime=runtime,
            searcher=searcher,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, console.run_summary)


@targets_app.callback()
def targets(context: typer.Context, targets_dir: TargetsDir = None, json: Json = False) -> None:
    """Known targets, what each needs, and which work from this machine."""
    if context.invoked_subcommand is None:
        _show_targets(None, targets_dir, json)


@targets_app.command("show", epilog="Example: hwautoml targets show rpi4")
def targets_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of a target.")],
    targets_dir: TargetsDir = None,
    json: Json = False,
) -> None:
    """Everything known about one target."""
    before = context.parent.params if context.parent is not None else {}  # hwautoml targets --json show NAME
    _show_targets(name, targets_dir or before.get("targets_dir"), json or bool(before.get("json")))


@app.command(epilog="Example: hwautoml profile --target cpu --image-size 32")
def profile(
    target: Target = "cpu",
    image_size: Annotated[int, typer.Option(help="Side of the images in pixels, 8 to 224.")] = 32,
    channels: Annotated[str, typer.Option(help="rgb or grey.")] = "rgb",
    runtime: Runtime = "auto",
    budget: Annotated[str, typer.Option(help="At most this long; what is left out is inferred.")] = "5m",
    seed: Seed = 0,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Measure a latency table: what each layer costs on a target. Goes on where it was interrupted."""
    with console.session(json, resume_hint="the same command goes on where this one stopped") as show:
        from hwautoml.pipeline import profile as verb

        table, path = verb(
            target,
            image_size=image_size,
            channels=_channels(channels) or 3,
            runtime=runtime,
            budget_sec=parse_duration(budget),
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(console.table_facts(table, path), console.profile_summary)


@app.command(epilog="Example: hwautoml search --run runs/photos --target cpu --latency-ms 0.5")
def search(
    run: Annotated[Path, typer.Option(help="Folder of a trained run.")],
    target: Annotated[str | None, typer.Option(help="Another target. [default: the run's]")] = None,
    latency_ms: Annotated[float | None, typer.Option(help="Another limit. [default: the run's]")] = None,
    runtime: Runtime = "auto",
    budget: Annotated[str, typer.Option(help="Time for all of it; most goes into scoring more.")] = "7s",
    seed: Annotated[int | None, typer.Option(min=0, help="Same seed, same choices. [default: the run's]")] = None,
    targets_dir: TargetsDir = None,
    profiles_dir: ProfilesDir = None,
    json: Json = False,
) -> None:
    """Another limit or target for a trained run: seconds, no retraining."""
    with console.session(json) as show:
        from hwautoml.pipeline import search as verb

        result = verb(
            run,
            target=target,
            latency_ms=latency_ms,
            runtime=runtime,
            budget_sec=parse_duration(budget),
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, console.search_summary)


@app.command(epilog="Example: hwautoml export --run runs/photos --arch best --format onnx")
def export(
    run: Annotated[Path, typer.Option(help="Folder of a trained run.")],
    arch: Annotated[str, typer.Option(help="best, or the id of any scored architecture.")] = "best",
    format: Annotated[str, typer.Option(help="onnx.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write. [default: RUN/exports/ID.onnx]")] = None,
    targets_dir: TargetsDir = None,
    json: Json = False,
) -> None:
    """Write one network of a run as a file, checked against the trained one."""
    with console.session(json) as show:
        from hwautoml.pipeline import export as verb

        result = verb(run, arch=arch, format=format, out=out, targets_dir=targets_dir, on_progress=show.progress)
        show.result(result, console.export_summary)


@app.command(epilog="Example: hwautoml compile model.onnx --target cpu --runtime tvm --tune 30s")
def compile(
    model: Annotated[Path, typer.Argument(help="Any ONNX file.")],
    target: Target = "cpu",
    runtime: Annotated[str, typer.Option(help="tvm or onnxruntime.")] = "tvm",
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: beside the model]")] = None,
    tune: Annotated[str | None, typer.Option(help="Time for tuning kernels, e.g. 30s, 10m. [default: none]")] = None,
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
            tune_sec=_seconds(tune) or 0.0,
            seed=seed,
            targets_dir=targets_dir,
            profiles_dir=profiles_dir,
            on_progress=show.progress,
        )
        show.result(result, console.compile_summary)


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
        show.result(result, console.bench_summary)


@app.command(epilog="Example: hwautoml report runs/photos")
def report(run: Annotated[Path, typer.Argument(help="Folder of a finished run.")], json: Json = False) -> None:
    """Write the report of a finished run anew: HTML, PNG and CSV."""
    with console.session(json) as show:
        from hwautoml.pipeline import report as verb

        show.result(verb(run), console.report_summary)


@app.command(epilog="Example: hwautoml doctor --json")
def doctor(json: Json = False) -> None:
    """What this machine has: torch, CUDA, ONNX Runtime providers, TVM targets, cross-compilers."""
    with console.session(json) as show:
        from hwautoml.pipeline import doctor as verb

        show.result(verb(), console.doctor_summary)


def main() -> None:
    """Entry point of the ``hwautoml`` program."""
    app()


def _show_targets(name: str | None, targets_dir: Path | None, json: bool) -> None:
    with console.session(json) as show:
        from hwautoml.pipeline import targets as verb

        rows = verb(name, targets_dir=targets_dir)
        show.result(rows[0] if name is not None else {"targets": rows}, console.targets_summary)


def _seconds(text: str | None) -> float | None:
    return None if text is None else parse_duration(text)


def _channels(text: str | None) -> int | None:
    from hwautoml.errors import InvalidValueError

    known: dict[str | None, int | None] = {None: None, "rgb": 3, "grey": 1, "gray": 1}
    if text not in known:
        raise InvalidValueError(f"--channels must be rgb or grey, got {text!r}")
    return known[text]


def _resume_hint(source: str | None, **folders: Path | None) -> str:
    command = ["hwautoml", "run", *([source] if source else []), "--resume"]
    for name, folder in folders.items():
        command += [f"--{name.replace('_', '-')}", str(folder)] if folder is not None else []
    return "go on with: " + shlex.join(command)


if __name__ == "__main__":
    sys.exit(main())

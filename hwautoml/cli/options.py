"""The program itself, and the options that several subcommands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwautoml.cli.former import ProgramWithFormerNames

app = typer.Typer(
    name="hwautoml",
    cls=ProgramWithFormerNames,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="The best neural network for exactly your device, trained, exported, compiled and measured.\n\n"
    "Start with: [bold]hwautoml run digits --target cpu --latency-ms 0.3[/bold]",
    epilog="Exit codes: 0 done, 2 wrong argument, 3 unusable images, 4 target, 5 infeasible limit, 6 limit not met, "
    "7 parity, 8 compilation, 9 measurement, 10 run folder, 11 missing package, 12 too slow, 13 storage, "
    "130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same choices.")]
Runtime = Annotated[str, typer.Option(help="auto, onnxruntime or tvm.")]
TargetsDir = Annotated[Path | None, typer.Option(help="Folder with your own NAME.toml targets.")]
ProfilesDir = Annotated[Path | None, typer.Option(help="Folder for latency tables and tuning records.")]
Target = Annotated[str, typer.Option(help="Name of a target; see: hwautoml targets.")]
Space = Annotated[str, typer.Option(help="mobile, nasbench201, fbnet, ofa-mobilenetv3, or one that a package brings.")]
ImageSize = Annotated[
    int | None, typer.Option(help="Side of the images in pixels. \\[default: 32, or the published space's own]")
]
Channels = Annotated[str | None, typer.Option(help="rgb or grey. \\[default: rgb]")]
LabelPattern = Annotated[str | None, typer.Option(help="Classes from paths, e.g. '{label}_*.png' or '*/{label}/**'.")]
Group = Annotated[
    str | None, typer.Option(help="What must not lie in two splits: a column, or a pattern such as '**/{group}_*'.")
]
PathColumn = Annotated[str | None, typer.Option(help="Column of paths in a table of labels.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of labels in a table of labels.")]
Threads = Annotated[int | None, typer.Option(min=1, help="\\[default: the target's]")]
Batch = Annotated[int, typer.Option(min=1, help="Images per inference; latencies are of the whole batch.")]
TableRuntime = Annotated[
    str, typer.Option(help="auto, one of the target's, or on this machine torch or torch-inductor.")
]
Precision = Annotated[str, typer.Option(help="fp32 or int8; on GPUs also fp16 or bf16.")]
Like = Annotated[str | None, typer.Option(help="Targets or table files to start from, a,b,c.")]
TableOut = Annotated[Path | None, typer.Option(help="File for the table. \\[default: in --profiles-dir]")]
Records = Annotated[Path | None, typer.Option(help="File of records. \\[default: beside the target's latency tables]")]
Objectives = Annotated[
    list[str] | None,
    typer.Option(help="A further objective, such as parameters or macs; repeatable.", metavar="NAME"),
]
Limits = Annotated[
    list[str] | None, typer.Option(help="'NAME<=VALUE' of any objective; repeatable.", metavar="NAME<=VALUE")
]
TrainedRun = Annotated[Path, typer.Option(help="Folder of a trained run.")]
Device = Annotated[str | None, typer.Option(help="Board that runs hwautoml's agent, host:port; see docs/devices.md.")]
Tracker = Annotated[str | None, typer.Option(help="TVM tracker that hands out boards, host:port; needs --key.")]
Key = Annotated[
    str | None, typer.Option(help="Key of the board's agent (or HWAUTOML_KEY); boards' name at the tracker.")
]


def channels_of(text: str | None) -> int | None:
    from hwautoml.errors import InvalidValueError

    known: dict[str | None, int | None] = {None: None, "rgb": 3, "grey": 1, "gray": 1}
    if text not in known:
        raise InvalidValueError(f"--channels must be rgb or grey, got {text!r}")
    return known[text]


def names_of(text: str | None) -> list[str] | None:
    """What ``--like a,b,c`` names."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]

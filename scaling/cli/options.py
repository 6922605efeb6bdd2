"""Options that several commands share."""

import argparse

from scaling.cli.mesh import mesh_options
from scaling.launch.process import PATIENCE_SECONDS


def typed(path: str) -> str:
    """A path for a printed command: a leading dash would make it an option."""
    return f"./{path}" if path.startswith("-") else path


def study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="a name in experiments/, or the path of a file that defines STUDY"
    )
    size_option(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="replace a field of every run, e.g. --set optim.peak_lr=1e-3; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="DIR",
        help="results folder, on a disk or as gs://BUCKET/NAME (default: results/NAME beside experiments/)",
    )  # fmt: skip


def size_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--size", metavar="SIZE",
        help="of a file that asks its question at several: laptop (the first, by default), gpu, pod",
    )  # fmt: skip


def sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes (default: one a core on CPU)")
    parser.add_argument(
        "--population", default="auto", metavar="N|auto",
        help="runs of one shape that a worker trains in one program: a number, or auto (default): what pays by trial "
        "on an accelerator, 1 on a CPU",
    )  # fmt: skip
    mesh_options(parser)
    parser.add_argument(
        "--retry", action="store_true", help="try again what failed for good before: errors, and what no memory held"
    )
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_SECONDS, metavar="SECONDS",
        help="of silence in training until a worker is killed and its run tried again (default: %(default)g; longer "
        "while it compiles, or where its steps are slow)",
    )  # fmt: skip
    log_option(parser)


def log_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log", action="append", default=[], choices=("tensorboard", "wandb"), dest="sinks",
        help="copy the curves there as they grow; may be repeated",
    )  # fmt: skip


def dry_run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def json_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")

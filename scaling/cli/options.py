"""Options that several commands share."""

import argparse


def study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="replace a field of every run, e.g. --set optim.peak_lr=1e-3; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="results folder (default: results/NAME beside experiments/)")


def sweep_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, metavar="N", help="worker processes (default: one a core on CPU)")
    parser.add_argument(
        "--population", default="auto", metavar="N|auto",
        help="runs of one shape that a worker trains in one program: a number, or auto (default): what pays by trial "
        "on an accelerator, 1 on a CPU",
    )  # fmt: skip
    log_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")


def log_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--log", action="append", default=[], choices=("tensorboard", "wandb"), dest="sinks",
        help="copy the curves there as they grow; may be repeated",
    )  # fmt: skip


def json_option(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")

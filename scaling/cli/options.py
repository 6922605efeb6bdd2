"""Options that several commands share."""

import argparse


def study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", metavar="EXPERIMENT")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="replace a field of every run, e.g. --set optim.peak_lr=1e-3; may be repeated",
    )  # fmt: skip
    parser.add_argument("--out", metavar="DIR", help="results folder (default: results/NAME beside experiments/)")


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document on standard output")

"""`scaling laws`: every law that `scaling fit` knows, or one of them in full."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from scaling.cli.exits import DONE
from scaling.cli.options import json_option
from scaling.fitting.laws import GROUPS, LAWS
from scaling.fitting.laws.form import limits
from scaling.spec import Refusal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("law", nargs="?", metavar="NAME", help="one law in full (default: all)")
    parser.add_argument("--page", metavar="DIR", help="write laws.md and its figures into this folder, e.g. docs")
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.law is not None and arguments.law not in LAWS:
        raise Refusal(f"{arguments.law}: no such law; there are {', '.join(LAWS)}")
    if arguments.page is not None and (arguments.law is not None or arguments.json):
        raise Refusal("--page writes all laws as a page: give it without NAME and --json")
    if arguments.page is not None:
        from scaling.report.laws import write

        print(write(Path(arguments.page)))
    elif arguments.json:
        chosen = [arguments.law] if arguments.law else list(LAWS)
        print(json.dumps({name: describe(name) for name in chosen}, indent=1, allow_nan=False))
    elif arguments.law:
        _show(arguments.law)
    else:
        for group, laws in GROUPS.items():
            print(group)
            for name, law in laws.items():
                units = ", ".join(f"{p} [{law.units[p]}]" if law.units[p] else p for p in law.names)
                print(f"  {name:22} {law.formula}")
                print(f"  {'':22} {', '.join(law.variables)} -> {law.response}; parameters {units}")
                print(f"  {'':22} {law.source}")
    return DONE


def describe(name: str) -> dict[str, Any]:
    """A law as plain values; a bound that is not there is null."""
    law = LAWS[name]
    return {
        "group": next(group for group, laws in GROUPS.items() if name in laws),
        "formula": law.formula,
        "about": law.about,
        "variables": list(law.variables),
        "response": law.response,
        "parameters": {
            p: {"unit": law.units[p], "bounds": [v if math.isfinite(v) else None for v in limits(law, p)]}
            for p in law.names
        },
        "linear": list(law.linear),
        "source": law.source,
    }


def _show(name: str) -> None:
    item = describe(name)
    print(f"{name}: {item['formula']}\n{item['about']}")
    print(f"variables: {', '.join(item['variables'])}\nresponse: {item['response']}")
    for parameter, about in item["parameters"].items():
        low, high = (("-inf", "inf")[i] if v is None else f"{v:g}" for i, v in enumerate(about["bounds"]))
        print(f"  {parameter:10} {about['unit'] or 'no unit':14} from {low} to {high}")
    print(f"linear, given the others: {', '.join(item['linear'])}\nsource: {item['source']}")

"""Calling `gcloud`, and saying in one line what it could not do and what helps."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence

TICK_SECONDS = 0.2
ASK_SECONDS = 300.0  # that it may take for an answer

# What is in its words -> kind, and the way out.
WAYS = (
    (
        "quota",
        r"[Qq]uota|RESOURCE_EXHAUSTED",
        "ask for more in the Cloud console, or take a smaller --accelerator, another --zone, or --spot",
    ),
    (
        "permission",
        r"SERVICE_DISABLED|has not been used in project|API .*not enabled",
        "gcloud services enable tpu.googleapis.com",
    ),
    (
        "permission",
        r"active account|[Rr]eauthenticat|invalid_grant|credentials|UNAUTHENTICATED",
        "gcloud auth login",
    ),
    (
        "permission",
        r"PERMISSION_DENIED|permission",
        "check --zone and --project, and that this account may use TPUs there (roles/tpu.admin)",
    ),
    ("permission", r"project.*(must|required|not.*set)", "give --project, or gcloud config set project ID"),
    (
        "network",
        r"resolv|[Cc]onnection|[Nn]etwork|[Tt]imed out|Unable to find the server|UNAVAILABLE|[Uu]nreachable|\[255\]",
        "check the connection; the same command goes on",
    ),
    (
        "not_found",
        r"NOT_FOUND|[Nn]ot found|INVALID_ARGUMENT|is not (a )?(valid|supported|available)",
        "`gcloud compute tpus locations list` says which zones there are, `gcloud compute tpus tpu-vm "
        "accelerator-types list` and `... versions list` what a zone has",
    ),
)


class Trouble(Exception):
    """What gcloud could not do, in one line with the way out. `kind`: as in `WAYS`, or empty; `line`: its own words."""

    def __init__(self, said: str, doing: str):
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line] or lines[-1:] or ["it ended without a word"]
        self.line = re.sub(r"^.*?ERROR: *(\(gcloud[\w.-]*\))? *", "", errors[0])[:300]
        self.kind, way = next(((kind, way) for kind, pattern, way in WAYS if re.search(pattern, self.line)), ("", ""))
        super().__init__(f"gcloud could not {doing}: {self.line}" + (f"; {way}" if way else ""))


class GaveUp(Exception):
    """It was ended before it had answered."""


def call(
    words: Sequence[str], give_up: Callable[[], bool], limit: float = ASK_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Its answer; one that takes longer than `limit` seconds has failed. Raises `GaveUp` where `give_up` says so."""
    end = time.monotonic() + limit
    with begin(words, stderr=subprocess.PIPE) as process:
        while True:
            try:
                out, err = process.communicate(timeout=TICK_SECONDS)
                return subprocess.CompletedProcess(list(words), process.returncode, out, err)
            except subprocess.TimeoutExpired:
                asked = give_up()
                if asked or time.monotonic() > end:
                    kill(process)
                    if asked:
                        raise GaveUp from None
                    return subprocess.CompletedProcess(list(words), 1, "", f"timed out after {limit:g} s")


def begin(words: Sequence[str], *, stderr: int) -> "subprocess.Popen[str]":
    """In a session of its own: Ctrl-C is for us to obey."""
    return subprocess.Popen(
        list(words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace",
        start_new_session=True,
    )  # fmt: skip


def kill(process: "subprocess.Popen[str]") -> None:
    """With what it started."""
    os.killpg(process.pid, signal.SIGKILL)

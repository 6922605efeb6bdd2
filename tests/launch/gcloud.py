#!/usr/bin/env python3
"""A stand-in for gcloud, in a folder that $GCLOUD_FAKE names.

calls    the words of every call, a JSON list a line
state    {"alive": the queued resource there is, or null, "next": [states that it will show, the last one
             for ever], "node": that of its node}
lives    a JSON list of such lists: of every queued resource that will be created
fail     {"create": [what it says on standard error instead of working, ...], ...}; an empty text works
runs     a JSON list: what each `ssh ... run` does: text said by the hosts and {"status": n, "next": ..., "node": ...};
             when none is left the queued resource is gone
hosts    where it is there, its folders are the homes of hosts on which files are copied and commands are run
"""

import json
import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["GCLOUD_FAKE"])


def read(name, default):
    path = FOLDER / name
    return json.loads(path.read_text()) if path.exists() else default


def write(name, value):
    (FOLDER / name).write_text(json.dumps(value))


def end(said, status=1):
    print(said, file=sys.stderr)
    sys.exit(status)


def homes():
    return sorted((FOLDER / "hosts").iterdir()) if (FOLDER / "hosts").exists() else []


def main(words):
    with open(FOLDER / "calls", "a") as calls:
        calls.write(json.dumps(words) + "\n")
    group, verb, *rest = words[2:]
    options = dict(word[2:].partition("=")[::2] for word in rest if word.startswith("--"))
    name = rest[0]
    task = options.get("command", "").split()[2:3]
    key = {"ssh": task[0] if task else "", "describe": "node" if group == "tpu-vm" else "describe"}.get(verb, verb)
    fail = read("fail", {})
    if fail.get(key):
        said = fail[key].pop(0)
        write("fail", fail)
        if said:
            end(said)
    state = read("state", {"alive": None, "next": []})
    where = f"projects/p/locations/{options.get('zone')}/queuedResources/{name}"
    if verb == "create":
        lives = read("lives", [["ACTIVE"]])
        labels = dict([options["labels"].split("=")])
        node = {"acceleratorType": options["accelerator-type"], "labels": labels}
        write("state", {"alive": node, "next": lives.pop(0)})
        write("lives", lives or [["ACTIVE"]])
    elif state["alive"] is None:
        end(f"ERROR: (gcloud.compute.tpus.{group}.{verb}) NOT_FOUND: Resource '{where}' was not found")
    elif verb == "delete":
        write("state", {"alive": None, "next": []})
    elif key == "describe":
        now = state["next"].pop(0) if len(state["next"]) > 1 else state["next"][0]
        write("state", state)
        failed = {"failedData": {"error": {"message": "no capacity"}}} if now == "FAILED" else {}
        print(
            json.dumps(
                {"name": where, "state": {"state": now, **failed}, "tpu": {"nodeSpec": [{"node": state["alive"]}]}}
            )
        )
    elif key == "node":
        print(state.get("node", "READY"))
    elif verb == "scp":
        for home in homes():
            for file in (Path(word) for word in rest[:-1] if word.startswith("/")):
                (home / file.name).write_bytes(file.read_bytes())
    elif homes():
        sys.exit(on_hosts(options["command"]))
    elif key == "run":
        said, then = (read("runs", []) or [["", {"status": 255, "alive": None}]])[0]
        write("runs", read("runs", [])[1:])
        print(said, flush=True)
        write("state", state | {name: then[name] for name in ("next", "node", "alive") if name in then})
        sys.exit(then.get("status", 0))


def on_hosts(command):
    """Like ssh --worker=all: the first status that is not 0."""
    processes = []
    for number, home in enumerate(homes()):
        path = f"{FOLDER}/bin:/usr/bin:/bin"
        environ = {"HOME": str(home), "PATH": path, "HOST": f"t1v-n-0123abcd-w-{number}", "GCLOUD_FAKE": str(FOLDER)}
        processes.append(subprocess.Popen(["sh", "-c", command], cwd=home, env=environ))
    return next((status for status in [process.wait() for process in processes] if status), 0)


main(sys.argv[1:])

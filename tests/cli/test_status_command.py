"""`scaling status`: once, followed and served."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scaling.cli import serve
from scaling.cli import status as command
from scaling.cli.main import main
from scaling.plan import Plan, straight
from scaling.record import Failure, Ledger, RunRecord
from scaling.record.claims import Holder
from scaling.record.files import commit_json
from scaling.record.live import Live
from scaling.report import live_page, markup
from scaling.spec import Refusal, RunSpec

HOSTILE = "<script>alert(1)</script> [red]x[/red] \x1b[31m\x07\u202e"


def runs_of(tiny: RunSpec, count: int) -> list[RunSpec]:
    return [p.run for seed in range(count) for p in straight(
        replace(tiny, seed=seed), [tiny.model], [2000], group="grid"
    ).runs]  # fmt: skip


def asked(folder: Path, runs: list[RunSpec], group: str = "grid", name: str = "s") -> Ledger:
    plan = Plan(tuple(p for run in runs for p in straight(run, [run.model], [run.tokens], group="grid").runs))
    entries = [entry | {"group": group} for entry in plan.to_json()]
    study = {"name": name, "question": "?", "analysis": {}, "command": "scaling run s", "plan": entries}
    commit_json(folder / "study.json", study)
    return Ledger(folder)


def record_of(run: RunSpec, **changes) -> RunRecord:
    known = RunRecord(
        run=run, status="finished", reason="", tokens=run.tokens, unique_tokens=run.tokens, epochs=1.0, loss=1.5,
        loss_se=0.01, bits_per_byte=None, entropy=None, clock=None, data={}, machine={},
    )  # fmt: skip
    return replace(known, **changes)


def log(ledger: Ledger, run: RunSpec, *steps: int) -> None:
    with open(ledger.begin(run) / "metrics.jsonl", "a") as file:
        for step in steps:
            file.write(json.dumps({"step": step, "tokens": step * run.batch_tokens, "loss": 2.5}) + "\n")


def test_the_table_says_what_each_run_does_and_how_to_go_on(tiny: RunSpec, tmp_path: Path, capsys):
    runs = runs_of(tiny, 4)
    ledger = asked(tmp_path, runs)
    ledger.commit(record_of(runs[0]))
    log(ledger, runs[1], 3)
    ledger.begin(runs[2])
    ledger.fail(runs[2].id, Failure(kind="error", reason="ValueError: no such luck", attempts=1, log="logs/w.log"))
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    lines = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "s: 1 begun, 1 failed, 1 pending, 1 finished" in said
    assert "nobody is at work; to go on: scaling run s\n" in said
    assert "finished" in lines[runs[0].id] and lines[runs[0].id].rstrip().endswith("1.5000")
    assert "3 / 21" in lines[runs[1].id] and "2.5000" in lines[runs[1].id]
    assert "no such luck; see logs/w.log" in said and "with --retry" in said


def test_one_document_holds_every_run(tiny: RunSpec, tmp_path: Path, capsys):
    runs = runs_of(tiny, 3)
    ledger = asked(tmp_path, runs)
    ledger.commit(record_of(runs[0]))
    with Holder(tmp_path) as holder:
        log(ledger, runs[1], 3)
        holder.claim(runs[1].id)
        assert main(["status", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["counts"] == {"running": 1, "pending": 1, "finished": 1} and said["over"] is False
    assert [run["status"] for run in said["runs"]] == ["finished", "running", "pending"]
    assert [run["loss"] for run in said["runs"]] == [1.5, None, None] and said["runs"][1]["train_loss"] == 2.5
    (participant,) = said["participants"]
    assert participant["live"] and participant["runs"] == [runs[1].id]


def test_of_many_runs_those_that_are_not_finished_are_listed_live_ones_first(tiny: RunSpec, tmp_path: Path, capsys):
    runs = runs_of(tiny, command.FEW + 2)
    ledger = asked(tmp_path, runs)
    ledger.commit(record_of(runs[0]))
    log(ledger, runs[-1], 3)
    for words, first, listed in ((["--all"], runs[0], len(runs)), ([], runs[-1], command.FEW)):
        assert main(["status", str(tmp_path), *words]) == 0
        said = capsys.readouterr().out
        ids = re.findall(r"^[0-9a-f]{12}", said, re.MULTILINE)
        assert ids[0] == first.id and len(ids) == listed
    assert runs[0].id not in said and "not listed: 1 finished, 1 pending" in said


def test_a_large_folder_is_listed_by_way_of_its_index(tiny: RunSpec, tmp_path: Path, capsys, monkeypatch):
    runs = runs_of(tiny, 3)
    ledger = asked(tmp_path, runs)
    ledger.commit(record_of(runs[0]))
    ledger.commit(record_of(runs[1], status="diverged", reason="not finite", loss=None, tokens=96))
    said = []
    for size in (command.LARGE_BYTES, 0):
        monkeypatch.setattr(command, "LARGE_BYTES", size)
        assert main(["status", str(tmp_path), "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0] == said[1]


def test_hostile_names_and_reasons_are_text_on_a_terminal(tiny: RunSpec, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    run = runs_of(tiny, 1)[0]
    ledger = asked(tmp_path, [run], group=HOSTILE, name=HOSTILE)
    ledger.commit(record_of(run, status="diverged", reason=HOSTILE, loss=None))
    assert main(["status", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("[red]x[/red] \\x1b[31m\\x07\\u202e") == 4  # the study, its group twice, the reason
    assert not re.findall("[\x07\u202e]", said) and "\x1b[31m\\" not in said


def test_followed_into_a_pipe_it_ends_with_the_sweep(tiny: RunSpec, tmp_path: Path, capsys, monkeypatch):
    runs = runs_of(tiny, 2)
    ledger, left = asked(tmp_path, runs), list(runs)
    monkeypatch.setattr(command.time, "sleep", lambda _: ledger.commit(record_of(left.pop())))
    assert main(["status", str(tmp_path), "--follow"]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("s:")] == [
        "s: 2 pending", "s: 1 pending, 1 finished", "s: 2 finished"
    ]  # fmt: skip


def test_followed_until_the_last_participant_has_left(tiny: RunSpec, tmp_path: Path, capsys, monkeypatch):
    asked(tmp_path, runs_of(tiny, 1))
    holder = Holder(tmp_path)
    monkeypatch.setattr(command.time, "sleep", lambda _: holder.__exit__())
    assert main(["status", str(tmp_path), "--follow"]) == 0
    assert "nobody is at work; to go on: scaling run s" in capsys.readouterr().out


class Client:
    def __init__(self, server: serve.LiveServer):
        self.server, self.host = server, f"127.0.0.1:{server.server_port}"

    def ask(
        self, path: str = "/", method: str = "GET", host: str | None = None
    ) -> tuple[http.client.HTTPResponse, str]:
        wire = http.client.HTTPConnection("127.0.0.1", self.server.server_port, timeout=10)
        wire.putrequest(method, path, skip_host=True)
        if host != "":
            wire.putheader("Host", host or self.host)
        wire.endheaders()
        answer = wire.getresponse()
        text = answer.read().decode()
        wire.close()
        return answer, text

    def data(self, token: str = "") -> dict:
        answer, text = self.ask(f"/data.json?since={token}")
        assert answer.status == 200, text
        return json.loads(text)


@pytest.fixture
def served(tiny: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Three runs of a hostile study: one diverged with a curve, one begun, one that waits."""
    runs = runs_of(tiny, 3)
    ledger = asked(tmp_path / "results", runs, group=HOSTILE, name=HOSTILE)
    log(ledger, runs[0], 1, 2, 3)
    ledger.commit(record_of(runs[0], status="diverged", reason=HOSTILE, loss=None))
    log(ledger, runs[1], 1, 2)
    monkeypatch.setattr(serve, "FRESH_SECONDS", -1.0)
    with serve.LiveServer(Live(ledger, curves=9), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def test_a_page_is_told_everything_once_and_then_what_is_new(served: Client, tiny: RunSpec):
    ledger, runs = served.server.live.ledger, runs_of(tiny, 3)
    first = served.data()
    assert first["whole"] and first["planned"] == 3 and first["counts"] == {"begun": 1, "diverged": 1, "pending": 1}
    assert [run["id"] for run in first["runs"]] == [runs[1].id, runs[0].id]
    assert [point[0] for point in first["runs"][0]["curve"]] == [96, 192]
    assert first["go_on"] == "scaling run s" and not first["over"]
    again = served.data(first["token"])
    assert not again["whole"] and again["runs"] == []
    log(ledger, runs[1], 5)
    third = served.data(again["token"])
    (grown,) = third["runs"]
    assert grown["id"] == runs[1].id and grown["curve"] == [[480, 2.5]] and not grown["whole"]
    (behind,) = served.data(first["token"])["runs"]  # a page that missed one
    assert behind["curve"] == [[480, 2.5]]
    for run in runs[1:]:
        ledger.commit(record_of(run))
    last = served.data(third["token"])
    assert last["over"] and {run["status"] for run in last["runs"]} == {"finished"}
    for token in ("", "other-3", first["token"].split("-")[0] + "-x", "%0a"):
        assert served.data(token)["whole"]


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:PORT", "127.0.0.1", "localhost:1", "127.0.0.1:PORT.evil"]
)
def test_only_browsers_that_name_this_machine_are_answered(served: Client, host: str):
    """A page of another site may have its name point here, and never this server's."""
    port = str(served.server.server_port)
    for path in ("/", "/data.json"):
        answer, text = served.ask(path, host=host.replace("PORT", port))
        assert answer.status == 421 and "alert" not in text
    for own in ("localhost", "127.0.0.1", "[::1]"):
        assert served.ask(host=f"{own}:{port}")[0].status == 200


def test_it_listens_on_the_loopback_address_alone(served: Client):
    assert served.server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path", ["/study.json", "/../study.json", "/%2e%2e/study.json", "//etc/passwd", "/data.json/x", "/runs/"]
)
def test_nothing_but_the_page_and_its_data_is_there(served: Client, path: str):
    answer, text = served.ask(path)
    assert answer.status == 404 and "alert" not in text and "root:" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_it_is_for_reading_alone(served: Client, method: str):
    assert served.ask("/data.json", method)[0].status == 405


def test_what_a_head_request_gets_is_the_head(served: Client):
    answer, text = served.ask("/", "HEAD")
    assert answer.status == 200 and text == "" and int(answer.headers["Content-Length"]) > 1000


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, str] = {}
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        self.text[self.inside] = self.text.get(self.inside, "") + data


def test_the_page_holds_nothing_of_the_study_and_one_script_that_its_policy_names(served: Client):
    answer, text = served.ask("/")
    tags = Tags()
    tags.feed(text)
    assert "alert(1)" not in text and len(served.ask("/")[1]) == len(text)
    assert [tag for tag, _ in tags.found].count("script") == 1
    assert not [
        pair for _, pairs in tags.found for pair in pairs if pair in ("src", "href", "style") or pair[:2] == "on"
    ]
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
    assert policy["script-src"] == markup.hashed(tags.text["script"])
    assert policy["style-src"] == markup.hashed(tags.text["style"])
    for name in ("X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Cross-Origin-Resource-Policy"):
        assert answer.headers[name]
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_script_writes_text_and_never_markup():
    script = markup.script(*live_page.SCRIPTS)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval|Function\(|DOMParser|srcdoc", script)
    assert re.findall(r"fetch\((.*?),", script) == ['"data.json?since=" + encodeURIComponent(token)']


def test_a_folder_that_vanishes_is_said_and_the_server_goes_on(served: Client):
    folder = served.server.live.ledger.folder
    folder.rename(folder.with_name("away"))
    answer, text = served.ask("/data.json")
    assert answer.status == 503 and "not a results folder" in text
    folder.with_name("away").rename(folder)
    assert served.data()["whole"]


def test_a_port_that_is_taken_is_refused(served: Client):
    with pytest.raises(Refusal, match="cannot listen"):
        serve.LiveServer(served.server.live, served.server.server_port)


def test_a_folder_that_is_none_is_refused(tmp_path: Path, capsys):
    for words in ([], ["--follow"], ["--serve"], ["--json"]):
        assert main(["status", str(tmp_path), *words]) == 2
    assert capsys.readouterr().err.count("not a results folder") == 4

"""What is seen of a compile: estimates, lines for a terminal, traces."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import screen
from xfdev import console, forecast, live_view, progress, timeline
from xfdev.commands import report
from xfdev.execute import Busy, Job, Outcome
from xfdev.timeline import Span, Timeline

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("running", "waiting", "slots", "factor", "left"),
    [
        ([], [], 2, 1.0, 0.0),
        ([(4.0, 10.0)], [], 2, 1.0, 6.0),
        ([(4.0, 10.0)], [], 2, 2.0, 16.0),
        ([(20.0, 10.0)], [], 2, 1.0, 2.0),  # overdue: nobody knows, but it is not over
        ([], [10.0, 4.0, 3.0, 2.0], 2, 1.0, 10.0),
        ([(0.0, 5.0), (0.0, 1.0)], [5.0], 2, 1.0, 6.0),
        ([(0.0, 5.0)], [5.0], 1, 1.0, 10.0),
        ([(0.0, 3.0), (0.0, 4.0)], [1.0], 1, 1.0, 4.0),  # fewer slots than what runs: one was taken away
    ],
)
def test_seconds_left(
    running: list[tuple[float, float]], waiting: list[float], slots: int, factor: float, left: float
) -> None:
    assert forecast.seconds_left(running, waiting, slots, factor) == pytest.approx(left)


def test_speed_is_what_this_machine_takes_in_times_of_the_records() -> None:
    assert forecast.speed([]) == 1.0
    assert forecast.speed([(10, 20), (5, 10)]) == 2.0
    assert forecast.speed([(1, 1000)]) == 8.0
    assert forecast.speed([(0, 3)]) == 1.0


def state(*names: str, finished: int = 3, hits: int = 1, left: float | None = 65.0) -> progress.State:
    running = [progress.Running(name, 41.0 - n, 71.0 if n == 0 else None, 2 * GB) for n, name in enumerate(names)]
    return progress.State(finished, 13, hits, 34.4, left, 22_400_000_000, running)


def test_lines() -> None:
    assert progress.lines(state("csrc/a.cu", "csrc/b.cpp"), 100, 10) == [
        "[3/13] · 0:34, about 1 min 5 s left · 4.0 GB of 22.4 GB · 1 from the cache",
        "   0:41 of 1:11    2.0 GB  csrc/a.cu",
        "           0:40    2.0 GB  csrc/b.cpp",
    ]
    assert progress.lines(state(left=None, hits=0), 100, 10) == ["[3/13] · 0:34 · 0 bytes of 22.4 GB"]


@pytest.mark.parametrize("width", [1, 2, 7, 20, 33, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = progress.lines(state("csrc/" + "x" * 90 + ".cu", "csrc/日本語/カーネル.cu", "a\x1b[2Jb\n.cu"), width, 10)
    assert all(progress.cells(line) <= width for line in shown)
    assert not any(sign in line for line in shown for sign in "\x1b\n\r")
    if width >= 33:
        assert shown[1].endswith(".cu"), "the end of a path tells most"


def test_more_units_than_rows() -> None:
    names = [f"u{number}.cu" for number in range(20)]
    shown = progress.lines(state(*names), 80, 6)
    assert len(shown) == 6
    assert shown[-1] == "  and 16 more"
    assert progress.lines(state(*names), 80, 1) == shown[:1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_block_stays_below_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    out = Terminal()
    monkeypatch.setattr("sys.stderr", out)
    shown = console.Console()
    shown.configure(verbose=False, quiet=False, environ={"TERM": "xterm", "NO_COLOR": "1"})
    shown.block(["one", "two", "three"])
    shown.info("said first")
    shown.block(["ONE"])
    shown.warning("said next")
    assert screen.show(out.getvalue()) == ["said first", "warning: said next", "ONE"]
    shown.block([])
    shown.info("last")
    assert screen.show(out.getvalue()) == ["said first", "warning: said next", "last"]
    assert "\x1b[2m" not in out.getvalue()
    assert "\x1b[?25l" not in out.getvalue(), "a cursor that is hidden has to be shown again, whatever ends us"


@pytest.mark.parametrize(("environ", "quiet"), [({"TERM": "dumb"}, False), ({}, False), ({"TERM": "xterm"}, True)])
def test_no_block_where_lines_cannot_be_written_over(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], quiet: bool
) -> None:
    out = Terminal()
    monkeypatch.setattr("sys.stderr", out)
    shown = console.Console()
    shown.configure(verbose=False, quiet=quiet, environ=environ)
    shown.block(["one"])
    shown.progress("half")
    shown.block([])
    shown.warning("w")
    assert out.getvalue() == "warning: w\n"


def test_view_estimates_from_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[str]] = []
    monkeypatch.setattr(console.Console, "live", property(lambda self: True))
    monkeypatch.setattr(console.console, "block", lambda lines: drawn.append(list(lines)))
    jobs = [Job(f"u{n}.cu", ("nvcc",), Path(f"u{n}.o"), 10.0) for n in range(4)]
    view = live_view.LiveView(4, 1, GB)
    view.tick([Busy(jobs[0], 2.0, GB // 2)], jobs[1:])
    assert "about 38 s left" in drawn[-1][0]
    view.done(Outcome(jobs[0], 20.0, GB, ""), 1, hit=False)  # twice as long as recorded
    view.tick([Busy(jobs[1], 0.0, GB)], jobs[2:])
    assert "[1/4]" in drawn[-1][0]
    assert "about 1 min 0 s left" in drawn[-1][0]
    unknown = [Job("x.cu", ("nvcc",), Path("x.o"))]
    live_view.LiveView(1, 1, GB).tick([Busy(unknown[0], 2.0, 0)], [])
    assert "left" not in drawn[-1][0]


def test_trace(tmp_path: Path) -> None:
    spans = [
        Span("phase", "compiling", 100.0, 5.0),
        Span("compile", "a.cu", 100.5, 3.0, {"peak": 7}),
        Span("compile", "b.cu", 101.0, 1.0, {"peak": 8}),
        Span("restore", "c.cpp", 102.5, 0.1),
        Span("nvcc", "cicc", 100.5, 2.0, {"unit": "a.cu", "arch": "compute_90"}),
    ]
    noted = Timeline(spans, [(100.2, 5)], wanted=True)
    noted.write(tmp_path / "t.json", "xfdev build")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    found = {event["name"]: event for event in events if event["ph"] == "X"}
    assert (found["compiling"]["ts"], found["compiling"]["dur"], found["compiling"]["tid"]) == (0, 5_000_000, 0)
    assert found["a.cu"]["tid"] == found["cicc"]["tid"] == 1
    assert found["b.cu"]["tid"] == found["c.cpp"]["tid"] == 2, "rows are taken again once they are free"
    assert found["a.cu"]["args"] == {"peak": 7}
    assert [event["args"] for event in events if event["ph"] == "C"] == [{"bytes": 5}]
    assert {event["args"]["name"] for event in events if event["ph"] == "M"} == {
        "xfdev build", "xfdev", "compile 1", "compile 2",
    }  # fmt: skip


def test_phases_of_nvcc() -> None:
    table = (
        "source file name , phase name , phase input files , phase output file , arch , tool, metric , unit\n"
        "/x/csrc/k.cu , cicc ,  /tmp/t-7_k.cpp1.ii  , /tmp/t-6_k.ptx , compute_90 , nvcc , 455.6030 , ms\n"
        " , nvcc (driver) ,  , b.o ,  , nvcc , 0.9451 , ms\n"
    )
    assert live_view.nvcc_phases(table) == [("/x/csrc/k.cu", "cicc", pytest.approx(0.455603), "compute_90")]


def test_where_the_time_went() -> None:
    noted = Timeline([
        Span("phase", "comparing", 0, 0.2), Span("phase", "compiling", 1, 40), Span("phase", "placing", 41, 0.01),
        Span("compile", "a.cu", 1, 30, {"peak": 2 * GB}), Span("compile", "b.cu", 1, 40, {"peak": GB}),
        Span("restore", "c.cu", 1, 0.1),
    ])  # fmt: skip
    assert report.spent(noted, 41.0) == [
        "  comparing 0.2 s, compiling 40 s, the rest 0.8 s",
        "  1 min 10 s of compilers; the slowest: b.cu 40 s (1.0 GB), a.cu 30 s (2.0 GB)",
    ]
    assert report.spent(Timeline(), 0.3) == []
    assert timeline.timeline is not noted

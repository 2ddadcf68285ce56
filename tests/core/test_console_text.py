"""What a run says: numbers in few characters, lines that stand alone, no flood."""

import io

import pytest

from puna.core import console


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (9999, "9999"),
        (12345, "12.3k"),
        (2_500_000, "2.5M"),
        (0.123456, "0.123"),
        (True, "True"),
        ("a", "a"),
        (-1.5e9, "-1.5G"),
    ],
)
def test_short_numbers(value, text):
    assert console.short(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(8.23, "8.2 s"), (185, "3 min 05 s"), (59.99, "60.0 s"), (7800, "2 h 10 min")])
def test_durations(seconds, text):
    assert console.clock(seconds) == text


def test_progress_has_rate_and_time_left():
    rates = console.Rates()
    for moment, done in ((10.0, 20), (12.0, 40)):
        event = {"event": "progress", "stage": "s", "time": moment, "done": done, "total": 100, "loss": 2.3456}
        rates.see(event)
    assert console.progress_text(event, rates) == "40/100 40%  10/s  6.0 s left  loss=2.35"


def test_lines_stand_alone_and_do_not_flood():
    out = io.StringIO()
    lines = console.Lines(out)
    lines.event({"event": "stage", "stage": "s", "state": "running"})
    for done in range(1000):
        lines.event({"event": "progress", "stage": "s", "time": done / 100, "done": done, "total": 1000})
    lines.event({"event": "metric", "stage": "s", "loss": 1})
    lines.event({"event": "stage", "stage": "s", "state": "finished", "seconds": 1.25, "summary": {"loss": 0.5, "map": {}}})
    lines.event({"event": "stage", "stage": "t", "state": "failed", "error": {"what": "broke [1]"}})
    said = [line[11:] for line in out.getvalue().splitlines()]
    assert said == ["s  started", "s  done in 1.2 s  loss=0.5", "t  FAILED: broke [1]"]


def test_bars_show_brackets_as_they_are(capsys):
    bars = console.Bars(["s"])
    bars.event({"event": "stage", "stage": "s", "state": "running"})
    bars.event({"event": "progress", "stage": "s", "time": 1.0, "done": 1, "total": 2, "x": "[red]"})
    bars.event({"event": "stage", "stage": "s", "state": "failed", "error": {"what": "'keep' is [1]"}})
    bars.close()
    assert "'keep' is [1]" in capsys.readouterr().out

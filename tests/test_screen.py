"""What a person sees without a terminal: plain lines with a rate and the time left, from the first process only."""

from __future__ import annotations

import pytest

from mae_bench import screen


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (8.2, "8 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (18_120, "5 h 2 min"),
        (float("nan"), "unknown time"),
    ],
)
def test_durations_as_a_person_says_them(seconds: float, said: str) -> None:
    assert screen.duration(seconds) == said


def test_plain_progress_has_a_rate_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    work = screen.Work("features", 100, "images", 0)
    now[0] = 5.0
    work.advance(10)
    assert capsys.readouterr().err == "", "a line every five seconds would be too many"
    work.note("loss 0.5")
    now[0] = 12.0
    work.advance(20)
    assert capsys.readouterr().err == "features: 30 of 100 images, 2.5/s, 28 s left, loss 0.5\n"


def test_other_processes_are_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    screen.say("hello")
    screen.warn("beware")
    with screen.progress("work", 2) as work:
        work.advance(2)
    assert capsys.readouterr().err == ""


def test_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    screen.say("data.augment[0] has [bold]no[/bold] markup")
    assert capsys.readouterr().err == "data.augment[0] has [bold]no[/bold] markup\n"

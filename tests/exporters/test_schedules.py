"""Cron's rules against a parser that is not ours, and systemd's form of the same times against systemd itself."""

import re
import shlex
import subprocess
from datetime import datetime, timedelta, timezone

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from hooke.base.errors import UsageError
from hooke.exporters.schedules import (
    OVERLAPS,
    TARGETS,
    Schedule,
    check_expressible,
    check_zone,
    crontab,
    parse_catch_up,
    parse_cron,
    systemd_units,
    trigger,
)

BEGIN = datetime(2026, 11, 30, 7, 31, tzinfo=timezone.utc)  # noqa: UP017 - as cronsim's own


def schedule(at="30 6 * * 1-5", **more):
    given = {"command": ("/opt/hooke", "run", "report.py"), "folder": "/srv/report"} | more
    return Schedule(name="report", times=parse_cron(at), **given)


def refusal_of(call):
    """The UsageError that it raises; None if it raises none."""
    try:
        call()
    except UsageError as error:
        return error
    return None


def times_of(parsed, count):
    """The first times after BEGIN, by the definition: the day fits if both fields do, or either where none is *."""
    _, _, day, _, weekday = parsed.expression.split()
    found, at = [], BEGIN
    while len(found) < count:
        at += timedelta(minutes=1)
        fits = [at.day in parsed.days, at.isoweekday() % 7 in parsed.weekdays]
        if at.month not in parsed.months or not (all(fits) if "*" in (day, weekday) else any(fits)):
            at = at.replace(hour=23, minute=59)
        elif at.hour in parsed.hours and at.minute in parsed.minutes:
            found.append(at)
    return found


def field(low, high, names=()):
    numbers = st.integers(low, high)
    ranges = st.tuples(numbers, numbers).map(lambda ends: "-".join(map(str, sorted(ends))))
    several = st.tuples(st.integers(low, high - 1), st.just(high)).map("{0[0]}-{0[1]}".format)
    steps = st.tuples(st.one_of(st.just("*"), several), st.integers(1, high)).map("{0[0]}/{0[1]}".format)
    plain = st.one_of(numbers.map(str), ranges, steps, *([st.sampled_from(names)] if names else []))
    return st.one_of(st.just("*"), st.lists(plain, min_size=1, max_size=3).map(",".join))


EXPRESSIONS = st.tuples(
    field(0, 59), field(0, 23), field(1, 31), field(1, 12, ("jan", "Dec")), field(0, 7, ("sun", "FRI"))
).map(" ".join)


@pytest.mark.needs("cpu")
@given(EXPRESSIONS)
def test_times_are_those_of_another_parser(text):
    error = refusal_of(lambda: parse_cron(text))
    if error is not None:
        assert "different days" in error.what or "never happens" in error.what, "nothing else is wrong"
        return
    parsed = parse_cron(text)
    expected = CronSim(text, BEGIN)
    assert times_of(parsed, 3) == [next(expected) for _ in range(3)]
    # Names and 7 are gone, and it means the same.
    assert parse_cron(parsed.expression) == parsed
    assert not set(parsed.expression) - set("0123456789*/,- ")


@pytest.mark.needs("systemd")
@pytest.mark.parametrize(
    "text",
    [
        "30 6 * * mon-fri",
        "*/20 8-10 * * *",
        "0 0 13 * fri",
        "0 12 1,15 1-3,6 *",
        "5 4 * * 7",
        "@hourly",
        "@monthly",
    ],
)
def test_systemd_takes_them_for_the_same_times(text):
    parsed = parse_cron(text)
    said = ""
    for calendar in parsed.calendars:
        command = [
            "systemd-analyze",
            "calendar",
            "--iterations=8",
            f"--base-time={BEGIN:%Y-%m-%d %H:%M:%S} UTC",
            f"{calendar} UTC",
        ]
        said += subprocess.run(
            command, check=True, capture_output=True, text=True, env={"TZ": "UTC", "LC_ALL": "C"}, timeout=60
        ).stdout
    lines = [
        line
        for line in said.splitlines()
        if line.endswith(" UTC") and ":" in line and "Normalized" not in line
    ]
    found = {
        datetime.strptime(line.split(": ", 1)[1], "%a %Y-%m-%d %H:%M:%S UTC")
        for line in lines
        if "Original" not in line
    }
    expected = CronSim(parsed.expression, BEGIN)
    assert sorted(found)[:8] == [next(expected).replace(tzinfo=None) for _ in range(8)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("30 6 * *", "4 fields"),
        ("0 30 6 * * *", "6 fields"),
        ("60 * * * *", "'60' is not a valid minute"),
        ("* 24 * * *", "'24' is not a valid hour"),
        ("* * 0 * *", "'0' is not a valid day of the month"),
        ("* * * foo *", "'foo' is not a valid month"),
        ("* * * * thr", "did you mean thu?"),
        ("* * L * *", "'L' is not a valid day of the month"),
        ("* * * * 5#2", "'5#2' is not a valid day of the week"),
        ("? * * * *", "'?' is not a valid minute"),
        ("5/15 * * * *", "5-59/15"),
        ("*/0 * * * *", "'*/0' is not a valid minute"),
        ("* 22-2 * * *", "22-23,0-2"),
        ("1,,2 * * * *", "'' is not a valid minute"),
        ("* * 30 2 *", "never happens"),
        ("* * */2 * 1", "different days to cron and to Kubernetes"),
        ("@reboot", "a start of the machine is not a time"),
        ("@dayly", "did you mean @daily?"),
        ("", "0 fields"),
    ],
)
def test_what_is_wrong_with_an_expression_is_said(text, said):
    with pytest.raises(UsageError) as refused:
        parse_cron(text)
    error = refused.value
    assert said in f"{error.what} {error.why} {error.fix}"


def test_each_target_keeps_a_schedule_or_says_why_not():
    """(target, overlap, catch-up, zone) -> whether it can; and each refusal has a reason."""
    kept = set()
    for target in TARGETS:
        for overlap in OVERLAPS:
            for late in (0.0, 7200.0, float("inf")):
                for zone in ("", "Europe/Berlin"):
                    asked = schedule(overlap=overlap, catch_up_s=late, zone=zone)
                    error = refusal_of(lambda target=target, asked=asked: check_expressible(target, asked))
                    if error is None:
                        kept.add((target, overlap, late, zone))
                        continue
                    assert f"--render {target} cannot express" in error.what
                    assert error.why
                    assert error.fix
    assert kept == {
        *(("cron", overlap, 0.0, "") for overlap in ("skip", "wait")),
        *(("systemd", "skip", late, zone) for late in (0.0, float("inf")) for zone in ("", "Europe/Berlin")),
        *(
            ("k8s", overlap, late, zone)
            for overlap in ("skip", "replace")
            for late in (0.0, 7200.0, float("inf"))
            for zone in ("", "Europe/Berlin")
        ),
    }
    with pytest.raises(UsageError, match="at least 10s"):
        check_expressible("k8s", schedule(catch_up_s=5.0))


def test_zones_and_lateness_are_checked():
    check_zone("Europe/Berlin")
    with pytest.raises(UsageError) as refused:
        check_zone("Europe/Berln")
    assert "did you mean Europe/Berlin?" in refused.value.fix
    assert [parse_catch_up(text) for text in ("never", "always", "1h30m")] == [0.0, float("inf"), 5400.0]
    with pytest.raises(UsageError, match="--catch-up 'sometimes'"):
        parse_catch_up("sometimes")


ODD = ("/opt/my hooke", "run", "a.py", "--note", '50% of "$HOME" \\ it\'s')


def test_a_crontab_line_is_one_shell_command_with_its_percents_escaped():
    """The sixth field goes to sh, up to the first % without a backslash."""
    *comments, line = crontab(schedule("30 6 1-31/2 jan-mar mon", command=ODD)).splitlines()
    assert all(comment.startswith("# ") for comment in comments)
    assert line.startswith("30 6 1-31/2 1-3 1 cd /srv/report && ")
    command = line.split(" ", 5)[5]
    assert not re.search(r"(?<!\\)%", command)
    words = shlex.split(command.replace(r"\%", "%"))
    assert tuple(words[-len(ODD) :]) == ODD


@pytest.mark.needs("systemd")
def test_systemd_takes_the_units(tmp_path):
    units = systemd_units(
        schedule(
            "0 0 13 * fri",
            command=("/bin/sh", *ODD[1:]),
            folder="/tmp",
            zone="Europe/Berlin",
            catch_up_s=float("inf"),
        )
    )
    assert list(units) == ["report.service", "report.timer"]
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(tmp_path / name for name in units)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = units["report.timer"].splitlines()
    assert "OnCalendar=*-*-13 00:00:00 Europe/Berlin" in lines
    assert "OnCalendar=Fri *-*-* 00:00:00 Europe/Berlin" in lines
    assert "Persistent=true" in lines
    assert 'ExecStart=/bin/sh run a.py --note "50%% of \\"$$HOME\\" \\\\ it\'s"' in units["report.service"]


def test_what_kubernetes_is_told():
    assert trigger(schedule()) == {
        "schedule": "30 6 * * 1-5",
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 60,
    }
    assert trigger(schedule(overlap="replace", catch_up_s=float("inf"), zone="Europe/Berlin")) == {
        "schedule": "30 6 * * 1-5",
        "timeZone": "Europe/Berlin",
        "concurrencyPolicy": "Replace",
    }


def test_a_line_break_is_refused():
    broken = schedule(command=("hooke", "run", "a.py", "--note", "two\nlines"))
    for render in (crontab, systemd_units):
        with pytest.raises(UsageError, match="line break"):
            render(broken)

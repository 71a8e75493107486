"""`hooke run` at given times: the rules of cron's five fields, and the same schedule for cron, systemd and Kubernetes. Pure.

What the three do about overlap, missed times and time zones differs. A wish that a target cannot meet is refused with the reason.
"""

from __future__ import annotations

import re
import shlex
import zoneinfo
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from hooke.base.errors import UsageError
from hooke.base.formats import did_you_mean
from hooke.base.units import parse_seconds

__all__ = [
    "OVERLAPS",
    "TARGETS",
    "CronTimes",
    "Overlap",
    "Schedule",
    "Target",
    "check_expressible",
    "check_zone",
    "crontab",
    "parse_catch_up",
    "parse_cron",
    "systemd_units",
    "trigger",
]

Target = Literal["cron", "systemd", "k8s"]
TARGETS: tuple[Target, ...] = get_args(Target)
Overlap = Literal["skip", "wait", "replace"]
OVERLAPS: tuple[Overlap, ...] = get_args(Overlap)


# -- cron's five fields ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """The range of one field, and the names that stand for numbers in it."""

    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()

    def number(self, word: str) -> int | None:
        """The number that a word means; None if it is not valid."""
        if word.lower() in self.names:
            return self.names.index(word.lower()) + self.low
        number = int(word) if re.fullmatch("[0-9]{1,2}", word) else -1
        return number if self.low <= number <= self.high else None


WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MINUTE = _Field(name="minute", low=0, high=59)
HOUR = _Field(name="hour", low=0, high=23)
DAY = _Field(name="day of the month", low=1, high=31)
MONTH = _Field(name="month", low=1, high=12, names=MONTHS)
WEEKDAY = _Field(name="day of the week", low=0, high=7, names=WEEKDAYS)
FIELDS = (MINUTE, HOUR, DAY, MONTH, WEEKDAY)
DAYS_IN = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""Days of each month, in a leap year."""
NICKNAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PART = re.compile(r"(?P<first>\*|\w+)(-(?P<last>\w+))?(/(?P<step>[0-9]+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CronTimes:
    """The times of a cron expression: for each field its numbers; Sunday is 0."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    expression: str
    """Five fields in numbers only, which cron and Kubernetes understand alike."""

    @property
    def calendars(self) -> tuple[str, ...]:
        """The same times as systemd's calendar events: two where cron takes either the day or the weekday."""
        months = _systemd(self.months, MONTH)
        time = f"{_systemd(self.hours, HOUR)}:{_systemd(self.minutes, MINUTE)}:00"
        every_day, every_weekday = len(self.days) == len(DAYS_OF_MONTHS), len(self.weekdays) == len(WEEKDAYS)
        week = ",".join(WEEKDAYS[each].title() for each in sorted(self.weekdays, key=lambda day: day or 7))
        found = []
        if not every_day or every_weekday:
            found.append(f"*-{months}-{_systemd(self.days, DAY)} {time}")
        if not every_weekday:
            found.append(f"{week} *-{months}-* {time}")
        return tuple(found)


DAYS_OF_MONTHS = range(DAY.low, DAY.high + 1)


def parse_cron(text: str, option: str = "--at") -> CronTimes:
    """The times of a cron expression, such as `30 6 * * mon-fri` or `@daily`. Raises UsageError, which names the option and the field."""
    said = f"{option} {text!r}"
    words = NICKNAMES.get(text.strip().lower(), text).split()
    if text.strip().startswith("@") and len(words) != len(FIELDS):
        meant = did_you_mean(text.strip().lower(), NICKNAMES)
        why = "a start of the machine is not a time" if text.strip() == "@reboot" else ""
        raise UsageError(f"{said} is not a schedule", why=why, fix=f"{meant}valid: {', '.join(NICKNAMES)}")
    if len(words) != len(FIELDS):
        seconds = "cron knows no seconds and no years; " if len(words) > len(FIELDS) else ""
        raise UsageError(
            f"{said} has {len(words)} field{'s' if len(words) != 1 else ''}, and a schedule has {len(FIELDS)}",
            fix=f"{seconds}write minute, hour, day of the month, month and day of the week: {option} '30 6 * * 1-5'",
        )
    parsed = [_numbers(word, field, said) for word, field in zip(words, FIELDS, strict=True)]
    minutes, hours, days, months, found = parsed
    weekdays = frozenset(each % 7 for each in found)
    _check_days(said, words)
    if len(weekdays) == len(WEEKDAYS) and not any(
        day <= DAYS_IN[month - 1] for month in months for day in days
    ):
        raise UsageError(
            f"{said} never happens: these months have no such day", fix="correct the day or the month"
        )
    return CronTimes(
        minutes=minutes,
        hours=hours,
        days=days,
        months=months,
        weekdays=weekdays,
        expression=" ".join(
            _plain(word, numbers, field)
            for word, numbers, field in zip(
                words, (minutes, hours, days, months, weekdays), FIELDS, strict=True
            )
        ),
    )


def _numbers(word: str, field: _Field, said: str) -> frozenset[int]:
    """The numbers that a field stands for."""
    found: set[int] = set()
    for part in word.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise _bad(
                said, field, part, "a field has numbers, *, ranges (1-5), steps (*/15) and lists (1,15)"
            )
        first, last, step = match["first"], match["last"], match["step"]
        if step is not None and (int(step) == 0 or (first != "*" and last is None)):
            raise _bad(said, field, part, f"a step follows * or a range: {first}-{field.high}/{step or 1}")
        if first == "*":
            if last is not None:
                raise _bad(said, field, part, "write * alone")
            low, high = field.low, min(field.high, 6) if field is WEEKDAY else field.high
        else:
            low, high = _number(first, field, said), _number(last or first, field, said)
        if field is WEEKDAY and high == 0 < low:
            high = 7  # fri-sun
        if low > high:
            raise _bad(said, field, part, f"a range goes upwards: {first}-{field.high},{field.low}-{last}")
        found.update(range(low, high + 1, int(step or 1)))
    return frozenset(found)


def _number(word: str, field: _Field, said: str) -> int:
    number = field.number(word)
    if number is None:
        names = f", or {field.names[0]} to {field.names[-1]}" if field.names else ""
        meant = did_you_mean(word.lower(), field.names)
        raise _bad(said, field, word, f"{meant}valid: {field.low} to {field.high}{names}")
    return number


def _bad(said: str, field: _Field, part: str, fix: str) -> UsageError:
    return UsageError(f"{said}: {part!r} is not a valid {field.name}", fix=fix)


def _check_days(said: str, words: Sequence[str]) -> None:
    """Raise UsageError for days that cron takes for both and Kubernetes for either: `*/2` beside a weekday."""
    day, weekday = words[2], words[4]
    if "*" not in (day, weekday) and (day.startswith("*") or weekday.startswith("*")):
        raise UsageError(
            f"{said} means different days to cron and to Kubernetes",
            why="with * in one of the two, cron takes days that fit both the day of the month and the weekday; "
            "Kubernetes takes days that fit either",
            fix="write the days without *: 1-31/2 for */2",
        )


def _plain(word: str, numbers: frozenset[int], field: _Field) -> str:
    """A field as typed; one with names, or with 7 for Sunday, in numbers: not every cron has ranges of names, nor Kubernetes 7."""
    if not re.search("[a-zA-Z]", word) and not (field is WEEKDAY and "7" in word):
        return word
    return ",".join(
        str(low) if low == high else f"{low}-{high}" if high - low > 1 else f"{low},{high}"
        for low, high in _ranges(numbers)
    )


def _ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Neighbours together, as (lowest, highest)."""
    found: list[tuple[int, int]] = []
    for each in sorted(numbers):
        if found and found[-1][1] == each - 1:
            found[-1] = (found[-1][0], each)
        else:
            found.append((each, each))
    return found


def _systemd(numbers: frozenset[int], field: _Field) -> str:
    if len(numbers) == field.high - field.low + 1:
        return "*"
    return ",".join(f"{low:02}" if low == high else f"{low:02}..{high:02}" for low, high in _ranges(numbers))


# -- a schedule ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A command of Hooke at given times, and what happens when that is not possible."""

    name: str
    """Of units, CronJobs and lock files: lower-case letters, digits and -."""
    times: CronTimes
    command: tuple[str, ...]
    """What is started, with its program."""
    folder: str
    """The working directory."""
    overlap: Overlap = "skip"
    catch_up_s: float = 0.0
    """How late a missed time is made up for, in seconds: 0 is never, infinity always."""
    zone: str = ""
    """An IANA time zone. Empty means that of the machine; on Kubernetes UTC."""


def check_zone(name: str) -> None:
    """Raise UsageError for what is not an IANA time zone."""
    if name and name not in zoneinfo.available_timezones():
        meant = did_you_mean(name, zoneinfo.available_timezones())
        raise UsageError(
            f"--time-zone {name!r} is not a known time zone",
            fix=f"{meant}write a name such as Europe/Berlin or Etc/UTC",
        )


def parse_catch_up(text: str) -> float:
    """`never`, `always` or a duration, in seconds. Raises UsageError."""
    if text in ("never", "always"):
        return 0.0 if text == "never" else float("inf")
    try:
        return parse_seconds(text)
    except UsageError as error:
        raise UsageError(
            f"--catch-up {text!r} is not valid", fix="write never, always, or a time: 30m, 2h"
        ) from error


_OVERLAP_REASONS: dict[tuple[Target, Overlap], tuple[str, str]] = {
    ("cron", "replace"): (
        "cron starts a command and does not know the one before, so it cannot end it",
        "--overlap skip or wait, or --render k8s",
    ),
    ("systemd", "wait"): (
        "a timer does nothing while its service still runs, and remembers no time that passed",
        "--overlap skip, or --render cron",
    ),
    ("systemd", "replace"): (
        "a timer does nothing while its service still runs",
        "--overlap skip, or --render k8s",
    ),
    ("k8s", "wait"): (
        "a CronJob lets runs overlap, forbids or replaces them; none of these waits",
        "--overlap skip or replace, or --render cron",
    ),
}
"""(target, overlap) -> why the target cannot do it, and what to write instead."""
LEAST_DEADLINE_S = 10
"""Kubernetes looks for due CronJobs every 10 s, and may never start one with a shorter deadline."""


def check_expressible(target: Target, schedule: Schedule) -> None:
    """Raise UsageError where the target cannot keep the schedule, with the reason."""
    if reason := _OVERLAP_REASONS.get((target, schedule.overlap)):
        why, fix = reason
        raise UsageError(f"--render {target} cannot express --overlap {schedule.overlap}", why=why, fix=fix)
    late = schedule.catch_up_s
    if target == "cron" and late:
        raise UsageError(
            "--render cron cannot express --catch-up",
            why="cron does not know which times it missed",
            fix="leave --catch-up out, or write --render systemd",
        )
    if target == "cron" and schedule.zone:
        raise UsageError(
            "--render cron cannot express --time-zone",
            why="the cron of Debian has the machine's time zone alone",
            fix="give --at in the machine's time zone and leave --time-zone out, or write --render systemd",
        )
    if target == "systemd" and 0 < late < float("inf"):
        raise UsageError(
            "--render systemd cannot express how late a missed time may be made up for",
            why="Persistent= makes up for the last missed time, however late",
            fix="--catch-up never or always, or --render k8s",
        )
    if target == "k8s" and 0 < late < LEAST_DEADLINE_S:
        raise UsageError(
            f"--catch-up must be at least {LEAST_DEADLINE_S}s on Kubernetes",
            why=f"it looks for due jobs every {LEAST_DEADLINE_S} seconds",
        )


# -- cron and systemd ------------------------------------------------------------------------------


def crontab(schedule: Schedule) -> str:
    """A line of a crontab with comments. A lock, taken by `flock` of util-linux, keeps runs apart."""
    wait = "-n -E 0 " if schedule.overlap == "skip" else ""
    lock = f".hooke/schedules/{schedule.name}.lock"
    command = (
        f"cd {shlex.quote(schedule.folder)} && mkdir -p .hooke/schedules && "
        f"flock {wait}{lock} {shlex.join(schedule.command)}"
    )
    _one_line(command)
    what = {
        "skip": "A time at which the run before still goes on is skipped.",
        "wait": "A run waits until the one before has ended. If runs take longer than the time between them, ever more wait.",
    }[schedule.overlap]
    return (
        f"# {schedule.name}: {what}\n"
        "# A time at which the machine is off is missed. The times are in the time zone of the machine.\n"
        f"{schedule.times.expression} {_percent(command)}\n"
    )


def _percent(command: str) -> str:
    """In a crontab, % ends the command, unless a backslash precedes it."""
    return command.replace("%", r"\%")


def _one_line(command: str) -> None:
    if "\n" in command:
        raise UsageError(
            "a parameter contains a line break, which a crontab and a unit cannot hold",
            fix="write it into a file, and give --params FILE",
        )


def systemd_units(schedule: Schedule) -> dict[str, str]:
    """File name -> text: a service that is one run, and the timer that starts it."""
    zone = f" {schedule.zone}" if schedule.zone else ""
    words = " ".join(map(_unit_word, schedule.command))
    _one_line(words)
    missed = (
        "After the machine was off, one run makes up for all times missed."
        if schedule.catch_up_s
        else "A time at which the machine is off is missed."
    )
    service = f"""\
[Unit]
Description=hooke: {schedule.name}
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
WorkingDirectory={schedule.folder.replace("%", "%%")}
ExecStart={words}
# Stopped as by Ctrl-C: finished results are kept, and the run can be resumed.
KillSignal=SIGINT
KillMode=mixed
TimeoutStopSec=60
"""
    calendars = "\n".join(f"OnCalendar={each}{zone}" for each in schedule.times.calendars)
    timer = f"""\
# A time at which the run before still goes on is skipped: a timer does not start a service that runs.
# {missed}
[Unit]
Description=hooke: when {schedule.name} runs

[Timer]
{calendars}
AccuracySec=1s
Persistent={"true" if schedule.catch_up_s else "false"}

[Install]
WantedBy=timers.target
"""
    return {f"{schedule.name}.service": service, f"{schedule.name}.timer": timer}


def _unit_word(word: str) -> str:
    """A word of a command as systemd reads it: % and $ have a meaning, also within quotes."""
    plain = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[\w@%+=:,./$-]+", plain):
        return plain
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


# -- Kubernetes ------------------------------------------------------------------------------------

ON_TIME_S = 60
"""Of Kubernetes without `--catch-up`: a start within a minute counts as on time, as it does for cron."""


def trigger(schedule: Schedule) -> dict[str, str | int]:
    """The part of a CronJob's spec that says when it starts a job."""
    late = schedule.catch_up_s or ON_TIME_S
    return {
        "schedule": schedule.times.expression,
        "timeZone": schedule.zone or "Etc/UTC",
        "concurrencyPolicy": "Forbid" if schedule.overlap == "skip" else "Replace",
    } | ({} if late == float("inf") else {"startingDeadlineSeconds": round(late)})

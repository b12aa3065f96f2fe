"""The words for a moment in sbatch's `--begin` and `--deadline`, and in reservations: `now+1hour`, `16:00`, `12/24/26`.

Rules kept here: the same words mean the same moment as in Slurm's `parse_time`, in the node's own zone: a time without
a day is the next one to come, a day without a time is its midnight, a day without a year is the next one to come. A
time that the clock skips for daylight saving is as much later as the clock went forward; of one that comes twice the
first is meant. Unlike sbatch, which rolls it over, a day that no calendar has is refused.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, tzinfo

from agent.jobs.grammar import GrammarError

_UNIT_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 7 * 86_400}
_HOURS = {"midnight": 0, "elevenses": 11, "noon": 12, "fika": 15, "teatime": 16}
_MAX_AT = 253_402_300_799
"""The last second of the year 9999, after which no calendar of ours goes."""

_EPOCH = re.compile(r"uts(\d{7,12})", re.ASCII | re.IGNORECASE)
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t]+|-|T(?=\d))
  | (?P<now>now)(?:[ \t]*(?P<sign>[+-])[ \t]*(?P<count>\d{1,12})[ \t]*
      (?:(?P<unit>second|minute|hour|day|week)s?)?(?![a-z0-9]) | (?![ \t]*[+a-z0-9-]))
  | (?P<day>today|tomorrow)
  | (?P<word>midnight|elevenses|noon|fika|teatime)
  | (?P<hour>\d{1,2}):(?P<minute>\d\d)(?::(?P<second>\d\d))?(?:[ \t]*(?P<half>[ap]m))?(?!\d)
  | (?P<year>\d{4})-(?P<month>\d\d)-(?P<mday>\d\d)(?!\d)
  | (?P<us_month>\d{1,2})[./](?P<us_mday>\d{1,2})(?:[./](?P<us_year>\d\d))?(?!\d)
  | (?P<packed_month>\d\d)(?P<packed_mday>\d\d)(?P<packed_year>\d\d)?(?!\d)
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)
_ADVICE = (
    "is not a time; write now+1hour, HH:MM, MM/DD/YY, YYYY-MM-DDTHH:MM, today, tomorrow, midnight, noon or teatime, "
    "or a day and a time together"
)


def at(text: str, *, now: int, tz: tzinfo | None = None) -> int:
    """Read a moment.

    Args:
        text: as after `--begin`.
        now: Unix seconds, which `now`, `today` and "the next one to come" are counted from.
        tz: the zone that the words are in; `None` for the node's own.

    Returns:
        Unix seconds; they may be in the past when the text says so.

    Raises:
        GrammarError: the text means no moment.
    """
    epoch = _EPOCH.fullmatch(text)
    try:
        seconds = int(epoch[1]) if epoch else _Moment(now, tz).read(text)
    except (ValueError, OverflowError, OSError) as error:
        if isinstance(error, GrammarError):
            raise
        raise GrammarError(f"is not a time: {error}") from None
    if not 0 <= seconds <= _MAX_AT:
        raise GrammarError("is not a time that a calendar has; write one between 1970 and 9999")
    return seconds


class _Moment:
    """A day and a time of day, of which each may still be missing."""

    def __init__(self, now: int, tz: tzinfo | None) -> None:
        self._now = now
        self._tz = tz
        self._here = datetime.fromtimestamp(now, tz)
        self._day: date | None = None
        self._month_and_day: tuple[int, int] | None = None
        self._time: time | None = None

    def read(self, text: str) -> int:
        position = 0
        said: int | None = None
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise GrammarError(_ADVICE)
            position = match.end()
            if match["now"]:
                said = self._now + _delta_s(match)
            else:
                self._take(match)
        if said is not None:
            if self._day or self._month_and_day or self._time:
                raise GrammarError("says now and another time as well; write only one of them")
            return said
        return self._seconds()

    def _take(self, match: re.Match[str]) -> None:
        if match["day"]:
            later = 86_400 if match["day"].lower() == "tomorrow" else 0
            self._set_day(datetime.fromtimestamp(self._now + later, self._tz).date())
        elif match["word"]:
            self._set_time(time(_HOURS[match["word"].lower()]))
        elif match["hour"]:
            self._set_time(_time_of_day(match))
        elif match["year"]:
            self._set_day(date(int(match["year"]), int(match["month"]), int(match["mday"])))
        elif not match["space"]:
            kind = "us" if match["us_month"] else "packed"
            self._set_month(int(match[f"{kind}_month"]), int(match[f"{kind}_mday"]), match[f"{kind}_year"])

    def _set_month(self, month: int, day: int, year: str | None) -> None:
        if year:
            self._set_day(date(2000 + int(year), month, day))
            return
        date(2000, month, day)  # a leap year: raises on a day that no year has
        if self._day or self._month_and_day:
            raise GrammarError("names two days; write only one of them")
        self._month_and_day = month, day

    def _set_day(self, day: date) -> None:
        if self._day or self._month_and_day:
            raise GrammarError("names two days; write only one of them")
        self._day = day

    def _set_time(self, clock: time) -> None:
        if self._time is not None:
            raise GrammarError("names two times of day; write only one of them")
        self._time = clock

    def _seconds(self) -> int:
        clock = self._time or time(0)
        if self._day is not None:
            return self._stamp(self._day, clock)
        if self._month_and_day is not None:
            return self._stamp(self._next_of_the_year(*self._month_and_day, clock), clock)
        if self._time is None:
            raise GrammarError(_ADVICE)
        if (clock.hour, clock.minute) > (self._here.hour, self._here.minute):
            return self._stamp(self._here.date(), clock)
        # As Slurm: of the day that it will be 24 hours from now.
        return self._stamp(datetime.fromtimestamp(self._now + 86_400, self._tz).date(), clock)

    def _next_of_the_year(self, month: int, mday: int, clock: time) -> date:
        here = self._here
        to_come = (month, mday, clock.hour, clock.minute) > (here.month, here.day, here.hour, here.minute)
        return date(here.year if to_come else here.year + 1, month, mday)

    def _stamp(self, day: date, clock: time) -> int:
        return int(datetime.combine(day, clock, self._tz).timestamp())


def _delta_s(match: re.Match[str]) -> int:
    if match["sign"] is None:
        return 0
    seconds = timedelta(
        seconds=int(match["count"]) * _UNIT_S[(match["unit"] or "second").lower()]
    )  # OverflowError when absurd
    return int(seconds.total_seconds()) * (-1 if match["sign"] == "-" else 1)


def _time_of_day(match: re.Match[str]) -> time:
    hour, minute, second = int(match["hour"]), int(match["minute"]), int(match["second"] or 0)
    if match["half"]:
        if not 1 <= hour <= 12:
            raise GrammarError("is not a time: the hour before am or pm is 1 to 12")
        hour = hour % 12 + (12 if match["half"].lower() == "pm" else 0)
    return time(hour, minute, second)

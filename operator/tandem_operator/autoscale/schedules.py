"""Least sizes by the time of the week."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from tandem_api.v1alpha1 import Schedule

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class UnknownTimeZoneError(ValueError):
    """A schedule names no time zone of the IANA database."""


def find_minima(schedules: Sequence[Schedule], now: datetime) -> tuple[int, int]:
    """Least prefill and decode workers at `now` (aware): the largest of those schedules that hold; zero when none does.

    Raises:
        UnknownTimeZoneError: naming the schedule.
    """
    holding = [one for number, one in enumerate(schedules) if _holds(one, now.astimezone(_zone(number, one)))]
    return max((one.prefill_min for one in holding), default=0), max((one.decode_min for one in holding), default=0)


def _zone(number: int, schedule: Schedule) -> ZoneInfo:
    try:
        return ZoneInfo(schedule.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # the last for folders of the database, such as Europe
        text = f"schedules[{number}].timeZone {schedule.time_zone!r} is not in the time zone database"
        raise UnknownTimeZoneError(f"{text}: give an IANA name such as Europe/Berlin, or UTC") from None


def _holds(schedule: Schedule, local: datetime) -> bool:
    """Whether a wall clock lies between start and end; one that ends the next day is looked for from its first day."""
    clock = f"{local:%H:%M}"
    if schedule.start < schedule.end:
        return schedule.start <= clock < schedule.end and _is_day(schedule, local)
    if clock >= schedule.start:
        return _is_day(schedule, local)
    return clock < schedule.end and _is_day(schedule, local - timedelta(days=1))


def _is_day(schedule: Schedule, local: datetime) -> bool:
    return not schedule.days or _DAYS[local.weekday()] in schedule.days

"""Which features of a licence a job needs at its start.

    qos           it names a QOS other than the default, or its QOS may preempt others
    reservations  it names a reservation
    recurring     a recurring job made it

Ordinary scripts need none: accounts, partitions, arrays, sweeps, dependencies and time limits are everybody's. What is
asked is only ever "may this new job start": rules, reservations and recurring jobs can be made under any licence.
"""

from __future__ import annotations

from agent.config import Config
from agent.jobs.row import JobRow

QOS, RESERVATIONS, RECURRING = "qos", "reservations", "recurring"


def needs_of(config: Config, row: JobRow) -> tuple[str, ...]:
    """The features, by the words of `licensing.plans`; none for most jobs."""
    found = [QOS] if _is_served_apart(config, row.spec.qos) else []
    if row.spec.reservation is not None:
        found.append(RESERVATIONS)
    if row.cron_id is not None:
        found.append(RECURRING)
    return tuple(found)


def _is_served_apart(config: Config, named: str | None) -> bool:
    default = config.qos[0]
    if named not in (None, default.name):
        return True
    return bool(default.preempts) and config.scheduler.preempt == "qos"

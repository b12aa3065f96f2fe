"""The date of this build's sources, set by hand with the version; a perpetual licence compares it with its last update.

Not when the wheel was made: a site that installs an old release again has an old release.
"""

from __future__ import annotations

from datetime import UTC, datetime

DATE = "2026-11-22"
AT = int(datetime.fromisoformat(DATE).replace(tzinfo=UTC).timestamp())

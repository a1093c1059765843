"""How long to wait before a server is asked again."""

import email.utils
import random
import time
from collections.abc import Mapping

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, out of a Retry-After of either form (RFC 9110, 10.2.3); None without one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        if date is None:
            return None
        seconds = email.utils.mktime_tz(date) - time.time()
    return max(seconds, 0.0) if seconds == seconds else None


def pause_after(attempt: int) -> float:
    """Seconds, twice as many after each attempt (the first is 1), and no two workers alike."""
    longest: float = min(_FIRST_PAUSE_S * 2 ** min(attempt - 1, 16), _LONGEST_PAUSE_S)
    return longest * random.uniform(0.5, 1)

"""Numbers for people."""

NONE = "\N{EN DASH}"
"""Stands where there is no number."""


def count(value: float) -> str:
    return f"{value:,.0f}"


def some(number: int, what: str) -> str:
    """`1 list`, `1,024 lists`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def rate(value: float) -> str:
    """A rate with three digits: 1,234, 12.3, 0.123; a dash for none."""
    if value <= 0:
        return NONE
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def percent(share: float) -> str:
    """A share in 0..1. Neither a small nor an almost full one is rounded away."""
    if 0 < share < 0.001:
        return "<0.1%"
    if 0.999 < share < 1:
        return ">99.9%"
    return f"{share:.1%}".replace(".0%", "%")


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 20 s`, `7 h 05 min`, `2 d 4 h`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes_rest = divmod(minutes, 60)
    if whole < 60:
        return f"{whole} s"
    if hours == 0:
        return f"{minutes} min {rest:02d} s"
    if hours < 48:
        return f"{hours} h {minutes_rest:02d} min"
    return f"{hours // 24} d {hours % 24} h"


def size(size_bytes: int) -> str:
    """Decimal units: `512 B`, `1.4 GB`."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"

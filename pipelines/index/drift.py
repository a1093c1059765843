"""How far new vectors are from those that a template was trained on."""

from collections.abc import Mapping, Sequence

from pipelines.index.layout import PartRecord, TemplateRecord

# New images that fill few lists make every query that reaches these slower. Twice is common where a
# season's pictures are alike; it is not yet worth training anew.
_IMBALANCE_GROWTH = 1.0


def drift_of(record: TemplateRecord, deltas: Sequence[PartRecord]) -> float | None:
    """Growth of the coding error over that of held-out vectors at training: 0.1 is a tenth more.

    The largest of the deltas; None where nothing was added since, or nothing is lost by the codes.
    """
    known = (record.fit or {}).get("code_error", 0.0)
    found = [delta.fit["code_error"] for delta in deltas if delta.fit and "code_error" in delta.fit]
    return max(found) / known - 1 if found and known > 0 else None


def drift_notes(
    name: str, drift: float | None, limit: float, base: PartRecord, deltas: Sequence[PartRecord]
) -> tuple[str, ...]:
    """A line for each reason why training anew is due."""
    notes = []
    if drift is not None and drift > limit:
        notes.append(
            f"index {name}: new vectors are coded with {drift:.0%} more error than when it was trained "
            f"(index.drift_limit {limit:.0%}): darkroom index retrain=true"
        )
    even, uneven = _imbalance(base.fit), max((_imbalance(delta.fit) for delta in deltas), default=0.0)
    if even and uneven / even - 1 > _IMBALANCE_GROWTH:
        notes.append(
            f"index {name}: new vectors crowd in few lists (imbalance {uneven:.1f}, that of the base is "
            f"{even:.1f}): darkroom index retrain=true"
        )
    return tuple(notes)


def _imbalance(fit: Mapping[str, float] | None) -> float:
    return (fit or {}).get("imbalance", 0.0)

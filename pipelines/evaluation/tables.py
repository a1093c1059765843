"""What a person sees of an evaluation on the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from pipelines.evaluation.facts import Comparison, EvaluationReport, Score, Trouble
from pipelines.legible import legible
from pipelines.terminal import add_row, new_table


def evaluated(report: EvaluationReport) -> RenderableType:
    """The scores of an evaluation with their intervals, what was left out, and how another run compares."""
    head = f"{report.of}: {report.scored:,} of {report.references:,} references scored"
    told = [f"{name}: {value}" for name, value in {**report.facts, **report.settings}.items()]
    table = new_table("score", "value>", "95% from>", "to>", "items>")
    for score in report.scores:
        add_row(table, score.name, *_numbers(score), f"{score.n:,}")
    parts: list[RenderableType] = [Text(legible(head)), *(Text(legible(line)) for line in told), table]
    if report.troubles:
        parts.append(troubles(report.troubles))
    for breakdown in report.breakdowns:
        groups = new_table(breakdown.by, f"{report.main}>", "95% from>", "to>", "items>")
        for name, score in breakdown.groups.items():
            add_row(groups, name, *_numbers(score), f"{score.n:,}")
        parts.append(groups)
    if report.comparison is not None:
        parts.append(_compared(report.comparison))
    return Group(*parts)


def troubles(found: Sequence[Trouble]) -> RenderableType:
    """What is amiss with references and predictions."""
    table = new_table("amiss", "how many>", "for example")
    for trouble in found:
        add_row(table, trouble.what, f"{trouble.count:,}", ", ".join(trouble.first))
    return table


def _numbers(score: Score) -> tuple[str, str, str]:
    return f"{score.value:.4f}", f"{score.low:.4f}", f"{score.high:.4f}"


def _compared(comparison: Comparison) -> RenderableType:
    head = f"against {comparison.run}, {comparison.of}"
    table = new_table("score", "before>", "now>", "difference>", "95% from>", "to>", "", "better>", "worse>")
    for one in comparison.changes:
        numbers = (f"{one.before:.4f}", f"{one.after:.4f}", f"{one.difference:+.4f}")
        ends = (f"{one.low:+.4f}", f"{one.high:+.4f}")
        add_row(table, one.name, *numbers, *ends, one.verdict, f"{one.better:,}", f"{one.worse:,}")
    return Group(Text(legible(head)), table)

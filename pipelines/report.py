"""The page of a run: one static file that needs nothing else and runs nothing."""

import base64
import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import cv2
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from pipelines import quantities as q
from pipelines.chart import chart
from pipelines.evaluation.facts import EvaluationReport
from pipelines.evaluation.trend import trends
from pipelines.facts import IndexReport, Report
from pipelines.index_facts import IndexFacts
from pipelines.legible import legible
from pipelines.preview_facts import PreviewReport
from stages.base import Image

AnyReport: TypeAlias = Report | IndexReport | PreviewReport | EvaluationReport

_DATA_URI = "data:image/jpeg;base64,"
_JPEG_QUALITY = 82


def render(report: AnyReport) -> str:
    """The page as HTML. Everything from data is escaped, and control and bidi characters are made visible."""
    name, indexes = _content(report)
    charts = [None if index.measured is None else chart(index.measured) for index in indexes]
    drawn = trends(report.past) if isinstance(report, EvaluationReport) else []
    return _template(name).render(report=report, charts=charts, trends=drawn)


def _content(report: AnyReport) -> tuple[str, tuple[IndexFacts, ...]]:
    """The template of a report, and the indexes on it."""
    match report:
        case Report():
            return "report.html.j2", report.indexes
        case IndexReport():
            return "index.html.j2", (report.index,)
        case PreviewReport():
            return "preview.html.j2", ()
        case EvaluationReport():
            return "evaluation.html.j2", ()


def thumbnail(image: Image, size: int) -> str:
    """A JPEG data URI of an RGB image (uint8 [H, W, 3]) whose longer side is at most `size` pixels."""
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    # The shorter side of a panorama must not vanish.
    target = max(1, round(width * scale)), max(1, round(height * scale))
    small = image if scale == 1 else cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    done, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    )
    if not done:
        raise ValueError(f"no JPEG of an image of shape {image.shape}")
    return _DATA_URI + base64.b64encode(jpeg.tobytes()).decode()


def shows(page: str, image_ids: Iterable[int], texts: Iterable[str]) -> bool:
    """Whether a rendered page shows one of the images, or says one of the texts."""
    signs = [f">{item}<" for item in image_ids] + [str(escape(legible(text))) for text in texts]
    return any(sign in page for sign in signs)


@cache
def _template(name: str) -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "count": q.count,
        "rate": q.rate,
        "percent": q.percent,
        "duration": q.duration,
        "size": q.size,
        "picture": _picture,
        "share": _share,
    }
    return environment.get_template(name)


def _finalize(value: Any) -> Any:
    # In one place for every expression of the template, so that none can be forgotten.
    return legible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _picture(data_uri: str | None) -> Markup | None:
    """The thumbnail unchanged if it is one of ours (`legible` would shorten it), else None."""
    if data_uri is None or not data_uri.startswith(_DATA_URI):
        return None
    return Markup(_DATA_URI) + data_uri.removeprefix(_DATA_URI)


def _share(value: float, of: Iterable[float]) -> float:
    """`value` in percent of the largest, for the length of a bar; 0 where there is nothing to compare."""
    largest = max(of, default=0.0)
    return round(100 * value / largest, 1) if largest > 0 and math.isfinite(largest) else 0.0

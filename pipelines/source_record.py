"""Where the images of a corpus came from: `source.json`, which nights keep for whoever needs the pixels."""

import json
import os
from dataclasses import asdict, fields

from pipelines.corpus import Corpus, CorpusError
from pipelines.redact import MASK, redact
from stages.sources.config import Kind, SourceConfig

SOURCE = "source.json"

_PLACES = ("path", "root")


def record_source(corpus: Corpus, source: SourceConfig) -> None:
    """Without secrets, and with places that do not depend on the working directory."""
    plain = asdict(source) | {key: _absolute(getattr(source, key)) for key in _PLACES}
    data = json.dumps(redact(plain), indent=2).encode()
    if not corpus.exists(SOURCE) or corpus.read_bytes(SOURCE) != data:
        corpus.write_bytes(data, SOURCE)


def _absolute(place: str | None) -> str | None:
    if place is None or "://" in place:
        return place
    return os.path.abspath(os.path.expanduser(place))


def recorded_source(corpus: Corpus) -> SourceConfig | None:
    """What the last night read; None of a corpus that nobody wrote it down for.

    Raises: CorpusError where it does not tell enough to read from there.
    """
    try:
        stored = json.loads(corpus.read_bytes(SOURCE))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CorpusError(f"{corpus.path(SOURCE)} is damaged: say source.path=… ({error})") from error
    try:
        stored["kind"] = Kind(stored["kind"])
        known = {one.name for one in fields(SourceConfig)}
        found = SourceConfig(**{key: value for key, value in stored.items() if key in known})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorpusError(f"{corpus.path(SOURCE)} is damaged: say source.path=… ({error})") from error
    if any(MASK in (getattr(found, key) or "") for key in _PLACES):
        raise CorpusError(f"{corpus.path(SOURCE)} names a place with a secret left out: say source.path=…")
    return found

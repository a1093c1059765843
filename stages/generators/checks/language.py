"""The language of a text, by a model that ships with its library."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Its probabilities are calibrated, so that of what is named, more is right than wrong. Below that lie single
# words and names ("a cat" reads as Galician at 0.12); captions of six words are above 0.8.
_LEAST_PROBABILITY = 0.5
_LONGEST = 1000  # characters that are read: more change nothing


def language_of(text: str) -> str | None:
    """The ISO 639-1 code; None where the text is too short, or too mixed, to tell."""
    code, probability = _identifier().classify(text[:_LONGEST])
    return str(code) if probability >= _LEAST_PROBABILITY else None


@cache
def _identifier() -> "LanguageIdentifier":
    """Takes 1.6 s and 90 MB, once in a process."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    # The two letters of ISO 639-1: so Wu and Cantonese, which have codes of three, add to Chinese.
    identifier.set_languages([label for label in identifier.labels if len(label) == 2])
    return identifier

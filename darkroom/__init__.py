"""A corpus in a notebook: its tables as Arrow, and searches.

    from darkroom import Corpus

    corpus = Corpus("corpus")
    photos = corpus.items(where="metadata.width > 512", columns=["image_id", "uri"]).read_all().to_pandas()
    hits = corpus.search("two dogs on a beach", k=5, where="contains(original_caption, 'beach')")

Reads what nights wrote, also while one is running; writes nothing.
"""

from darkroom.reading import Corpus
from pipelines.corpus import CorpusError
from pipelines.terms import WhereError

__all__ = ["Corpus", "CorpusError", "WhereError"]

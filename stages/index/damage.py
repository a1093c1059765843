"""The one error of index files whose bytes are wrong."""


class IndexDamaged(Exception):
    """The bytes of an index are not those that were written; the message names the file."""

"""A set of SHA-256 digests that travels to workers, 32 bytes each."""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

_SIZE = 32


@dataclass(frozen=True)
class Digests:
    """`data`: the digests, ascending. A million of them take 32 MB, and a look-up 20 comparisons."""

    data: bytes = b""

    @classmethod
    def of(cls, digests: Iterable[str]) -> "Digests":
        """Of hex digests. Raises: ValueError for what is none."""
        found = sorted({bytes.fromhex(digest) for digest in digests})
        if any(len(digest) != _SIZE for digest in found):
            raise ValueError("a SHA-256 digest has 64 hex digits")
        return cls(b"".join(found))

    def __len__(self) -> int:
        return len(self.data) // _SIZE

    def __contains__(self, digest: bytes) -> bool:
        place = bisect_left(range(len(self)), digest, key=self._at)
        return self._at(place) == digest

    def _at(self, place: int) -> bytes:
        return self.data[_SIZE * place : _SIZE * (place + 1)]

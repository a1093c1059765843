"""The members of a tar by their headers alone: ustar, GNU and PAX; bodies are neither read nor unpacked.

Python's tarfile takes 20 to 29 µs a member and holds all of them; this takes half and holds one. Formats:
POSIX.1-2008 pax, and the GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NamedTuple
from zlib import adler32

BLOCK = 512
_ZEROS, _SPACES = bytes(BLOCK), b" " * 8
_MOST_EXTRA = 1 << 20  # bytes of a long name or of PAX records
_MOST_SIZE = (1 << 63) - 1
_ENDING = 1 << 16  # zeros that a tar may end in: records of 10 kB, of 64 kB with some writers

_FILES, _LONG_NAME, _PAX = b"0\x007", b"L", b"xX"
_LINKS, _NO_DATA = b"12", b"123456"
_IGNORED = b"gK"  # records for all members, of which none tells where data is; and long names of links
_SPARSE = b"S"

# What a compressed file begins with.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}


class Kind(Enum):
    FILE = auto()
    SPARSE = auto()  # with holes that are left out of the tar
    LINK = auto()  # hard or symbolic
    OTHER = auto()  # folders, devices


class Member(NamedTuple):
    """`position`: the first byte of its data; `size`: in bytes, as the header says."""

    name: bytes
    position: int
    size: int
    kind: Kind


class TarProblem(Exception):
    """What keeps the rest of a tar from being read, in words that go after its name."""

    is_tar = True


class NotATar(TarProblem):
    """Not even the first header can be read."""

    is_tar = False


class Window:
    """A file by ranges, read ahead where the next one that is wanted is likely to be near.

    Where bodies up to `skip` bytes lie between headers, `block` bytes are read at a time; else `peek`.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], skip: int, block: int, peek: int) -> None:
        self._read_at, self._skip, self._block, self._peek = read_at, skip, block, peek
        self._start, self._held, self._last = 0, b"", 0

    def read(self, at: int, count: int) -> bytes:
        """Fewer bytes where the file ends."""
        first = at - self._start
        if first < 0 or first + count > len(self._held):
            ahead = self._block if 0 <= at - self._last <= self._skip else self._peek
            self._start, self._held, first = at, self._read_at(at, max(count, ahead)), 0
        self._last = at
        return self._held[first : first + count]


def members(window: Window, size: int) -> Iterator[Member]:
    """All members, in the order of the tar of `size` bytes, also the one that is cut off.

    Raises: TarProblem after the last that can be told; NotATar where there is none.
    """
    at, extra = 0, _Extra()
    while at + BLOCK <= size:
        head = window.read(at, BLOCK)
        if head == _ZEROS:
            break
        header = _header(head, at)
        start = at + BLOCK
        if header.type == _SPARSE:
            start = _after_sparse_map(window, head, start)
        length = header.size if extra.size is None else extra.size
        end = start if header.type in _NO_DATA else start + -(-length // BLOCK) * BLOCK
        if header.type in _LONG_NAME + _PAX + _IGNORED:
            extra = _read_extra(window, header, start, size, extra)
            end = start + -(-header.size // BLOCK) * BLOCK
        else:
            name = header.name if extra.name is None else extra.name
            yield Member(name, start, min(length, _MOST_SIZE), _kind(header, name, extra.is_sparse))
            extra = _Extra()
        at = end
    _check_end(window, at, size)


class _Header(NamedTuple):
    name: bytes
    size: int
    type: bytes


class _Extra(NamedTuple):
    """What the headers before that of a member say of it."""

    name: bytes | None = None
    size: int | None = None
    is_sparse: bool = False


def _kind(header: _Header, name: bytes, is_sparse: bool) -> Kind:
    if header.type == _SPARSE or is_sparse:
        return Kind.SPARSE
    if header.type in _FILES and not name.endswith(b"/"):
        return Kind.FILE
    return Kind.LINK if header.type in _LINKS else Kind.OTHER


def _header(head: bytes, at: int) -> _Header:
    if len(head) < BLOCK:  # the file became shorter meanwhile
        raise TarProblem("is cut off within a header")
    if not _is_checked(head):
        raise _bad_header(head, at, "its checksum is wrong")
    size = _number(head[124:136])
    if size is None or size < 0:
        raise _bad_header(head, at, "its size is no number")
    name = head[:100].partition(b"\0")[0]
    if head[257:263] == b"ustar\0" and (prefix := head[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return _Header(name, size, head[156:157])


def _is_checked(head: bytes) -> bool:
    """The checksum is the sum of all bytes, its own eight taken as spaces."""
    told = _number(head[148:156])
    if told is None:
        return False
    # The lower half of Adler-32 is 1 + the sum modulo 65521, in a tenth of the time of a sum in Python.
    if adler32(head[:148] + _SPACES + head[156:]) & 0xFFFF == (1 + told) % 65521:
        return True
    # Some old writers summed signed bytes.
    rest = head[:148] + head[156:]
    return told == sum(rest) + sum(_SPACES) - 256 * sum(byte > 127 for byte in rest)


def _bad_header(head: bytes, at: int, problem: str) -> TarProblem:
    if at:
        return TarProblem(f"the header at byte {at:,} is damaged, {problem}: what follows is not read")
    for magic, form in _COMPRESSED.items():
        if head.startswith(magic):
            return NotATar(f"is compressed ({form}), of which no part can be read by itself: decompress it")
    return NotATar("is no tar")


def _number(field: bytes) -> int | None:
    """Octal digits, or big-endian after a byte with the highest bit set; None for anything else."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F | (field[0] & 0x40) << 1]) + field[1:], signed=True)
    digits = field.partition(b"\0")[0].strip() or b"0"
    try:
        return int(digits, 8) if digits.isdigit() else None
    except ValueError:
        return None


def _after_sparse_map(window: Window, head: bytes, start: int) -> int:
    """Where the data begins: old GNU maps of holes go on in blocks of their own."""
    goes_on = head[482]
    while goes_on and len(block := window.read(start, BLOCK)) == BLOCK:
        start += BLOCK
        goes_on = block[504]
    return start


def _read_extra(window: Window, header: _Header, start: int, size: int, extra: _Extra) -> _Extra:
    if header.size > _MOST_EXTRA:
        problem = f"the name or the records at byte {start:,} take {header.size:,} bytes"
        raise TarProblem(f"{problem}: what follows is not read")
    if start + header.size > size or header.type in _IGNORED:
        return extra
    data = window.read(start, header.size)
    if header.type == _LONG_NAME:
        return extra._replace(name=data.partition(b"\0")[0])
    return _with_records(data, start, extra)


def _with_records(data: bytes, start: int, extra: _Extra) -> _Extra:
    """PAX: any number of `LENGTH KEY=VALUE\\n`, the length with all of that."""
    at = 0
    while at < len(data) and data[at]:
        digits = data[at : at + 20].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = data[at + len(digits) + 1 : at + length - 1]
        key, equals, value = record.partition(b"=")
        if not equals or data[at + length - 1 : at + length] != b"\n":
            raise TarProblem(f"the records at byte {start:,} are damaged: what follows is not read")
        if key == b"path" and not extra.is_sparse:  # of which it would be a made-up one
            extra = extra._replace(name=value)
        elif key == b"size":
            extra = extra._replace(size=_pax_size(value, start))
        elif key == b"GNU.sparse.name":
            extra = extra._replace(name=value, is_sparse=True)
        elif key.startswith(b"GNU.sparse."):
            extra = extra._replace(is_sparse=True)
        at += length
    return extra


def _pax_size(value: bytes, start: int) -> int:
    if not value.isdigit() or len(value) > 20:
        raise TarProblem(f"the size at byte {start:,} is no number: what follows is not read")
    return int(value)


def _check_end(window: Window, at: int, size: int) -> None:
    """Raises: TarProblem where a tar does not end as tars do."""
    if not size:
        raise NotATar("is empty")
    if at > size:
        raise TarProblem("is cut off: it ends before its last member does")
    if at + BLOCK <= size:
        if size - at > _ENDING:
            raise TarProblem(f"goes on for {size - at:,} bytes after its end mark, which are not read")
    elif at < size and not at:
        raise NotATar("is no tar")
    elif at < size and any(window.read(at, size - at)):
        raise TarProblem("is cut off within a header")
    elif at == size:
        raise TarProblem("has no end mark: it may be cut off")

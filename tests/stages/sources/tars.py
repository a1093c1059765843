"""Tars made byte by byte, also such as no program writes."""

BLOCK = 512
END = bytes(2 * BLOCK)


def header(
    name: bytes,
    size: int | bytes = 0,
    kind: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    extended: int = 0,
    checksum: bytes | None = None,
) -> bytes:
    """`size` as bytes goes into the field as it is."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    head = bytearray(BLOCK)
    for start, value in ((0, name[:100]), (124, field), (156, kind), (257, magic), (345, prefix)):
        head[start : start + len(value)] = value
    if extended:
        head[482] = extended
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head) if checksum is None else checksum
    return bytes(head)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", *, magic: bytes = b"ustar\x0000") -> bytes:
    return header(name, len(data), kind, magic=magic) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    """Of PAX, with its own length in front."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length + rest) != length:
        length = len(b"%d" % length + rest)
    return b"%d" % length + rest


def pax(**records: bytes) -> bytes:
    return member(b"pax", b"".join(record(key.encode(), value) for key, value in records.items()), b"x")

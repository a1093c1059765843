"""What a source is, and how it is read."""

from dataclasses import dataclass, field
from enum import StrEnum

from stages.stores import is_remote

# HEIC and JPEG XL are not read, but a photo that is left out has to show up as a reason.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif"),
    *(".jp2", ".j2k", ".jpx", ".pbm", ".pgm", ".ppm", ".pnm", ".ico", ".psd", ".qoi"),
    *(".heic", ".heif", ".jxl"),
)


class Kind(StrEnum):
    FOLDER = "folder"  # image files below a folder
    TAR = "tar"  # tars of images with .json and .txt companions: WebDataset, img2dataset
    PARQUET = "parquet"  # a column of images in Parquet files
    LIST = "list"  # URIs in CSV, JSON lines or Parquet files

    @property
    def has_containers(self) -> bool:
        """Whether its items lie in files that hold many."""
        return self in (Kind.TAR, Kind.PARQUET)


@dataclass(frozen=True)
class SourceConfig:
    """Where images come from, and which of what is there they are. Raises ValueError.

    `path`: a folder, for `tar`, `parquet` and `list` also a file or a pattern; local, or the URI of a bucket.
    `column`: of a Parquet file's images, or of a list's URIs. `metadata`: the columns, or keys of .json
    companions, that travel with the items; None: all. `caption`: the one that is the original caption.
    `where`: a condition on what the source says, that new items must meet. `root`: what relative URIs of a
    list are relative to; None: the list's folder.
    """

    path: str
    kind: Kind = Kind.FOLDER
    extensions: tuple[str, ...] = EXTENSIONS  # lower case, with the dot
    max_bytes: int = 256 * 2**20  # a larger file becomes a row with status `too_large`, unread
    column: str | None = None
    metadata: tuple[str, ...] | None = None
    caption: str | None = None
    where: str | None = None
    root: str | None = None
    allow_http: bool = False  # http(s) URIs in lists
    allow_private: bool = False  # also at private, loopback and link-local addresses

    def __post_init__(self) -> None:
        object.__setattr__(self, "extensions", tuple(self.extensions))
        if self.metadata is not None:
            object.__setattr__(self, "metadata", tuple(self.metadata))
        if not self.path:
            raise ValueError("source.path must name where the images are, got an empty string")
        for extension in self.extensions:
            if not extension.startswith(".") or extension != extension.lower():
                raise ValueError(
                    f"source.extensions must be lower case and start with a dot, got {extension!r}"
                )
        if self.max_bytes < 1:
            raise ValueError(f"source.max_bytes must be at least 1, got {self.max_bytes}")

    @property
    def is_waited_for(self) -> bool:
        """Whether reading waits for a network, or for a row group: shards are then read ahead of decoding."""
        return self.kind in (Kind.PARQUET, Kind.LIST) or is_remote(self.path)


@dataclass(frozen=True)
class HttpRun:
    """Limits of http(s): `concurrency` requests at a time of a process, `per_host` of them to one host.

    Raises ValueError.
    """

    concurrency: int = 64
    per_host: int = 8
    connect_timeout_s: float = 10.0
    timeout_s: float = 60.0  # of one object, all attempts and redirects together
    retries: int = 3
    max_redirects: int = 5

    def __post_init__(self) -> None:
        for key, least in (("concurrency", 1), ("per_host", 1), ("retries", 0), ("max_redirects", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"source.how.http.{key} must be at least {least}, got {getattr(self, key)}")
        for key in ("connect_timeout_s", "timeout_s"):
            if not getattr(self, key) > 0:
                raise ValueError(f"source.how.http.{key} must be more than 0, got {getattr(self, key)}")


@dataclass(frozen=True)
class SourceRun:
    """How a source is read; changes no value. Raises ValueError.

    `readers`: processes that read ahead, each `shards_ahead` shards, where reading waits for a network.
    """

    threads: int = 32  # files read at a time: a bucket takes 10 to 100 ms for each of two answers a file
    readers: int = 1
    shards_ahead: int = 2
    http: HttpRun = field(default_factory=HttpRun)

    def __post_init__(self) -> None:
        for key in ("threads", "readers", "shards_ahead"):
            if getattr(self, key) < 1:
                raise ValueError(f"source.how.{key} must be at least 1, got {getattr(self, key)}")

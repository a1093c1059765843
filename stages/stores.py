"""File systems by location: a local path, or the URI of a folder or a bucket.

`s3://BUCKET/PATH` and `gs://BUCKET/PATH`, percent-encoded where a character is not one of URIs; what is
particular to a store comes as a query: `s3://b/p?endpoint_override=minio:9000&scheme=http`. Credentials are
those that the store's own tools find: the environment, their files, the machine's role.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

# A bucket that is asked too much answers 503 for seconds, and now and then for minutes. With as many attempts
# the waits between them, which double up to 20 s, come to 30 to 60 s; Arrow's own 3 attempts to 2 s.
_ATTEMPTS = 8
_RETRIED_S = 60.0
# To tell that nothing answers at all, there is no need to wait as long.
_FIRST_ATTEMPTS, _FIRST_S = 3, 5.0
_CONNECT_TIMEOUT_S, _STALLED_S = 5.0, 20.0
_CONNECTIONS = 64  # at a time, of a process; as many as Arrow has I/O threads, which is 8 at first

_REFUSALS = ("AWS Error", "google::cloud::Status")
_NOT_FOUND = ("NO_SUCH_KEY", "HTTP status 404", "NOT_FOUND")

_LOCAL, _S3, _GS = ("file",), ("s3",), ("gs", "gcs")
_KEYS = {
    _S3: (
        "endpoint_override",
        "scheme",
        "region",
        "anonymous",
        "role_arn",
        "external_id",
        "tls_ca_file_path",
    ),
    _GS: ("endpoint_override", "scheme", "anonymous", "project_id"),
}


class Store(NamedTuple):
    """A file system, and the path of a location in it, without a slash at its end."""

    filesystem: fs.FileSystem
    root: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"


@dataclass(frozen=True)
class _Place:
    """A location, taken apart. `root`: the absolute path of a folder; BUCKET/PATH of a bucket."""

    scheme: str
    root: str
    options: Mapping[str, str]

    @property
    def bucket(self) -> str:
        return self.root.partition("/")[0]


def open_store(location: str) -> Store:
    """The same file system for the same location, as long as this process lives; asks nothing of the store.

    A process that was forked while its parent had a bucket open must not open one: Arrow's client waits for
    ever there. Raises: ValueError for a URI that no file system is known for, or with something in it that is
    not allowed there; OSError where a bucket's region cannot be found out.
    """
    place = _taken_apart(location)
    if place.scheme in _LOCAL:
        return Store(fs.LocalFileSystem(), place.root)
    return Store(_opened(location), place.root)


def is_remote(location: str) -> bool:
    """Whether every file of it comes over a network."""
    return "://" in location and not location.startswith("file://")


def check_reachable(location: str) -> None:
    """Whether there is such a bucket, and it answers; a local folder may well be made later.

    Raises: ValueError as `open_store`; OSError in one line, after seconds where nothing answers.
    """
    place = _taken_apart(location)
    if place.scheme in _LOCAL:
        return
    try:
        filesystem = _filesystem(place, _FIRST_ATTEMPTS, _FIRST_S)
        found = filesystem.get_file_info(place.root).type
        if found == fs.FileType.NotFound and place.bucket != place.root:
            found = filesystem.get_file_info(place.bucket).type
    except OSError as error:
        if "HTTP status 503" in str(error):
            return  # it is there, and busy: what comes next has more patience
        raise OSError(f"{_plain(place)} cannot be reached: {_first_line(error)}") from error
    if found == fs.FileType.NotFound:
        raise FileNotFoundError(f"{_plain(place)}: there is no bucket {place.bucket}")


def is_refused(error: BaseException) -> bool:
    """Whether a bucket gave no answer, or refused one. Damage that Arrow finds is an OSError without a number
    just the same, and only the text tells.
    """
    return isinstance(error, OSError) and any(sign in str(error) for sign in _REFUSALS)


def says_not_found(error: BaseException) -> bool:
    """Whether a bucket says of an object that was opened that it is not there any more."""
    return is_refused(error) and any(sign in str(error) for sign in _NOT_FOUND)


def split_location(location: str) -> tuple[str, str]:
    """The location of a file's folder, and the name of the file in it."""
    path, question, query = location.partition("?") if "://" in location else (location, "", "")
    folder, slash, name = path.rpartition("/")
    return (folder or slash or ".") + question + query, unquote(name) if "://" in location else name


def _taken_apart(location: str) -> _Place:
    if "://" not in location:
        return _Place("file", os.path.abspath(os.path.expanduser(location)), {})
    uri = urlsplit(location, allow_fragments=False)
    known = (*_LOCAL, *_S3, *_GS)
    if uri.scheme not in known:
        raise ValueError(f"{uri.scheme}:// is no place for files that is known; allowed: {', '.join(known)}")
    if uri.scheme in _LOCAL:
        if uri.netloc not in ("", "localhost"):
            raise ValueError(f"file://{uri.hostname}/… is on another machine; file:///… is on this one")
        return _Place("file", os.path.abspath(unquote(uri.path)), {})
    bucket, options = uri.netloc, _options(uri.scheme, uri.query)
    user, at, host = bucket.rpartition("@")
    if uri.scheme in _GS and user == "anonymous":
        bucket, options = host, {**options, "anonymous": "true"}
    elif at:
        raise ValueError(
            f"{uri.scheme}://***@{host}: a secret in a location shows in lists of processes; "
            "put it where the store's own tools find it, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not bucket:
        raise ValueError(f"{uri.scheme}:// must be followed by the name of a bucket")
    return _Place(uri.scheme, (bucket + unquote(uri.path)).rstrip("/"), options)


def _options(scheme: str, query: str) -> dict[str, str]:
    allowed = _KEYS[_S3 if scheme in _S3 else _GS]
    options = dict(parse_qsl(query, keep_blank_values=True))
    for key in options:
        if key not in allowed:
            raise ValueError(f"{scheme}://…?{key}= is not known; allowed: {', '.join(allowed)}")
    if options.get("anonymous", "true") not in ("true", "false"):
        raise ValueError(f"{scheme}://…?anonymous= must be true or false")
    return options


@cache
def _opened_in(process: int, location: str) -> fs.FileSystem:
    return _filesystem(_taken_apart(location), _ATTEMPTS, _RETRIED_S)


def _opened(location: str) -> fs.FileSystem:
    # Connections are not shared with the process that this one was forked from.
    return _opened_in(os.getpid(), location)


def _filesystem(place: _Place, attempts: int, retried_s: float) -> fs.FileSystem:
    options = dict(place.options)
    anonymous = options.pop("anonymous", "false") == "true"
    if place.scheme in _GS:
        limit = timedelta(seconds=retried_s)
        return fs.GcsFileSystem(anonymous=anonymous, retry_time_limit=limit, **options)
    pa.set_io_thread_count(max(pa.io_thread_count(), _CONNECTIONS))
    options.setdefault("endpoint_override", _endpoint() or "")
    if not options.get("region") and not options["endpoint_override"] and not _region():
        options["region"] = fs.resolve_s3_region(place.bucket)
    return fs.S3FileSystem(
        anonymous=anonymous,
        region=options.pop("region", None) or _region(),
        connect_timeout=_CONNECT_TIMEOUT_S,
        request_timeout=_STALLED_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        allow_delayed_open=True,  # a file of a few megabytes is one request, not three
        background_writes=False,  # they would copy a whole file into memory, however large
        **options,
    )


def _endpoint() -> str | None:
    """Arrow reads these only where it takes the URI apart itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _plain(place: _Place) -> str:
    where = place.options.get("endpoint_override") or (_endpoint() if place.scheme in _S3 else None)
    return f"{place.scheme}://{place.root}" + (f" at {where}" if where else "")


def _first_line(error: OSError) -> str:
    text = str(error).partition(" error_info=")[0]  # gs:// says everything twice
    return (text.splitlines() or [type(error).__name__])[0]

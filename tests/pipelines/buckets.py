"""An S3 server on loopback, in a process of its own, and buckets on it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs as pafs
import pytest

# As this is imported, before any test starts Ray, whose workers know what it knew when it started. Nothing
# looks for credentials on this machine or its network, and nothing goes through a proxy.
os.environ |= {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests"}
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
for _name in ("NO_PROXY", "no_proxy"):
    os.environ[_name] = ",".join(filter(None, [os.environ.get(_name), "127.0.0.1"]))

_REGION = "us-east-1"


@dataclass(frozen=True)
class Bucket:
    """A bucket of a server, or of a proxy before it, which listens at `port` of loopback."""

    name: str
    port: int

    @property
    def filesystem(self) -> pafs.S3FileSystem:
        return pafs.S3FileSystem(
            endpoint_override=f"http://127.0.0.1:{self.port}", region=_REGION, allow_bucket_creation=True
        )

    def url(self, path: str = "") -> str:
        where = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region={_REGION}"
        return f"s3://{self.name}/{path}?{where}"

    def put(self, folder: Path, path: str) -> None:
        """Makes what lies below a path what lies in a folder; files that are the same keep their times."""
        wanted = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in folder.rglob("*")
            if file.is_file()
        }
        filesystem, there = self.filesystem, self.files(path)
        for name in there.keys() - wanted.keys():
            filesystem.delete_file(f"{self.name}/{path}/{name}")
        for name, data in wanted.items():
            if there.get(name) != data:
                with filesystem.open_output_stream(f"{self.name}/{path}/{name}", compression=None) as stream:
                    stream.write(data)

    def files(self, path: str = "") -> dict[str, bytes]:
        """What lies below a path, by the name below it; markers of folders are no files."""
        filesystem, root = self.filesystem, f"{self.name}/{path}".rstrip("/")
        found = filesystem.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True))
        return {
            info.path.removeprefix(f"{root}/"): filesystem.open_input_file(info.path).read()
            for info in found
            if info.type == pafs.FileType.File
        }


@contextmanager
def s3_server() -> Iterator[int]:
    """The port of a server without a bucket; it ends with the block."""
    with tempfile.NamedTemporaryFile("r") as said:  # a pipe that nobody reads would stop it after 64 kB
        with open(said.name, "w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        try:
            yield _port(process, said.name)
        finally:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], said: str) -> int:
    while process.poll() is None:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", Path(said).read_text()):
            return int(found[1])
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server ended with code {process.returncode}")


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    with s3_server() as port:
        yield port


def new_bucket(port: int, name: str) -> Bucket:
    bucket = Bucket(name, port)
    bucket.filesystem.create_dir(name)
    return bucket

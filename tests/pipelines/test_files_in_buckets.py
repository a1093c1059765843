"""Files of a corpus in a bucket: whole or not at all, first writer wins, folders that are only prefixes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipelines.corpus import Corpus, CorpusError, write_parquet
from pipelines.files import Files
from pipelines.lock import LockedError, locked
from stages.stores import check_reachable, open_store, split_location
from tests.pipelines.buckets import Bucket, new_bucket, server  # noqa: F401


@pytest.fixture(scope="module")
def bucket(server: int) -> Bucket:  # noqa: F811
    return new_bucket(server, "files")


@pytest.fixture
def files(bucket: Bucket, request: pytest.FixtureRequest) -> Files:
    return Files(bucket.url(f"{request.node.name}/corpus"))


def _nothing() -> None:
    pass


def _write_half(files: Files, name: str) -> None:
    with files.writing(name) as stream:
        stream.write(b"half")
        raise KeyboardInterrupt


def _read_while_removed(corpus: Corpus) -> None:
    with corpus.open_parquet("items", "file.parquet") as file:
        corpus.delete("items", "file.parquet")
        file.read()


def test_write_in_a_bucket_is_read_back_whole(files: Files) -> None:
    large = bytes(range(256)) * (12 << 12)  # 12 MiB: several parts
    for name, data in (("empty", b""), ("small", b"some"), ("large", large)):
        files.write_bytes(data, "folder", name)
        with files.writing("folder", f"{name} stream") as stream:
            stream.write(data)
        assert files.read_bytes("folder", name) == data
        assert files.read_bytes("folder", f"{name} stream") == data
        assert files.local_file("folder", name).read_bytes() == data


def test_write_that_is_interrupted_leaves_nothing_under_the_name(files: Files, bucket: Bucket) -> None:
    files.write_bytes(b"before", "kept")
    for name in ("kept", "new"):
        with pytest.raises(KeyboardInterrupt):
            _write_half(files, name)
    assert files.read_bytes("kept") == b"before"
    assert not files.exists("new")


def test_write_whose_check_refuses_leaves_nothing(files: Files) -> None:
    def refuse() -> None:
        raise CorpusError("no")

    with pytest.raises(CorpusError), files.writing("new", check=refuse) as stream:
        stream.write(b"whole")
    with pytest.raises(CorpusError):
        files.create(b"whole", "new", check=refuse)
    assert not files.exists("new")


def test_create_keeps_what_the_first_writer_wrote(files: Files) -> None:
    for data in (b"first", b"second"):
        files.create(data, "name", check=_nothing)
    assert files.read_bytes("name") == b"first"


def test_local_file_follows_a_file_that_was_replaced(files: Files) -> None:
    for data in (b"one", b"two", b"three"):
        files.write_bytes(data, "name")
        assert files.local_file("name").read_bytes() == data
    with pytest.raises(FileNotFoundError):
        files.local_file("nothing")


def test_move_and_delete_take_a_folder_with_all_that_is_in_it(files: Files, bucket: Bucket) -> None:
    for name in ("a/one", "a/b/two", "beside", "to/old"):
        files.write_bytes(name.encode(), *name.split("/"))
    files.move("a", "to")
    files.move("beside", "quarantine/beside")
    root = files.path().removeprefix(f"{bucket.name}/").rstrip("/")
    assert bucket.files(root) == {"to/one": b"a/one", "to/b/two": b"a/b/two", "quarantine/beside": b"beside"}
    files.delete_tree("to")
    files.delete("quarantine/beside")
    files.delete("quarantine/beside")
    files.delete_tree("to")
    assert bucket.files(root) == {}
    assert files.entries("never", "there") == []


def test_large_file_that_is_removed_while_it_is_read_is_not_found(files: Files) -> None:
    corpus = Corpus(files.location)
    large = pa.table({"image_id": np.random.default_rng(0).integers(1 << 62, size=1_200_000)})
    write_parquet(corpus, large, "items", "file.parquet")
    assert (corpus.entries("items")[0].size or 0) > 8 << 20
    with pytest.raises(FileNotFoundError):
        _read_while_removed(corpus)


def test_damage_in_a_bucket_is_a_corpus_error_that_names_the_file(files: Files) -> None:
    corpus = Corpus(files.location)
    write_parquet(corpus, pa.table({"image_id": pa.array(range(1000))}), "items", "file.parquet")
    data = bytearray(corpus.read_bytes("items", "file.parquet"))
    data[40] ^= 1
    corpus.write_bytes(bytes(data), "items", "file.parquet")
    with pytest.raises(CorpusError, match=r"items/file\.parquet"):
        corpus.read_parquet("items", "file.parquet")


def test_lock_of_a_bucket_is_refused_to_a_second_run_and_free_after_the_first(files: Files) -> None:
    corpus = Corpus(files.location)
    with locked(corpus) as held:
        with pytest.raises(LockedError), locked(Corpus(files.location)):
            pass
        held.check_fence()
    with locked(corpus):
        pass


# Locations


def test_location_without_a_bucket_that_is_there_is_refused_in_one_line(bucket: Bucket) -> None:
    missing = Bucket("never-made", bucket.port)
    with pytest.raises(FileNotFoundError, match="never-made") as caught:
        check_reachable(missing.url("corpus"))
    assert "\n" not in str(caught.value)
    check_reachable(bucket.url("nothing/here"))


def test_location_that_nobody_answers_at_is_refused_in_one_line() -> None:
    with pytest.raises(OSError, match="cannot be reached") as caught:
        check_reachable("s3://bucket/corpus?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "named"),
    [
        ("s3://user:verysecret@bucket/x", "AWS_ACCESS_KEY_ID"),
        ("s3://bucket/x?secret_key=verysecret", "secret_key"),
        ("s3://bucket/x?anonymous=verysecret", "anonymous"),
        ("abc://bucket/x", "s3"),
        ("s3:///x", "bucket"),
        ("file://host/x", "host"),
    ],
)
def test_location_with_what_is_not_allowed_is_refused_without_its_secret(location: str, named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        open_store(location)
    assert "verysecret" not in str(caught.value)


def test_location_takes_endpoint_and_region_from_the_environment(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.filesystem.open_output_stream(f"{bucket.name}/of the environment").close()
    for number, name in enumerate(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")):
        monkeypatch.setenv(name, f"http://127.0.0.1:{bucket.port if number else 9}")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert Files(f"s3://{bucket.name}").exists("of the environment")


def test_location_is_unquoted_and_a_folder_by_uri_is_that_folder(tmp_path: Path, bucket: Bucket) -> None:
    assert open_store(f"file://{tmp_path}/a%20b").root == f"{tmp_path}/a b"
    assert open_store(f"{tmp_path}/a%20b/").root == f"{tmp_path}/a%20b"
    assert open_store(bucket.url("a%20b/c/")).root == f"{bucket.name}/a b/c"


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_location_of_google_takes_its_own_options_and_no_user(scheme: str) -> None:
    where = f"{scheme}://anonymous@bucket/a%20b?endpoint_override=127.0.0.1:9&scheme=http"
    assert open_store(where).root == "bucket/a b"
    assert not open_store(where).is_local
    with pytest.raises(ValueError, match="region"):
        open_store(f"{scheme}://bucket/x?region=eu")
    with pytest.raises(ValueError, match="secret"):
        open_store(f"{scheme}://user:password@bucket/x")


def test_split_location_parts_the_name_from_the_folder_and_keeps_the_query() -> None:
    assert split_location("s3://b/f/out.parquet?scheme=http") == ("s3://b/f?scheme=http", "out.parquet")
    assert split_location("out.parquet") == (".", "out.parquet")
    assert split_location("/out.parquet") == ("/", "out.parquet")
    assert split_location("f/g/out.parquet") == ("f/g", "out.parquet")


_HOLDS = """
import sys, time
from pipelines.corpus import Corpus
from pipelines.lock import locked
with locked(Corpus(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_lock_of_a_bucket_is_free_once_its_holder_was_killed(files: Files) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS, files.location], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(LockedError, match=str(holder.pid)), locked(Corpus(files.location)):
                pass
        finally:
            holder.kill()
            holder.wait()
        with locked(Corpus(files.location)) as held:
            held.check_fence()

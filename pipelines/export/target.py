"""Where an export goes: a folder, or a prefix of a bucket, that holds nothing else.

Files appear under their names when they are whole. While an export is under way, a folder beside them says
of what it is, and which files are done: so the same command goes on, and another one starts over.
"""

import json
import re
from typing import Any

import pyarrow.fs as pafs

from pipelines.config import ConfigError
from pipelines.corpus import Corpus, fingerprint
from pipelines.export.tally import Tally
from pipelines.files import Files

_UNDERWAY = ".export"
_STATE = "state.json"

_OURS = re.compile(
    r"\d{5,}\.(tar|parquet)|\d{5,}_stats\.json|train-\d{5,}\.parquet|img_emb/img_emb_\d{5,}\.npy"
    r"|metadata/metadata_\d{5,}\.parquet|image\.index|index\.faiss|captions\.json|items\.jsonl(\.gz)?"
)
"""The names, below the target, that exports write: `overwrite` removes no others."""


class Target:
    """Raises: ConfigError where `to` is in the corpus, or is no folder."""

    def __init__(self, location: str, corpus: Corpus) -> None:
        self.files = Files(location)
        inside = f"{self.files.path()}/".startswith(f"{corpus.path()}/")
        if inside and (self.files.local_root is None) == (corpus.local_root is None):
            raise ConfigError(f"to must not lie in the corpus, got {location}")
        if self.files.filesystem.get_file_info(self.files.path()).type == pafs.FileType.File:
            raise ConfigError(f"to must be a folder, {location} is a file")
        self._location = location

    def begin(self, state: dict[str, Any], overwrite: bool) -> None:
        """Takes up an export of this state where one was interrupted, or starts with an empty folder.

        Raises: ConfigError where the folder holds something else.
        """
        stamp = fingerprint(state)
        found = self._state()
        if found == stamp:
            self.files.remove_partial_files()
            return
        if found is None and not overwrite and self.files.entries():
            raise ConfigError(
                f"to must be a new or an empty folder, {self._location} is not: "
                "overwrite=true replaces an export that is there"
            )
        self._clear()
        self.files.write_bytes(json.dumps({"state": stamp}).encode(), _UNDERWAY, _STATE)

    def _state(self) -> str | None:
        """Of what an unfinished export is; empty where that cannot be told."""
        try:
            return str(json.loads(self.files.read_bytes(_UNDERWAY, _STATE))["state"])
        except FileNotFoundError:
            return "" if self.files.entries(_UNDERWAY) else None
        except (ValueError, KeyError, TypeError):
            return ""

    def _clear(self) -> None:
        """What exports write. The record goes last: what is left of a folder is then known for ours."""
        self.files.remove_partial_files()
        root = self.files.path()
        for entry in self.files.entries(recursive=True):
            name = entry.path.removeprefix(f"{root}/")
            if entry.type == pafs.FileType.File and _OURS.fullmatch(name):
                self.files.delete(name)
        self.files.delete_tree(_UNDERWAY)

    def done(self, number: int) -> Tally | None:
        """What became of the items of a file that is there; None where it is still to be written."""
        try:
            return Tally.from_dict(json.loads(self.files.read_bytes(_UNDERWAY, f"{number:05d}.json")))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def finish(self, number: int, tally: Tally) -> None:
        self.files.write_bytes(json.dumps(tally.to_dict()).encode(), _UNDERWAY, f"{number:05d}.json")

    def end(self) -> None:
        """Nothing but the export itself stays."""
        self.files.delete_tree(_UNDERWAY)

"""Nothing that is read can run code, no secret is written down, and no port is open to others."""

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipelines import cli
from stages.checkpoints import POCKET, Device, Dtype, ModelLoadError
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.local.loading import load_model
from stages.isolation.wire import Raised, unpack_reply
from stages.pocket.corpus import write_pictures
from stages.towers import load_image_tower, load_text_tower, load_tokenizer

ROOT = Path(__file__).parents[1]
FOLDERS = ("conf", "pipelines", "darkroom", "stages", "scripts")
SOURCES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/**/*.py"))

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# What a process sends to the child that it started itself to decode hostile images; never what comes back.
ISOLATION = ("isolate", "isolation/child", "isolation/process")
PICKLE_DOORS = {f"stages/{name}.py" for name in ISOLATION}
RUNS_CODE = {"eval", "exec", "compile", "os.system", "os.popen", "torch.jit.load"}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dangers(source: str) -> list[str]:
    """What in a module could run code that it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PICKLES:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            found += _dangers_of(node)
    return found


def _dangers_of(call: ast.Call) -> Iterator[str]:
    called = ast.unparse(call.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if called in RUNS_CODE or called.endswith(("read_pickle", "load_module")):
        yield called
    if called == "torch.load" and given.get("weights_only") != "True":
        yield called
    if called in ("yaml.load", "yaml.load_all") and "Safe" not in given.get("Loader", ""):
        yield called
    if given.get("allow_pickle", "False") != "False" or given.get("weights_only", "True") != "True":
        yield ast.unparse(call)
    if given.get("trust_remote_code", "False") != "False" or given.get("shell", "False") != "False":
        yield ast.unparse(call)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_module_reads_nothing_that_can_run_code(path: Path) -> None:
    found = dangers(path.read_text("utf-8"))
    assert [one for one in found if not (one == "pickle" and _name(path) in PICKLE_DOORS)] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "np.load('a', allow_pickle=setting)",
        "torch.load('a.pt')",
        "AutoModel.from_pretrained('a', trust_remote_code=config.trust)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_dangers_of_a_source_that_runs_what_it_reads_are_found(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize(
    "named", [("builtins", "exec"), ("os", "mkdir"), ("stages.isolate", "pickle")], ids=str
)
def test_reply_of_a_decoder_that_names_code_runs_none_of_it(named: tuple[str, str], marker: Path) -> None:
    module, name = named
    said = [f"import os; os.mkdir({str(marker)!r})" if name == "exec" else str(marker)]
    reply = {"kind": "Raised", "module": module, "name": name, "arguments": said, "trace": ""}
    raised = unpack_reply(json.dumps(reply).encode())
    assert isinstance(raised, Raised)
    assert type(raised.rebuilt()) is RuntimeError
    assert not marker.exists()


# Checkpoints that carry code


class Marking:
    """Unpickled, it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code-was-run"


def _carrying_code(kind: str, folder: Path, marker: Path, model_type: str | None) -> Path:
    """A shipped checkpoint whose configs name classes in a module that marks that it was imported."""
    shutil.copytree(POCKET / kind, folder)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    names = ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor", "AutoImageProcessor")
    code = {name: "evil.Evil" for name in names} | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    for file in folder.glob("*config.json"):
        config = json.loads(file.read_text())
        config["auto_map"] = code
        if model_type and file.name == "config.json":
            config["model_type"] = model_type
        if model_type and file.name != "config.json":
            config |= {key: "Evil" for key in ("processor_class", "tokenizer_class") if key in config}
        file.write_text(json.dumps(config))
    return folder


LOADERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "image tower": ("encoder", lambda folder: load_image_tower(folder, Dtype.FLOAT32, Device.CPU)),
    "text tower": ("encoder", lambda folder: load_text_tower(folder, Dtype.FLOAT32, Device.CPU)),
    "tokenizer": ("encoder", load_tokenizer),
    "generator": ("captioner", lambda folder: load_model(GeneratorConfig(str(folder)), GeneratorRun())),
}


@pytest.mark.parametrize("model_type", [None, "evil"])
@pytest.mark.parametrize("loader", LOADERS)
def test_checkpoint_that_carries_code_is_loaded_without_it_or_refused(
    tmp_path: Path, marker: Path, loader: str, model_type: str | None
) -> None:
    kind, load = LOADERS[loader]
    folder = _carrying_code(kind, tmp_path / "checkpoint", marker, model_type)
    if model_type is None:
        load(folder)
    else:
        # A tokenizer's own file may be enough to load it: all that counts is that the code stays unused.
        with suppress(ModelLoadError):
            load(folder)
    assert not marker.exists()


@pytest.mark.parametrize("loader", ["image tower", "text tower", "generator"])
def test_checkpoint_of_pickled_weights_is_refused_in_one_line_unread(
    tmp_path: Path, marker: Path, loader: str
) -> None:
    kind, load = LOADERS[loader]
    folder = tmp_path / "checkpoint"
    shutil.copytree(POCKET / kind, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Marking(marker)))
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin") as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


# Secrets

SECRETS = {
    "HF_TOKEN": "hf_neverwritten0000000000",
    "AWS_SECRET_ACCESS_KEY": "aws-never-written",
    "OPENAI_API_KEY": "sk-never-written-0000000000",
    "MLFLOW_TRACKING_PASSWORD": "mlflow-never-written",
}
PASSWORD = "hunter2-never-written"


@dataclass(frozen=True)
class Night:
    """A night of three pictures in this process, with secrets in its environment."""

    folder: Path
    capfd: pytest.CaptureFixture[str]

    def run(self, *words: str) -> int:
        write_pictures(self.folder / "photos", 3, seed=5)
        night = ["nightly", f"source.path={self.folder / 'photos'}", f"corpus={self.folder / 'corpus'}"]
        return cli.main([*night, "cluster=local", "captioner=none", "index=none", *words])

    def places_with_secrets(self) -> list[str]:
        said = self.capfd.readouterr()
        files = {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        places = files | {"output": said.out.encode(), "errors": said.err.encode()}
        secrets = [secret.encode() for secret in (*SECRETS.values(), PASSWORD)]
        return [place for place, text in places.items() if any(secret in text for secret in secrets)]


@pytest.fixture
def night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Night:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    return Night(tmp_path, capfd)


def test_secrets_of_the_environment_are_in_no_file_and_no_output(night: Night) -> None:
    assert night.run() == 0
    assert list(night.folder.glob("corpus/runs/*/report.html"))
    assert (night.folder / "corpus/mlflow/mlflow.db").exists()
    assert night.places_with_secrets() == []


def test_password_in_an_address_is_in_no_file_and_no_output(night: Night) -> None:
    assert night.run(f"tracking.uri=http://me:{PASSWORD}@127.0.0.1:9/?token={PASSWORD}") == 0
    (config,) = night.folder.glob("corpus/runs/*/config.yaml")
    assert "127.0.0.1:9" in config.read_text()
    assert night.places_with_secrets() == []


def test_password_in_a_wrong_value_is_not_repeated_in_the_complaint(night: Night) -> None:
    assert night.run(f"encoder.what.model=https://me:{PASSWORD}@models.test/clip") == 2
    said = night.capfd.readouterr()
    assert "models.test" in said.err
    assert PASSWORD not in said.out + said.err


# Ports

PORTS = """
import os, psutil
from pipelines.flow import ClusterConfig, connect
connect(ClusterConfig(cpus=1), steps=())
import ray
ray.get(ray.remote(lambda: 1).remote())
for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
    for open in process.net_connections("inet"):
        if open.status == psutil.CONN_LISTEN:
            print(open.laddr.ip)
print("token", os.environ["RAY_AUTH_MODE"])
ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_cluster_started_here_listens_on_loopback_only_and_asks_for_a_token(tmp_path: Path) -> None:
    home = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    said = subprocess.check_output(
        [sys.executable, "-c", PORTS], env={**home, "HOME": str(tmp_path)}, text=True
    ).split()
    assert said[-2:] == ["token", "token"]
    addresses = said[:-2]
    assert len(addresses) >= 4
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}
    assert list(tmp_path.iterdir()) == []

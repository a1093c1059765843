import hashlib
import json
import logging.handlers
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from stages.checkpoints import (
    Device,
    Dtype,
    ModelLoadError,
    load,
    quiet,
    read_json,
    resolve,
    torch_device,
    torch_dtype,
    weights_digest,
)
from tests.stages.tiny_encoders import save_encoder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("siglip"), "siglip")


@pytest.fixture
def copy(siglip: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(siglip, tmp_path / "copy"))


def rewrite(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_resolve_existing_folder_is_used_as_it_is(siglip: Path) -> None:
    assert resolve(str(siglip)) == siglip


@pytest.mark.parametrize("name", ["pocket:nothing", "pocket:", "pocket:../index", "pocket:encoder/.."])
def test_resolve_pocket_model_that_does_not_ship_raises(name: str) -> None:
    with pytest.raises(ModelLoadError, match=r"does not ship with Darkroom: allowed are .*hub id$"):
        resolve(name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./clip", "a/b/c", "two words"])
def test_resolve_name_that_cannot_be_a_hub_id_raises_and_says_what_is_allowed(name: str) -> None:
    with pytest.raises(ModelLoadError, match=r"does not exist: allowed are .*a checkpoint folder"):
        resolve(name)


def test_resolve_uncached_hub_id_without_network_raises_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ModelLoadError, match=r"'openai/clip' at revision v1 is neither in the .* cache"
    ) as raised:
        resolve("openai/clip", "v1")
    assert "\n" not in str(raised.value)


def test_resolve_cached_hub_id_without_network_gives_its_snapshot(
    siglip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    commit = "a" * 40
    repository = tmp_path / "models--someone--siglip"
    snapshot = Path(shutil.copytree(siglip, repository / "snapshots" / commit))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve("someone/siglip") == snapshot


def test_load_complete_checkpoint_gives_the_saved_weights_in_eval_mode(siglip: Path) -> None:
    model = load(transformers.SiglipModel, siglip, Dtype.FLOAT32, Device.CPU)
    saved = load_file(siglip / "model.safetensors")
    assert not model.training
    assert torch.equal(model.logit_scale, saved["logit_scale"])


def test_load_missing_tensor_raises_and_names_it(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["vision_model.post_layernorm.weight"]
    rewrite(copy, tensors)
    with pytest.raises(
        ModelLoadError, match=r"not a complete checkpoint: it misses vision_model.post_layernorm.weight$"
    ):
        load(transformers.SiglipModel, copy)


def test_load_tensor_of_another_shape_raises_and_names_it(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["vision_model.post_layernorm.weight"] = torch.zeros(7)
    rewrite(copy, tensors)
    with pytest.raises(ModelLoadError, match=r"has other shapes of vision_model.post_layernorm.weight$"):
        load(transformers.SiglipModel, copy)


def test_load_pickled_weights_only_raises_without_reading_them(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ModelLoadError, match=r"only pickled weights \(pytorch_model.bin\)"):
        load(transformers.SiglipModel, copy)


def test_load_truncated_weights_raises_one_line(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="cannot be loaded") as raised:
        load(transformers.SiglipModel, copy)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("vision", [3, {"hidden_size": "wide"}, {"hidden_size": 63}, {"hidden_act": "none"}])
def test_load_broken_config_raises_one_line(copy: Path, vision: object) -> None:
    config = read_json(copy, "config.json") | {"vision_config": vision}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="cannot be loaded") as raised:
        load(transformers.SiglipVisionModel, copy)
    assert "\n" not in str(raised.value)


def test_load_checkpoint_with_code_of_its_own_does_not_run_it(copy: Path) -> None:
    config = read_json(copy, "config.json")
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "code.py").write_text("raise SystemExit('the code of a checkpoint ran')")
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        load(transformers.AutoModel, copy)


def test_load_part_of_a_checkpoint_is_silent(siglip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handler = logging.handlers.BufferingHandler(capacity=100)
    logging.getLogger("transformers").addHandler(handler)
    load(transformers.SiglipVisionModel, siglip)
    logging.getLogger("transformers").removeHandler(handler)
    assert handler.buffer == []
    assert "".join(capfd.readouterr()) == ""


def test_quiet_puts_the_settings_of_transformers_back() -> None:
    settings = transformers.utils.logging
    before = (settings.get_verbosity(), settings.is_progress_bar_enabled())
    with quiet():
        assert not settings.is_progress_bar_enabled()
    assert (settings.get_verbosity(), settings.is_progress_bar_enabled()) == before


def test_dtype_auto_is_float32_on_the_cpu_and_bfloat16_on_a_gpu() -> None:
    assert torch_dtype(Dtype.AUTO, torch.device("cpu")) is torch.float32
    assert torch_dtype(Dtype.AUTO, torch.device("cuda")) is torch.bfloat16


def test_load_dtype_is_the_one_asked_for(siglip: Path) -> None:
    assert load(transformers.SiglipModel, siglip, Dtype.BFLOAT16, Device.CPU).dtype is torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a GPU that is not there")
def test_device_cuda_without_a_gpu_raises() -> None:
    with pytest.raises(ModelLoadError, match="device cuda is not available"):
        torch_device(Device.CUDA)


def test_weights_digest_is_of_contents_and_not_of_the_place(siglip: Path, copy: Path) -> None:
    assert weights_digest(copy) == weights_digest(siglip)


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"]
)
def test_weights_digest_changes_with_any_file_that_changes_values(copy: Path, name: str) -> None:
    before = weights_digest(copy)
    changed = bytearray((copy / name).read_bytes())
    changed[-1] ^= 1
    (copy / name).write_bytes(changed)
    assert weights_digest(copy) != before


def test_weights_digest_ignores_the_readme(copy: Path) -> None:
    before = weights_digest(copy)
    (copy / "README.md").write_text("about the model")
    assert weights_digest(copy) == before


def test_weights_digest_takes_the_name_of_a_hub_blob_for_its_hash(copy: Path, tmp_path: Path) -> None:
    before = weights_digest(copy)
    weights = copy / "model.safetensors"
    blob = tmp_path / "blobs" / hashlib.sha256(weights.read_bytes()).hexdigest()
    blob.parent.mkdir()
    weights.rename(blob)
    blob.write_bytes(b"not read again")
    weights.symlink_to(blob)
    assert weights_digest(copy) == before


def test_weights_digest_of_a_folder_without_checkpoint_raises(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds no checkpoint"):
        weights_digest(tmp_path)


def test_read_json_broken_or_absent_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    for name in ("config.json", "absent.json"):
        with pytest.raises(ModelLoadError, match=f"{name} cannot be read"):
            read_json(tmp_path, name)

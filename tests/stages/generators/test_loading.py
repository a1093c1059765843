"""What must not load: each of these would write wrong texts in silence, run code, or fail in the night."""

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.batching import OnOom
from stages.checkpoints import Device, ModelLoadError
from stages.generators.backends import generator_view
from stages.generators.config import GeneratorConfig, GeneratorRun, Quantization
from stages.generators.local.loading import LoadedModel, load_model
from tests.stages.generators.tiny_models import SIDE, save_model

RUN = GeneratorRun(device=Device.CPU, threads=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folders: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = save_model(tmp_path_factory.mktemp(kind), kind)
        return folders[kind]

    return folder


def load(folder: Path, **what: Any) -> LoadedModel:
    return load_model(GeneratorConfig(str(folder), **what), RUN)


def rewrite(file: Path, **changes: Any) -> None:
    """Other values in a JSON file; those of a section are merged into it, None takes a key out."""
    content = json.loads(file.read_text("utf-8"))
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) and key in content else value
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), "utf-8")


@pytest.fixture
def copied(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / kind))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("deepseek_vl", {"num_image_tokens": 15}),
        ("deepseek_vl_hybrid", {"num_image_tokens": 17}),
        ("llava", {"patch_size": 16}),
        ("llava", {"vision_feature_select_strategy": "full"}),
        ("blip2", {"num_query_tokens": 3}),
        ("blip2", {"num_query_tokens": None}),
        ("idefics3", {"image_seq_len": 8}),
        ("smolvlm", {"image_seq_len": 8}),
        ("internvl", {"image_seq_length": 5}),
        ("llava_onevision", {"num_image_tokens": 9}),
        ("qwen2_5_vl", {"image_processor": {"merge_size": 1}}),
        ("qwen3_vl", {"image_processor": {"patch_size": 16}}),
        ("florence2", {"image_processor": {"image_seq_length": 16}}),
        ("llava", {"image_processor": {"crop_size": {"height": 40, "width": 40}}}),
    ],
)
def test_load_model_processor_that_does_not_fit_its_model_is_refused_in_one_line(
    copied: Callable[[str], Path], kind: str, changes: dict[str, Any]
) -> None:
    folder = copied(kind)
    rewrite(folder / "processor_config.json", **changes)
    with pytest.raises(ModelLoadError, match=r"^[^\n]*does not fit its model[^\n]*$"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["BlipForQuestionAnswering"]}, "BlipForConditionalGeneration is wanted"),
        ({"model_type": "clip"}, "holds a clip"),
        ({"model_type": "multi_modality"}, "multi_modality"),
    ],
)
def test_load_model_checkpoint_of_another_class_is_refused_by_name(
    copied: Callable[[str], Path], changes: dict[str, Any], named: str
) -> None:
    folder = copied("blip")
    rewrite(folder / "config.json", **changes)
    with pytest.raises(ModelLoadError, match=rf"^[^\n]*{named}[^\n]*$"):
        load(folder)


def test_load_model_code_of_the_checkpoint_is_neither_run_nor_asked_about(
    copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("blip")
    ran = tmp_path / "ran"
    code = f"from pathlib import Path\nPath({str(ran)!r}).touch()\nclass Config: pass\nclass Model: pass\n"
    (folder / "own.py").write_text(code, "utf-8")
    auto = {"AutoConfig": "own.Config", "AutoModelForImageTextToText": "own.Model"}
    rewrite(folder / "config.json", model_type="its_own", auto_map=auto, architectures=["Model"])
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what transformers asks on a terminal
    with pytest.raises(ModelLoadError, match=r"^[^\n]+$"):
        load(folder)
    assert not ran.exists()


def test_load_model_pickled_weights_are_refused_by_name(copied: Callable[[str], Path]) -> None:
    folder = copied("blip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match=r"pytorch_model\.bin"):
        load(folder)


def test_load_model_tensor_of_another_shape_is_refused_by_name(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_5_vl")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("mlp.up_proj.weight"))
    save_file({**weights, name: weights[name][:-1]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"other shapes of [^\n]*up_proj"):
        load(folder)


def test_load_model_tied_weights_are_in_the_file_once_and_miss_nothing(copied: Callable[[str], Path]) -> None:
    folder = copied("florence2")
    assert not any("lm_head" in name for name in load_file(folder / "model.safetensors"))
    model = load(folder).model
    words = model.get_input_embeddings().weight
    assert model.get_output_embeddings().weight.data_ptr() == words.data_ptr()


@pytest.mark.parametrize("kind", ["florence2", "qwen2_5_vl", "blip2"])
def test_load_model_tokenizer_without_padding_is_refused_in_one_line(
    copied: Callable[[str], Path], kind: str
) -> None:
    folder = copied(kind)
    rewrite(folder / "tokenizer_config.json", pad_token=None)
    with pytest.raises(ModelLoadError, match=r"^[^\n]*cannot pad[^\n]*$"):
        load(folder)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_load_model_processor_that_needs_torchvision_is_refused_by_name(
    copied: Callable[[str], Path],
) -> None:
    folder = copied("blip")
    (folder / "config.json").write_text(json.dumps({"model_type": "glm4v"}), "utf-8")
    (folder / "processor_config.json").unlink()
    settings = {"image_processor_type": "Glm4vImageProcessor", "processor_class": "Glm4vProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(ModelLoadError, match=r"^[^\n]* needs torchvision[^\n]*$"):
        load(folder)


def test_load_model_without_its_chat_template_is_refused_in_one_line(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2_5_vl")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelLoadError, match=r"^[^\n]*no chat template$"):
        load(folder)


@pytest.mark.parametrize("kind", ["deepseek_vl", "qwen2_5_vl", "smolvlm", "internvl", "llava_onevision"])
def test_load_model_files_laid_out_as_before_transformers_5_load_the_same(
    copied: Callable[[str], Path], saved: Callable[[str], Path], kind: str
) -> None:
    folder = copied(kind)
    settings = json.loads((folder / "processor_config.json").read_text("utf-8"))
    (folder / "preprocessor_config.json").write_text(json.dumps(settings.pop("image_processor")), "utf-8")
    (folder / "processor_config.json").write_text(json.dumps(settings), "utf-8")
    template = (folder / "chat_template.jinja").read_text("utf-8")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), "utf-8")
    (folder / "chat_template.jinja").unlink()
    old, new = load(folder).processor, load(saved(kind)).processor
    assert old.chat_template == new.chat_template
    assert old.image_processor.to_dict() == new.image_processor.to_dict()


@pytest.mark.parametrize(("kind", "side"), [("qwen2_5_vl", "left"), ("florence2", "right")])
@pytest.mark.parametrize("stored", ["left", "right"])
def test_load_model_pads_on_the_side_of_its_class_whatever_is_stored(
    copied: Callable[[str], Path], kind: str, side: str, stored: str
) -> None:
    folder = copied(kind)
    rewrite(folder / "tokenizer_config.json", padding_side=stored)
    loaded = load(folder)
    assert loaded.processor.tokenizer.padding_side == loaded.padding_side == side


@pytest.mark.parametrize(
    ("kind", "side"),
    [
        ("deepseek_vl", SIDE),  # pads to a square
        ("deepseek_vl_hybrid", 2 * SIDE),  # its second tower's
        ("blip", 2 * SIDE),  # stretches to a square: 2:1 wants twice the side
        ("blip2", 2 * SIDE),
        ("florence2", 2 * SIDE),
        ("llava", 2 * SIDE),
        ("llava_onevision", 2 * SIDE),  # its largest grid
        ("smolvlm", 2 * SIDE),
        ("internvl", 2 * SIDE),  # two tiles of up to four
        ("qwen2_5_vl", 68),  # 48 * 48 pixels: 68 by 34
        ("qwen3_vl", 68),
    ],
)
def test_generator_view_is_as_large_as_the_processor_of_a_family_uses(
    saved: Callable[[str], Path], kind: str, side: int
) -> None:
    assert generator_view(GeneratorConfig(str(saved(kind)))).size == side


@pytest.mark.parametrize(
    ("kind", "changes", "side"),
    [
        ("smolvlm", {"do_image_splitting": False}, SIDE),
        ("qwen2_5_vl", {"max_pixels": 64 * 64, "size": None}, 91),  # as written before transformers 5
        ("qwen2_5_vl", {"size": {"longest_edge": 16_777_216}}, 1536),  # no larger view is stored
    ],
)
def test_generator_view_follows_the_settings_of_the_processor(
    copied: Callable[[str], Path], kind: str, changes: dict[str, Any], side: int
) -> None:
    folder = copied(kind)
    settings = json.loads((folder / "processor_config.json").read_text("utf-8"))["image_processor"]
    rewrite(folder / "processor_config.json", image_processor=None)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), "utf-8")
    (folder / "processor_config.json").unlink()
    rewrite(folder / "preprocessor_config.json", **changes)
    assert generator_view(GeneratorConfig(str(folder))).size == side


@pytest.mark.parametrize("bits", [Quantization.INT8, Quantization.NF4])
def test_load_model_quantized_without_the_library_names_it(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, bits: Quantization
) -> None:
    monkeypatch.setattr("stages.generators.local.quantization.find_spec", lambda name: None)
    with pytest.raises(ModelLoadError, match=r"^[^\n]*bitsandbytes[^\n]*pip install[^\n]*$"):
        load(saved("llava"), quantization=bits)


def test_load_model_quantized_on_a_cpu_asks_for_a_gpu(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelLoadError, match=r"^[^\n]*GPU[^\n]*$"):
        load(saved("llava"), quantization=Quantization.NF4)


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [Quantization.INT8, Quantization.NF4])
def test_load_model_quantized_on_a_gpu_holds_the_weights_in_fewer_bits(
    saved: Callable[[str], Path], bits: Quantization
) -> None:
    pytest.importorskip("bitsandbytes")
    config = GeneratorConfig(str(saved("llava")), quantization=bits)
    model = load_model(config, GeneratorRun(device=Device.CUDA)).model
    weight = model.model.language_model.layers[0].mlp.up_proj.weight
    assert weight.dtype in (torch.int8, torch.uint8)
    with pytest.raises(ModelLoadError, match="on_oom"):
        load_model(config, GeneratorRun(device=Device.CUDA, on_oom=OnOom.CPU))

import dataclasses
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from stages.base import Image, pack_views
from stages.checkpoints import Device, Dtype, ModelLoadError, resolve
from stages.embed import (
    EmbedConfig,
    EmbedError,
    EmbedImages,
    EmbedRun,
    TextEncoder,
    embedding_dim,
    encoder_view,
)
from stages.resize import Policy, ResizeConfig, apply, plan_resize
from stages.schemas import embedding_column
from tests.stages.tiny_encoders import DIMS, SIDE, TEXT_LENGTH, photographs, reference, save_encoder

RUN = EmbedRun(batch_size=4, device=Device.CPU, threads=1)
TEXTS = ["a cat", "a red cup of coffee on the moon", "rocket"]

Checkpoints = Callable[[str], Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    @cache
    def saved(kind: str) -> Path:
        return save_encoder(tmp_path_factory.mktemp(kind), kind)

    return saved


def views(images: Sequence[Image], config: EmbedConfig) -> list[Image]:
    view = encoder_view(config)
    return [apply(image, plan_resize(image.shape[0], image.shape[1], view)) for image in images]


def shard(images: Sequence[Image | None]) -> pa.Table:
    ids = pa.array(range(1000, 1000 + len(images)), pa.int64())
    ends = [("ok", None) if image is not None else ("truncated", "cut") for image in images]
    statuses, errors = (pa.array([end[part] for end in ends], pa.string()) for part in (0, 1))
    return pa.table({"image_id": ids, "status": statuses, "error": errors, "view:small": pack_views(images)})


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.column("embedding").to_pylist()
    return rows


def embed(
    config: EmbedConfig, images: Sequence[Image | None], run: EmbedRun = RUN
) -> npt.NDArray[np.float32]:
    made = [row["embedding"] for row in rows_of(EmbedImages(config, run, "small")(shard(images)))]
    return np.array([vector for vector in made if vector is not None], dtype=np.float32)


def noise(*sides: tuple[int, int]) -> list[Image]:
    random = np.random.default_rng(7)
    return [random.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sides]


@pytest.mark.parametrize("kind", DIMS)
def test_embed_photographs_agree_with_the_processor_and_model_of_transformers(
    checkpoint: Checkpoints, kind: str
) -> None:
    photos = list(photographs().values())
    config = EmbedConfig(str(checkpoint(kind)))
    expected = reference(checkpoint(kind), photos).numpy()
    cosines = (embed(config, views(photos, config)) * expected).sum(axis=1)
    assert cosines.mean() >= 0.999
    assert cosines.min() >= 0.99
    # What makes the above mean something: other pictures, and the same ones a tenth darker, are further off.
    others = (expected @ expected.T)[~np.eye(len(photos), dtype=bool)]
    assert others.max() < 0.98
    darker = [(photo * 0.9).astype(np.uint8) for photo in photos]
    assert ((embed(config, views(darker, config)) * expected).sum(axis=1)).mean() < 0.99


@pytest.mark.parametrize("kind", DIMS)
def test_embed_adds_unit_float16_vectors_and_keeps_rows_and_nulls(checkpoint: Checkpoints, kind: str) -> None:
    first, second = noise((SIDE, SIDE), (SIDE, SIDE))
    rows = shard([None, first, None, second, first])
    config = EmbedConfig(str(checkpoint(kind)))
    result = EmbedImages(config, RUN, "small")(rows)
    assert result.select(rows.column_names).equals(rows)
    assert result.column("embedding").type == embedding_column(DIMS[kind])
    made = rows_of(result)
    assert made[0] == made[2] == {"embedding": None, "status": "truncated", "error": "cut"}
    assert {(made[row]["status"], made[row]["error"]) for row in (1, 3, 4)} == {("ok", None)}
    vectors = np.array([made[row]["embedding"] for row in (1, 3, 4)])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert vectors[0] @ vectors[1] < 0.999


@pytest.mark.parametrize("kind", DIMS)
@pytest.mark.parametrize("batch_size", [2, 7])
def test_embed_row_alone_or_in_a_batch_is_the_same(
    checkpoint: Checkpoints, kind: str, batch_size: int
) -> None:
    config = EmbedConfig(str(checkpoint(kind)))
    pictures = views(list(photographs().values()), config)
    together = embed(config, pictures, dataclasses.replace(RUN, batch_size=batch_size))
    alone = embed(config, pictures, dataclasses.replace(RUN, batch_size=1))
    np.testing.assert_allclose(together, alone, atol=1e-3)  # 2 steps of float16 below 1


def test_embed_naflex_pictures_of_many_shapes_keep_their_rows_and_do_not_see_padding(
    checkpoint: Checkpoints,
) -> None:
    pictures = noise((96, 96), (16, 16), (32, 160), (16, 64), (64, 16), (48, 48), (160, 32))
    config = EmbedConfig(str(checkpoint("siglip2")))
    together = embed(config, pictures, dataclasses.replace(RUN, batch_size=7))
    alone = np.concatenate([embed(config, [picture]) for picture in pictures])
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_embed_chunked_and_sliced_tables_give_the_same_rows(checkpoint: Checkpoints) -> None:
    first, second, third = noise((SIDE, SIDE), (SIDE, SIDE), (SIDE, SIDE))
    stage = EmbedImages(EmbedConfig(str(checkpoint("vit"))), RUN, "small")
    whole = stage(shard([first, None, second, third]))
    chunked = pa.concat_tables([shard([first, None]), shard([second, third])])
    assert stage(chunked).column("embedding").to_pylist() == whole.column("embedding").to_pylist()
    sliced = stage(shard([first, None, second, third]).slice(1, 2))
    assert sliced.column("embedding").to_pylist() == whole.column("embedding").to_pylist()[1:3]


@pytest.mark.parametrize("images", [[], [None, None]])
def test_embed_shard_without_pictures_gives_nulls_of_the_same_type(
    checkpoint: Checkpoints, images: list[Image | None]
) -> None:
    column = EmbedImages(EmbedConfig(str(checkpoint("clip"))), RUN, "small")(shard(images)).column(
        "embedding"
    )
    assert column.type == embedding_column(DIMS["clip"])
    assert [row["embedding"] for row in column.to_pylist()] == images


def test_embed_bfloat16_is_close_to_float32(checkpoint: Checkpoints) -> None:
    config = EmbedConfig(str(checkpoint("clip")))
    pictures = views(list(photographs().values()), config)
    coarse = embed(dataclasses.replace(config, dtype=Dtype.BFLOAT16), pictures)
    cosines = (coarse * embed(config, pictures)).sum(axis=1)
    assert 0.995 < cosines.min() < 0.999999


def test_embed_vectors_that_are_never_finite_raise(checkpoint: Checkpoints, tmp_path: Path) -> None:
    folder = save_encoder(tmp_path, "vit")
    tensors = load_file(folder / "model.safetensors")
    tensors["layernorm.bias"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbedError, match=r"vectors that are not finite"):
        embed(EmbedConfig(str(folder)), [None, *noise((SIDE, SIDE))])


def test_embed_checkpoint_with_a_missing_tensor_raises(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path, "clip")
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"misses visual_projection.weight"):
        EmbedImages(EmbedConfig(str(folder)), RUN, "small")


def test_embed_vit_classifier_without_pooling_layer_loads(checkpoint: Checkpoints, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.ViTConfig.from_pretrained(checkpoint("vit"))
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes(
        (checkpoint("vit") / "preprocessor_config.json").read_bytes()
    )
    assert embed(EmbedConfig(str(tmp_path)), noise((SIDE, SIDE))).shape == (1, DIMS["vit"])


@pytest.mark.parametrize("kind", DIMS)
def test_embedding_dim_is_read_from_the_config_alone(
    checkpoint: Checkpoints, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint(kind) / "config.json").read_bytes())
    assert embedding_dim(EmbedConfig(str(tmp_path))) == DIMS[kind]


def test_embedding_dim_of_another_kind_of_model_raises(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelLoadError, match="is a 'bert' model; encoders must be one of: clip, siglip"):
        embedding_dim(EmbedConfig(str(tmp_path)))


def test_encoder_view_given_one_that_fits_is_used(checkpoint: Checkpoints) -> None:
    own = ResizeConfig(Policy.PAD, size=SIDE)
    assert encoder_view(EmbedConfig(str(checkpoint("siglip")), resize=own)) == own


@pytest.mark.parametrize(
    ("kind", "resize", "message"),
    [
        ("clip", ResizeConfig(Policy.SQUARE, size=64), "must give 96 x 96 pixels, got 64 x 64"),
        ("siglip", ResizeConfig(Policy.SQUASH, height=96, width=64), "must give 96 x 96 pixels, got 96 x 64"),
        ("vit", ResizeConfig(Policy.FIT, size=96), "must be square, squash or pad, got fit"),
        ("dinov2", ResizeConfig(Policy.PAD, size=100), "must give multiples of 16, got 100 x 100"),
        ("siglip2", ResizeConfig(Policy.SQUASH, size=96), "must be policy patch_budget with patch 16"),
        ("siglip2", ResizeConfig(Policy.PATCH_BUDGET, patch=8), "must be policy patch_budget with patch 16"),
    ],
)
def test_encoder_view_that_the_model_cannot_read_raises(
    checkpoint: Checkpoints, kind: str, resize: ResizeConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        encoder_view(EmbedConfig(str(checkpoint(kind)), resize=resize))


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_text_agrees_with_the_whole_model_of_transformers(checkpoint: Checkpoints, kind: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint(kind))
    ids = tokenizer(TEXTS, padding="max_length", max_length=TEXT_LENGTH, return_tensors="pt").input_ids
    model = transformers.AutoModel.from_pretrained(checkpoint(kind)).eval()
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    vectors = TextEncoder(EmbedConfig(str(checkpoint(kind))), RUN).encode(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, DIMS[kind])
    np.testing.assert_allclose(vectors, expected.numpy(), atol=1e-5)
    assert (vectors @ vectors.T)[~np.eye(3, dtype=bool)].max() < 0.99


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_text_alone_or_in_a_batch_is_the_same(checkpoint: Checkpoints, kind: str) -> None:
    encoder = TextEncoder(EmbedConfig(str(checkpoint(kind))), dataclasses.replace(RUN, batch_size=2))
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(encoder.encode(TEXTS), alone, atol=1e-5)


def test_text_longer_than_the_model_reads_is_cut(checkpoint: Checkpoints) -> None:
    encoder = TextEncoder(EmbedConfig(str(checkpoint("siglip"))), RUN)
    long, longer = encoder.encode(["cat " * TEXT_LENGTH, "cat " * 50])
    np.testing.assert_allclose(long, longer, atol=1e-6)


def test_text_none_at_all_gives_an_empty_array(checkpoint: Checkpoints) -> None:
    assert TextEncoder(EmbedConfig(str(checkpoint("clip"))), RUN).encode([]).shape == (0, DIMS["clip"])


def test_text_vector_that_is_not_finite_raises_and_names_the_text(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path, "siglip")
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.head.bias"][3] = float("inf")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbedError, match="not finite for 'a cat'"):
        TextEncoder(EmbedConfig(str(folder)), RUN).encode(["a cat"])


def test_text_tokenizer_that_is_not_there_raises(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path, "siglip")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match="cannot be loaded"):
        TextEncoder(EmbedConfig(str(folder)), RUN)


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_text_of_a_model_without_text_tower_raises(checkpoint: Checkpoints, kind: str) -> None:
    with pytest.raises(ModelLoadError, match=f"is a {kind} model without a text tower"):
        TextEncoder(EmbedConfig(str(checkpoint(kind))), RUN)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EmbedConfig(""), "encoder.model must be pocket:NAME"),
        (lambda: EmbedRun(batch_size=0), "encoder.batch_size must be at least 1, got 0"),
        (lambda: EmbedRun(threads=0), "encoder.threads must be at least 1 or unset, got 0"),
    ],
)
def test_config_out_of_range_raises_and_names_the_key(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_driver_side_functions_do_not_import_torch(checkpoint: Checkpoints) -> None:
    code = (
        "import sys; from stages.embed import EmbedConfig, embedding_dim, encoder_view\n"
        "from stages.checkpoints import resolve, weights_digest\n"
        f"c = EmbedConfig({str(checkpoint('clip'))!r})\n"
        "embedding_dim(c), encoder_view(c), weights_digest(resolve(c.model))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_embed_pocket_encoder_agrees_with_transformers() -> None:
    photos, config = list(photographs().values()), EmbedConfig("pocket:encoder")
    expected = reference(resolve(config.model), photos).numpy()
    cosines = (embed(config, views(photos, config)) * expected).sum(axis=1)
    assert cosines.mean() >= 0.999
    assert cosines.min() >= 0.99

"""The client of servers against `transformers serve`, a real one, with the pocket model in it."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from stages.base import Image
from stages.checkpoints import resolve
from stages.generators.config import Backend, GeneratorConfig, GeneratorRun, ServerConfig, ServerRun
from stages.generators.limits import Ledgers, share
from stages.generators.local.image_text_to_text import ImageTextToText
from stages.generators.protocol import FinishReason, Request, Result
from stages.generators.server.served import ServedModel
from stages.pocket.drawing import draw
from stages.pocket.scenes import sample

PICTURES, QUALITY = 6, 95
PROMPTS = ("describe the image.", "how many objects are there?")
POCKET = resolve("pocket:captioner", None)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a server in a process of its own. Waits until it answers."""
    port, log = _free_port(), tmp_path_factory.mktemp("serve") / "log"
    command = ["transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--device", "cpu", str(POCKET)],
            stdout=output,
            stderr=output,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def _wait_for(address: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    while True:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def _through_jpeg(image: Image) -> Image:
    """What a server decodes of it."""
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    return decoded.astype(np.uint8)


def _requests(images: list[Image]) -> list[Request]:
    return [
        Request(number * len(PROMPTS) + at, (image,), prompt)
        for number, image in enumerate(images)
        for at, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    rng = np.random.default_rng(8)
    return [draw(sample(rng), rng, 160) for _ in range(PICTURES)]


@pytest.fixture
def served(url: str) -> Iterator[ServedModel]:
    share(Ledgers())
    config = GeneratorConfig(
        str(POCKET), Backend.OPENAI, max_new_tokens=40, server=ServerConfig(jpeg_quality=QUALITY)
    )
    model = ServedModel(config, GeneratorRun(server=ServerRun(url, max_concurrency=4)))
    yield model
    model.close()


def test_served_pocket_model_says_what_it_says_in_this_process(
    served: ServedModel, images: list[Image]
) -> None:
    """Its texts, its counts of tokens and its reasons to end."""
    config = GeneratorConfig("pocket:captioner", max_new_tokens=40)
    here = ImageTextToText(config, GeneratorRun(threads=1))
    wanted = {result.id: result for result in here.generate(_requests([_through_jpeg(i) for i in images]))}
    found = {result.id: result for result in served.generate(_requests(images))}
    assert found.keys() == wanted.keys()
    for id, result in found.items():
        other = wanted[id]
        assert isinstance(result, Result)
        assert isinstance(other, Result)
        assert (result.text, result.finish_reason) == (other.text, other.finish_reason)
        assert (result.prompt_tokens, result.completion_tokens) == (
            other.prompt_tokens,
            other.completion_tokens,
        )


def test_served_pocket_model_cut_short_says_so(url: str, images: list[Image]) -> None:
    config = GeneratorConfig(str(POCKET), Backend.OPENAI, max_new_tokens=3)
    model = ServedModel(config, GeneratorRun(server=ServerRun(url)))
    (result,) = model.generate(_requests(images)[:1])
    model.close()
    assert isinstance(result, Result)
    assert (result.finish_reason, result.completion_tokens) == (FinishReason.LENGTH, 3)


def test_served_pocket_model_streams_the_text_that_it_generates(
    served: ServedModel, images: list[Image]
) -> None:
    request = _requests(images)[0]
    (whole,) = served.generate([request])
    parts = list(served.stream(request))
    assert isinstance(whole, Result)
    assert len(parts) > 1
    assert "".join(parts).strip() == whole.text

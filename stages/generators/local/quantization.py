"""Weights in 8 or 4 bits, quantized by bitsandbytes while they are loaded.

8 bits are LLM.int8 (Dettmers et al., 2022): which columns stay in 16 bits depends on the batch, so texts may
too, beyond rounding. 4 bits are NF4 (QLoRA, Dettmers et al., 2023), which treats every row alike.
"""

from importlib.util import find_spec
from typing import Any

from stages.batching import OnOom
from stages.checkpoints import Dtype, ModelLoadError, torch_device, torch_dtype
from stages.generators.config import GeneratorRun, Quantization

_LIBRARIES = ("bitsandbytes", "accelerate")


def quantization_options(quantization: Quantization, dtype: Dtype, run: GeneratorRun) -> dict[str, Any]:
    """What `stages.checkpoints.load` is given besides; nothing for weights as they are stored.

    Raises: ModelLoadError where a library or a GPU is missing, and where a copy for the CPU is asked for.
    """
    if quantization is Quantization.NONE:
        return {}
    wanted = f"generator.quantization {quantization.value}"
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        raise ModelLoadError(
            f"{wanted} needs {needed}, not installed here: pip install 'darkroom[quantized]'"
        )
    place = torch_device(run.device)
    if place.type != "cuda":
        raise ModelLoadError(f"{wanted} needs a GPU, and device {run.device.value} is none here")
    if run.on_oom is OnOom.CPU:
        raise ModelLoadError(f"{wanted} has no copy for the CPU: captioner.how.on_oom must be row")
    from transformers import BitsAndBytesConfig

    match quantization:
        case Quantization.INT8:
            settings = BitsAndBytesConfig(load_in_8bit=True)
        case Quantization.NF4:
            settings = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch_dtype(dtype, place),
            )
    return {"quantization_config": settings, "device_map": {"": place}}

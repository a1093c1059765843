"""How large the pictures are that a checkpoint's processor makes use of."""

import math
from pathlib import Path
from typing import Any

from stages.checkpoints import read_json

LARGEST_SIDE = 1536  # of a view: what is stored between stages, however much a processor could use

# These pad pictures to the square that they scale them to; others stretch them.
_PADDING = ("DeepseekVL", "Janus")


def useful_side(folder: Path) -> int:
    """The longest side, in pixels, beyond which pictures of up to 2:1 gain nothing, at most LARGEST_SIDE.

    Raises: ModelLoadError.
    """
    whole = (folder / "processor_config.json").is_file()
    found = read_json(folder, "processor_config.json").get("image_processor") if whole else None
    settings = found or read_json(folder, "preprocessor_config.json")
    cuts = read_json(folder, "config.json").get("model_type") == "internvl"  # whatever `crop_to_patches` says
    return min(_tiled(settings, cuts) or _scaled(settings), LARGEST_SIDE)


def _tiled(settings: dict[str, Any], cuts: bool) -> int | None:
    """Of processors that cut pictures into tiles, or into patches as many as there are pixels."""
    size = settings.get("size")
    match settings:
        case {"image_grid_pinpoints": list(grids)} if grids:  # LLaVA-OneVision: the whole pictures, by tiles
            return int(max(max(grid) for grid in grids))
        case {"high_res_size": {"height": int(height), "width": int(width)}}:  # DeepSeek-VL-7b
            return max(height, width)
        case {"max_pixels": int(pixels), "merge_size": _}:  # Qwen-VL, written before transformers 5
            return math.ceil(math.sqrt(2 * pixels))
        case {"size": {"longest_edge": int(pixels)}, "merge_size": _}:  # a number of pixels all the same
            return math.ceil(math.sqrt(2 * pixels))
        case {"size_divisor": _, "size": {"shortest_edge": int(edge)}}:  # ViLT: the longer by 1333 to 800
            return math.ceil(edge * 1333 / 800)
        case {"do_image_splitting": False, "max_image_size": {"longest_edge": int(edge)}}:
            return edge
        case {"max_patches": int(tiles), "size": {"height": int(height), "width": int(width)}}:
            cuts = cuts or bool(settings.get("crop_to_patches"))
            return max(height, width) * math.isqrt(2 * tiles) if cuts else None
        case _:
            return None if size else LARGEST_SIDE


def _scaled(settings: dict[str, Any]) -> int:
    pads = str(settings.get("image_processor_type")).startswith(_PADDING)
    match settings["size"]:
        case {"longest_edge": int(edge)} if edge:
            return edge
        case int(edge) | {"shortest_edge": int(edge)}:
            return 2 * edge
        case {"height": int(height), "width": int(width)}:
            return max(height, width) * (1 if pads else 2)
        case _:
            return LARGEST_SIDE

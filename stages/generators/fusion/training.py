"""Trains the projector of a fusion: the vision tower is frozen, the text model frozen or tuned by LoRA."""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.checkpoints import Dtype, loading, resolve, weights_digest
from stages.generators.config import GeneratorConfig, GeneratorRun
from stages.generators.fusion import lora
from stages.generators.fusion.config import FusionPlan, FusionRun
from stages.generators.fusion.data import Example, FusionError, Order, digest, read_picture
from stages.generators.fusion.model import (
    ADAPTER,
    FUSION,
    PROJECTOR,
    Fusion,
    Reads,
    VisionFeatures,
    fusion_view,
    prefix,
    projector,
)
from stages.generators.fusion.prefixed import Prefixed
from stages.generators.local.text_model import load_text_model
from stages.towers import geometry

if TYPE_CHECKING:
    import torch

_STATE = "training.safetensors"  # in the output folder until the training is done
_ENCODED = 64  # pictures a forward pass of the tower


def fusion_of(plan: FusionPlan) -> Fusion:
    """The fusion that the plan trains. Raises: ModelLoadError."""
    vision, llm = resolve(plan.vision, plan.vision_revision), resolve(plan.llm, plan.llm_revision)
    tower = _config(vision)
    pooled = plan.reads is Reads.POOLED
    return Fusion(
        vision=plan.vision,
        vision_revision=plan.vision_revision,
        vision_weights=weights_digest(vision),
        llm=plan.llm,
        llm_revision=plan.llm_revision,
        llm_weights=weights_digest(llm),
        reads=plan.reads,
        tokens=plan.tokens,
        hidden=plan.hidden,
        vision_dim=geometry(vision).dim
        if pooled
        else int(getattr(tower, "vision_config", tower).hidden_size),
        llm_dim=int(_config(llm).get_text_config().hidden_size),
    )


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    with loading(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


class FusionTrainer:
    """The models, the examples, and the step that was last made. Raises: ModelLoadError, FusionError."""

    def __init__(self, plan: FusionPlan, run: FusionRun, examples: Sequence[Example]) -> None:
        import torch

        if run.threads is not None:
            torch.set_num_threads(run.threads)
        self._plan, self._run, self._examples = plan, run, examples
        self._fusion, self.step, self._kept = fusion_of(plan), 0, dict[Path, torch.Tensor]()
        self._loaded = load_text_model(
            GeneratorConfig(plan.llm, revision=plan.llm_revision), GeneratorRun(device=run.device)
        )
        self._llm = self._loaded.model.requires_grad_(False)
        self._adapted = lora.tunable(self._llm, plan.lora) if plan.lora else None
        self._see = VisionFeatures(self._fusion, Dtype.AUTO, run.device)
        self._prompts = Prefixed(self._loaded)
        torch.manual_seed(plan.seed)
        self._projector = _scaled(projector(self._fusion), self._llm).to(self._llm.device)
        self._optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.98), weight_decay=0.01)
        self._order = Order(len(examples), plan.batch, plan.seed, self._length)

    def train(self, out: Path, tell: Callable[[str], None]) -> float:
        """Up to the plan's last step, from where an earlier call was stopped. Returns the mean loss of the
        last hundred steps, in nats a token. Raises: FusionError.
        """
        if (out / FUSION).exists():
            raise FusionError(f"{out} holds a fusion already: choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        self._resume(out / _STATE)
        losses: list[float] = []
        while self.step < self._plan.steps:
            losses = [*losses[-99:], self._advance()]
            if self.step % self._run.save_every == 0:
                self._save_state(out / _STATE)
                tell(f"step {self.step} of {self._plan.steps}: loss {sum(losses) / len(losses):.3f}")
        self._save(out)
        return sum(losses) / len(losses) if losses else math.nan

    def _groups(self) -> list[dict[str, Any]]:
        groups = [{"params": list(self._projector.parameters()), "base": self._plan.rate}]
        if self._plan.lora:
            tuned = [one for one in self._llm.parameters() if one.requires_grad]
            groups.append({"params": tuned, "base": self._plan.lora.rate})
        return groups

    def _advance(self) -> float:
        import torch

        self.step += 1
        for group in self._optimiser.param_groups:
            group["lr"] = group["base"] * _curve(self.step, self._plan)
        loss = self.loss([self._examples[number] for number in self._order.at(self.step)])
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        trained = [one for group in self._optimiser.param_groups for one in group["params"]]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self._optimiser.step()
        if not math.isfinite(value := loss.item()):
            raise FusionError(f"the loss of step {self.step} is {value}: a smaller rate may help")
        return value

    def loss(self, examples: Sequence[Example]) -> "torch.Tensor":
        """Mean over the tokens of the texts, in nats."""
        import torch
        from torch.nn import functional

        device = self._llm.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._plan.autocast):
            words = prefix(self._projector, self._fusion, self._features(examples))
            told = [self._prompts.told(example.prompt, example.text) for example in examples]
            rows = [([one.before, one.after], [own]) for one, own in zip(told, words, strict=True)]
            inputs = self._prompts.padded(rows, "right")
            length = inputs["attention_mask"].shape[1]
            labels = torch.full((len(told), length), -100)
            for row, one in enumerate(told):
                end = len(one.before) + words.shape[1] + len(one.after)
                labels[row, end - one.written : end] = torch.tensor(one.after[-one.written :])
            first = int((labels != -100).any(dim=0).nonzero()[0]) - 1
            seen = torch.arange(first, length - 1, device=device)
            logits = self._llm(**inputs, use_cache=False, logits_to_keep=seen).logits
        return functional.cross_entropy(
            logits.float().flatten(0, 1), labels[:, first + 1 :].flatten().to(device), ignore_index=-100
        )

    def _length(self, number: int) -> int:
        example = self._examples[number]
        return len(example.prompt) + len(example.text)

    def _features(self, examples: Sequence[Example]) -> "torch.Tensor":
        """float32 [examples, vectors, vision_dim]; those of a picture are computed once, if there is room."""
        import torch

        paths = list(dict.fromkeys(one.image for one in examples if one.image not in self._kept))
        fresh: dict[Path, torch.Tensor] = {}
        with torch.no_grad():
            for start in range(0, len(paths), _ENCODED):
                part = paths[start : start + _ENCODED]
                images = [read_picture(path, fusion_view(self._fusion)) for path in part]
                fresh |= dict(zip(part, self._see(images), strict=True))
        known = self._kept | fresh if fresh else self._kept
        features = torch.stack([known[one.image] for one in examples])
        size = features[0].nbytes
        if (len(self._kept) + len(fresh)) * size <= self._run.max_kept_mb * 1_000_000:
            self._kept |= {path: one.clone() for path, one in fresh.items()}
        return features

    def _save(self, out: Path) -> None:
        """`fusion.json` comes last: where it is, the rest is whole."""
        from safetensors.torch import save_file

        state = {
            name: value.detach().cpu().contiguous() for name, value in self._projector.state_dict().items()
        }
        save_file(state, out / PROJECTOR)
        if self._adapted is not None:
            lora.save(self._adapted, out / ADAPTER)
        self._fusion.save(out)
        (out / _STATE).unlink(missing_ok=True)

    def _trained(self) -> dict[str, Any]:
        """Every tensor that moves, by name."""
        moving = {f"projector.{name}": one for name, one in self._projector.named_parameters()}
        return moving | {
            f"llm.{name}": one for name, one in self._llm.named_parameters() if one.requires_grad
        }

    def _save_state(self, file: Path) -> None:
        """Weights and moments in one file that is replaced as a whole."""
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self._trained().items():
            moments = self._optimiser.state[parameter]
            tensors |= {name: parameter.detach(), **{f"{key} {name}": moments[key] for key in _MOMENTS}}
        meta = {"step": str(self.step), "training": self._training()}
        save_file({name: one.cpu().contiguous() for name, one in tensors.items()}, f"{file}.new", meta)
        os.replace(f"{file}.new", file)

    def _training(self) -> str:
        """What must be the same for a training to be gone on with."""
        return json.dumps(
            {"plan": asdict(self._plan), "fusion": asdict(self._fusion), "data": digest(self._examples)}
        )

    def _resume(self, file: Path) -> None:
        """Raises: FusionError if the folder holds another training."""
        import torch
        from safetensors import safe_open

        if not file.exists():
            return
        with safe_open(file, "pt") as stored:
            meta = stored.metadata()
            if meta["training"] != self._training():
                raise FusionError(f"{file.parent} holds a training with another plan or other data")
            self.step = int(meta["step"])
            for name, parameter in self._trained().items():
                parameter.data.copy_(stored.get_tensor(name))
                moments = {key: stored.get_tensor(f"{key} {name}").to(parameter.device) for key in _MOMENTS}
                self._optimiser.state[parameter] = moments | {"step": torch.tensor(float(self.step))}


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _curve(step: int, plan: FusionPlan) -> float:
    """Linear warm-up, then half a cosine down to 1 %."""
    return min(1.0, step / plan.warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / plan.steps)))


def _scaled(model: Any, llm: Any) -> Any:
    """What it writes first is spread as the text model's own words are."""
    import torch

    words = llm.get_input_embeddings().weight.detach().float()
    with torch.no_grad():
        # GELU's outputs have a mean square of about 0.2 behind a layer of torch's own first weights.
        model.second.weight.normal_(std=float(words.std()) / math.sqrt(0.2 * model.second.in_features))
        model.second.bias.zero_()
    return model

"""What images of a sequence, and what else stands beside the layers, ask of a training job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whorl.core.errors import SpecError
from whorl.core.units import parse_count

if TYPE_CHECKING:
    from whorl.arch.shape import ModelShape
    from whorl.stages.plan.cluster.job import TrainingJob

__all__ = ["beside_bytes", "beside_flops", "check_images", "parse_images"]

USUAL_SIDE = 1000  # pixels: a million, where Qwen2.5-VL's own examples have their limit
ENTRIES = 8  # of what a layer keeps, what full recomputation keeps is one


def parse_images(text: str) -> tuple[int, int]:
    """(images of a sequence, pixels of one) of "2" or "2@1280"."""
    number, _, side = text.partition("@")
    return parse_count(number, "--images"), parse_count(side or USUAL_SIDE, "--images: side") ** 2


def _patches(job: TrainingJob) -> float:
    """Of all images of one sequence."""
    found = 0.0
    for part in job.shape.beside:
        if part.patch_pixels:
            each = job.image_pixels / part.patch_pixels
            found += job.images * (min(each, part.most_patches) if part.most_patches else each)
    return found


def check_images(shape: ModelShape, images: int, pixels: int, seq_len: int) -> None:
    """Raises SpecError for a model that does not see, or images longer than the sequence."""
    seeing = [part for part in shape.beside if part.patch_pixels]
    if not seeing:
        raise SpecError(f"--images: {shape.name} has no image encoder that is known here")
    tokens = sum(images * pixels / part.patch_pixels * part.tokens_per_patch for part in seeing)
    if tokens > seq_len:
        raise SpecError(
            f"--images: {images} of {pixels:,} pixels are {tokens:,.0f} tokens",
            expected=f"at most --seq {seq_len}",
            do="give fewer, or smaller ones (--images 1@640)",
        )


def beside_flops(job: TrainingJob, passes: float = 1.0) -> float:
    """Forward, of one token of the sequence, besides its layers': of an encoder that is frozen
    before adapters, its one pass shared out over the `passes` of the layers."""
    patches = _patches(job) / job.seq_len / (1.0 if job.lora is None else passes)
    return sum(part.flops_per_token + part.flops_per_patch * patches for part in job.shape.beside)


def beside_bytes(job: TrainingJob) -> float:
    """Of one micro-batch, kept for a backward pass."""
    element = 4.0 if job.precision == "fp32" else 2.0
    kept = 1 / ENTRIES if job.layout.recompute == "full" else 1.0
    tokens, patches = job.seq_len / job.layout.cp, _patches(job) if job.lora is None else 0.0
    elements = sum(
        part.kept_per_token * tokens + part.kept_per_patch * patches for part in job.shape.beside
    )
    return job.layout.micro_batch * elements * element * kept / job.layout.tp

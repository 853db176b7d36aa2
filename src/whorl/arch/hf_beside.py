"""What stands beside the layers of some families: image encoders, the other half of T5, heads of
masked language models. Counted from their configs as transformers builds them.
"""

from __future__ import annotations

from typing import Any

from whorl.arch.config_reader import ConfigReader
from whorl.arch.shape import Beside

__all__ = [
    "bert_others",
    "mllama_others",
    "modernbert_others",
    "qwen_vl_others",
    "t5_others",
]

ASPECT_RATIOS = 9  # Llama 3.2 Vision's: shapes of up to four tiles, and none
IMAGE_ROWS = 8  # rows of its embedding that its head does not have


def bert_others(c: ConfigReader) -> dict[str, Any]:
    """BERT and RoBERTa: positions and kinds of text are learned, the norm follows the tables."""
    width = c.whole("hidden_size")
    rows = c.whole("max_position_embeddings") + c.whole("type_vocab_size", default=2)
    made = Beside("prediction head", width * width + 3 * width)  # a layer, its bias, its norm
    return {
        "learned_positions": rows,
        "head_bias": True,
        "bidirectional": True,
        "beside": (made,),
    }


def modernbert_others(c: ConfigReader) -> dict[str, Any]:
    """The first layer has one norm less, the tables one more."""
    width = c.whole("hidden_size")
    made = Beside("prediction head", width * width + width)
    return {"head_bias": True, "bidirectional": True, "beside": (made,)}


def t5_others(c: ConfigReader) -> dict[str, Any]:
    """The layers are the decoder's; of each token one of the source passes the encoder."""
    width, inner = c.whole("d_model"), c.whole("num_heads") * c.whole("d_kv")
    encoder = c.whole("num_layers")
    decoder = c.whole("num_decoder_layers", default=encoder)
    is_gated = str(c.values.get("feed_forward_proj", "relu")).startswith("gated")
    attention, ffn = 4 * width * inner, (2 + is_gated) * width * c.whole("d_ff")
    matrices = encoder * (attention + ffn) + decoder * attention
    buckets = 2 * c.whole("relative_attention_num_buckets", default=32) * c.whole("num_heads")
    norms = (2 * encoder + 1 + decoder) * width
    made = Beside(
        "encoder and cross attention",
        matrices + norms + buckets,
        flops_per_token=2.0 * matrices,
        kept_per_token=encoder * (8 * width + 3 * c.whole("d_ff")) + decoder * 4 * inner,
    )
    return {"beside": (made,), "gated": is_gated}


def qwen_vl_others(c: ConfigReader) -> dict[str, Any]:
    """Qwen2-VL's and Qwen2.5-VL's image encoder; of each patch a quarter token is left."""
    v = c.section("vision_config")
    if not v.values:
        return {}
    is_second = "embed_dim" in v.values or "mlp_ratio" in v.values  # Qwen2-VL
    width, depth = v.whole("embed_dim", "hidden_size"), v.whole("depth")
    out = v.whole("hidden_size" if is_second else "out_hidden_size")
    side, merged = v.whole("patch_size", default=14), v.whole("spatial_merge_size", default=2) ** 2
    inner = v.whole("intermediate_size", default=width * (v.optional("mlp_ratio") or 4))
    products = 2 if is_second else 3
    norm = 2 * width if is_second else width
    patch = v.whole("in_channels", "in_chans", default=3) * 2 * side**2 * width
    attention, ffn = 4 * width * width, products * width * inner
    biases = 4 * width + (products - 1) * inner + width
    join = merged * width
    ends = join * join + join + join * out + out + norm
    matrices = depth * (attention + ffn) + patch
    made = Beside(
        "image encoder",
        matrices + depth * (biases + 2 * norm) + ends,
        flops_per_patch=2.0 * (matrices + (join * join + join * out) / merged),
        kept_per_patch=depth * (8 * width + products * inner),
        patch_pixels=side**2,
        tokens_per_patch=1 / merged,
    )
    return {"beside": (made,)}


def mllama_others(c: ConfigReader) -> dict[str, Any]:
    """Llama 3.2 Vision: up to four tiles, which some layers of the text attend to."""
    v, width = c.section("vision_config"), c.whole("hidden_size")
    if not v.values:
        return {}
    h, inner, side = v.whole("hidden_size"), v.whole("intermediate_size"), v.whole("patch_size")
    tiles, pixels = v.whole("max_num_tiles", default=4), v.whole("image_size")
    layers, globals_ = v.whole("num_hidden_layers"), v.whole("num_global_layers")
    patches = (pixels // side) ** 2 + 1
    matrices = (layers + globals_) * (4 * h * h + 2 * h * inner) + 3 * side**2 * h
    small = (layers + globals_) * (inner + h + 4 * h) + 2 * globals_ + 4 * h + h
    positions = patches * h + ASPECT_RATIOS * tiles * patches * h + 1
    positions += 2 * (ASPECT_RATIOS * tiles * h + 1)
    join = v.whole("vision_output_dim") * width
    head_dim = width // c.whole("num_attention_heads")
    crossing = len(c.sequence("cross_attention_layers"))
    gates = crossing * (2 * head_dim + 2) + IMAGE_ROWS * width
    made = Beside(
        "image encoder",
        matrices + small + positions + join + width + gates,
        flops_per_patch=2.0 * (matrices + join),
        kept_per_patch=(layers + globals_) * (8 * h + 2 * inner),
        patch_pixels=side**2,
        most_patches=tiles * patches,
    )
    return {"beside": (made,)}

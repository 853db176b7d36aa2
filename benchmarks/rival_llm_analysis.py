"""Step times by llm-analysis: jobs as JSON on standard input, seconds (or null) on standard output.

Run by planner_duel.py with the packages of rivals.txt on the path.
"""

import json
import logging
import sys

from llm_analysis.analysis import ActivationRecomputation, DSZeRO, LLMAnalysis
from llm_analysis.config import (
    ModelConfig,
    ParallelismConfig,
    get_dtype_config_by_name,
    get_gpu_config_by_name,
)


def analysed(job: dict) -> dict:
    """Its summary of a training step."""
    model = ModelConfig(
        name="row",
        num_layers=job["layers"],
        n_head=job["heads"],
        num_key_value_heads=job["kv_heads"],
        hidden_dim=job["width"],
        vocab_size=job["vocab_size"],
        max_seq_len=job["seq_len"],
        ffn_embed_dim=job["ffn_width"],
        expansion_ratio=job["ffn_width"] / job["width"],
    )
    planner = LLMAnalysis(
        model,
        get_gpu_config_by_name(job["gpu"]),
        get_dtype_config_by_name("w16a16e16"),
        ParallelismConfig(tp_size=job["tp"], pp_size=job["pp"], dp_size=job["dp"]),
        flops_efficiency=job["flops_efficiency"],
        hbm_memory_efficiency=1.0,
    )
    recompute = ActivationRecomputation.FULL if job["full"] else ActivationRecomputation.NONE
    return planner.training(
        batch_size_per_gpu=job["micro_batch"],
        global_batch_size=job["global_batch"],
        seq_len=job["seq_len"],
        activation_recomputation=recompute,
        ds_zero=DSZeRO(job["zero"]),
        mlp_gated_linear_units=job["gated"],
        flash_attn=job["flash_attention"],
    )


def main() -> None:
    logging.disable(logging.CRITICAL)
    answers = []
    for job in json.load(sys.stdin):
        try:
            answers.append(analysed(job)["latency_per_iter"])
        except Exception as error:  # what it refuses is counted, with the reason
            answers.append(f"{type(error).__name__}: {error}"[:120])
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()

"""Peak memory by other planners: jobs as JSON on standard input, GiB or why not on standard output.

Run by planner_duel.py with the packages of rivals.txt on the path.
"""

import io
import json
import logging
import sys
from contextlib import redirect_stdout

GIB = 2**30


def accelerate(job: dict) -> float | None:
    """`accelerate estimate-memory`: one device, a batch of one, its largest phase."""
    from accelerate.commands.estimate import estimate_training_usage

    if job["devices"] > 1 or job["lora"]:
        return None
    precision = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(job["precision"])
    found = estimate_training_usage(4 * job["parameters"], precision) if precision else {}
    whole = [found[name] for name in ("model", "gradients", "optimizer") if name in found]
    return max(sum(whole), found["step"]) / GIB if whole else None


def deepspeed(job: dict) -> float | None:
    """Its estimators of ZeRO-2 and ZeRO-3: states, of all devices in one node."""
    if job["lora"] or job["tp"] * job["pp"] > 1 or job["shard"] not in ("zero2", "zero3"):
        return None
    if job["devices"] == 1:
        return None
    parameters, ranks, host = job["parameters"], job["devices"], job["offload"]
    if job["shard"] == "zero2":
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

        found = estimate_zero2_model_states_mem_needs(parameters, ranks, 1, host)
        return found[1] / GIB
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    layer = job["largest_layer"]
    return estimate_zero3_model_states_mem_needs(parameters, layer, ranks, 1, host, False)[1] / GIB


def llm_analysis(job: dict) -> float | None:
    """Weights, gradients, moments and activations of one of its GPUs."""
    from rival_llm_analysis import analysed

    if job["analysis"] is None:
        return None
    found = analysed(job["analysis"])
    names = ("weight", "gradient", "optimizer_state", "activation")
    return sum(found[f"{name}_memory_per_gpu"] for name in names) / GIB


PEERS = {"accelerate": accelerate, "deepspeed": deepspeed, "llm-analysis": llm_analysis}


def main() -> None:
    logging.disable(logging.CRITICAL)
    jobs = json.load(sys.stdin)
    with redirect_stdout(io.StringIO()):  # what they print on import
        answers = ask(jobs)
    json.dump(answers, sys.stdout)


def ask(jobs: list[dict]) -> dict[str, list[float | str | None]]:
    """Planner -> what it says of each job: GiB, why not, or None where it is not asked."""
    answers: dict[str, list[float | str | None]] = {}
    for name, peer in PEERS.items():
        answers[name] = []
        for job in jobs:
            try:
                answers[name].append(peer(job))
            except Exception as error:  # what it refuses is counted, with the reason
                answers[name].append(f"{type(error).__name__}: {error}"[:120])
    return answers


if __name__ == "__main__":
    main()

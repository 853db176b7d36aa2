"""Serving: from a target to engine, precision, split, replicas and price."""

from whorl.stages.plan.serving.choose import plan_serving
from whorl.stages.plan.serving.target import ServingFigure, ServingPlan, ServingTarget

__all__ = ["ServingFigure", "ServingPlan", "ServingTarget", "plan_serving"]

"""Why a job runs out of memory: what the peak is made of, and what would make it less."""

from __future__ import annotations

from functools import partial
from itertools import islice

from whorl.arch.shape import ModelShape
from whorl.stages.plan.ask.answers import in_words
from whorl.stages.plan.ask.layouts import layout_label
from whorl.stages.plan.cluster.devices import Device
from whorl.stages.plan.cluster.memory import memory_for, needed_for, rank_memory
from whorl.stages.plan.cluster.remedies import MOST, Remedy, remedies, same_devices
from whorl.stages.plan.cluster.search import search_layouts
from whorl.stages.plan.cluster.search_remedies import lightest, more_devices
from whorl.stages.plan.cluster.step import step_times
from whorl.stages.plan.cluster_choice import what_is_asked
from whorl.stages.plan.output import schema

__all__ = ["memory_report"]


def memory_report(shape: ModelShape, asked: schema.Question, target: Device) -> schema.MemoryReport:
    """Of the layout that is given; else of the best that fits, else of the lightest.

    Raises PlanError if the batch cannot be shared by the devices at all.
    """
    space, model, job = what_is_asked(shape, asked, target)
    why = "the layout given"
    if job is None:
        job, why = lightest(space, needed_for), "the lightest of all layouts: none fits"
        if job is None:
            raise space.refuse_batch()
        if needed_for(job) <= space.device.memory_bytes:
            found = search_layouts(space, time_of=partial(step_times, model=model))
            job, why = found.best.job, "the fastest layout that fits"
    limit, say = job.device.memory_bytes, in_words(asked.words, whole=not asked.layout)
    changes = remedies(job, needed_for, limit, model)
    enough = [] if needed_for(job) <= limit else same_devices(job, needed_for, limit, model)

    def told(item: Remedy) -> schema.WayOut:
        return schema.WayOut(
            words=say(item),
            changes=list(item.names),
            needed_bytes=item.peak_bytes,
            saved_bytes=item.saved_bytes,
            slower=item.slower,
            fits=item.fits,
        )

    fits = needed_for(job) <= limit
    return schema.MemoryReport(
        question=asked,
        device=job.device,
        label=layout_label(job.layout),
        why=why,
        step_s=step_times([job], model)[0].step_s,
        fits=fits,
        needed_bytes=needed_for(job),
        limit_bytes=limit,
        driver=rank_memory(job, "smi"),
        reserved_bytes=memory_for(job, "reserved"),
        allocated_bytes=memory_for(job, "allocated"),
        changes=[told(item) for item in changes],
        enough=[told(item) for item in enough],
        elsewhere=[] if fits else list(islice(more_devices(space, needed_for, limit), MOST)),
    )

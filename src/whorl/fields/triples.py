"""Facts of a knowledge graph: which entity stands at the other end of a relation?

Sources are files of triples: head, relation and tail between tabs, or N-Triples. An entity is read
with what is known of it, `entity, (relation, other entity) …`, in a new order in each copy, and
every other end is learned: so a model answers from the facts before a question as well as from what
it remembers. Each triple is a fact of both its ends; `^` marks a relation read from its tail, as in
SPARQL.

Held out are the triples of files named test…, or else a share of them; those of valid… and dev…
are neither learned nor asked. Asked are both ends of each, among all entities but those that the
graph also has there: the filtered setting of Bordes et al. (2013).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.label import LabelCodec
from whorl.core.intervals import score_of
from whorl.core.metrics import HITS_AT_10, MRR
from whorl.core.ports import Codec, Document, Part, Score, Source, Task
from whorl.core.ranking import RankTask, measures_of_ranks, rank_of
from whorl.fields.triple_files import SUFFIXES, Graph, Triple, inverse, read_graph
from whorl.fields.whole import begins, copies_of, number_of, share_of, share_option, whole_items

__all__ = ["FIELD", "TriplesField"]

ENTITY, RELATION = "entity", "relation"
AT_RELATION, IN_GRAPH = "frequency at the relation", "frequency in the graph"
WANTED_FACTS, MOST_COPIES = 600_000, 60  # where a recipe says no number of copies
TASK = RankTask(metric=MRR, further=(HITS_AT_10,))


@dataclass(frozen=True)
class TriplesField:
    """One document per entity, copy and `facts` of its facts; one per end that is asked for."""

    name: str = "triples"
    task: Task = TASK
    logic_version: int = 2
    options: Mapping[str, str] = field(
        default_factory=lambda: {"facts": "48", "copies": "auto", "heldout": "0.1", "seed": "0"}
    )

    def items(self, source: Source) -> list[Any]:
        """Raises DataError when the source is missing or holds no file of triples."""
        return list(whole_items(source, SUFFIXES))

    def read(self, source: Source, item: Any, reject: Callable[[str], None]) -> Iterator[Document]:
        """Raises DataError on options that are no numbers."""
        if not begins(item, reject):
            return
        options = {**self.options, **source.options}
        facts, seed = number_of(options, "facts", 2), number_of(options, "seed")
        graph = read_graph(source, share_option(options, "heldout"), seed, reject)
        copies = copies_of(options, sum(map(len, graph.facts.values())), WANTED_FACTS, MOST_COPIES)
        for entity, known in graph.facts.items():
            for copy in range(copies):
                order = np.random.default_rng([seed, copy, len(known)]).permutation(len(known))
                for start in range(0, len(known), facts):
                    some = [known[place] for place in order[start : start + facts].tolist()]
                    name = f"{entity}~{copy}@{start}"
                    yield Document(
                        name, (Part(ENTITY, entity, trained=False), *_told(some)), "train"
                    )
        for triple in graph.heldout:
            for head, relation, tail in (triple, inverse(triple)):
                yield _question(graph, (head, relation, tail), facts, seed)

    def fit_codecs(
        self, documents: Iterable[Document], options: Mapping[str, Any]
    ) -> dict[str, Codec]:
        """A vocabulary of entities and one of relations, each also read from its tail."""
        names: dict[str, set[str]] = {ENTITY: set(), RELATION: set()}
        for document in documents:
            for part in document.parts:
                names.setdefault(part.codec, set()).add(part.value)
        return {kind: LabelCodec.fit(names[kind], kind) for kind in (ENTITY, RELATION)}

    def baselines(
        self, train: Sequence[Document], heldout: Sequence[Document], rows: NDArray[np.int64] | None
    ) -> list[Score]:
        """How often each entity stands at that end of the relation, and at that end of any."""
        of_relation = _counts(train)
        entities = sorted({name for counts in of_relation.values() for name in counts})
        places = {name: place for place, name in enumerate(entities)}
        overall = sum(of_relation.values(), Counter[str]())
        ranks: dict[str, list[float]] = {AT_RELATION: [], IN_GRAPH: []}
        for document in heldout:
            relation, right, known = _asked(document)
            left_out = [places[name] for name in known if name in places]
            here = of_relation.get(relation, Counter[str]())
            for method, counts in ((AT_RELATION, here), (IN_GRAPH, overall)):
                scores = np.array([counts[name] for name in entities], np.float64)
                ranks[method].append(rank_of(scores, places[right], left_out))
        names = [document.name for document in heldout]
        return [
            score_of(method, measure)
            for method, found in ranks.items()
            for measure in measures_of_ranks(names, found, (MRR, HITS_AT_10))
        ]


def _told(facts: Iterable[tuple[str, str]], trained: bool = True) -> Iterator[Part]:
    for relation, other in facts:
        yield Part(RELATION, relation, trained=False)
        yield Part(ENTITY, other, trained=trained)


def _question(graph: Graph, asked: Triple, facts: int, seed: int) -> Document:
    """What is known of the entity, of this relation last; the relation, the answer, the others."""
    head, relation, tail = asked
    name = " ".join(asked)
    before = list(graph.facts[head])
    before.sort(key=lambda fact: (fact[0] == relation, share_of(seed, name, *fact)))
    others = sorted(graph.answers[head, relation] - {tail})
    parts = [
        Part(ENTITY, head, trained=False),
        *_told(before[max(0, len(before) - facts + 1) :], trained=False),
        *_told([(relation, tail)]),
        *(Part(ENTITY, other, trained=False) for other in others if other in graph.facts),
    ]
    return Document(name, tuple(parts), "heldout")


def _asked(document: Document) -> tuple[str, str, list[str]]:
    """(relation, right entity, others that are right too) of a question's document."""
    at = max(place for place, part in enumerate(document.parts) if part.codec == RELATION)
    ends = [part.value for part in document.parts[at + 1 :] if part.codec == ENTITY]
    return document.parts[at].value, ends[0], ends[1:]


def _counts(documents: Sequence[Document]) -> dict[str, Counter[str]]:
    """relation -> how often each entity stands at its end, of documents as they are trained on.

    Every copy of a fact counts, so that all counts are as many times too large.
    """
    found: dict[str, Counter[str]] = {}
    for document in documents:
        for one, other in pairwise(document.parts):
            if one.codec == RELATION and other.codec == ENTITY:
                found.setdefault(one.value, Counter())[other.value] += 1
    return found


FIELD = TriplesField()

"""Files of triples, read into a graph: what is known of each entity, what is held out, what is so.

Lines of three columns between tabs (or three words between blanks), or N-Triples
(https://www.w3.org/TR/n-triples/), whose literals are no entities.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from whorl.core.ports import Source
from whorl.core.sources import FileItem
from whorl.fields.files import bare_suffix
from whorl.fields.formats import lines_of
from whorl.fields.places import Places, Reject
from whorl.fields.whole import check_sides, files_of, is_test, share_of

__all__ = ["SUFFIXES", "Graph", "Triple", "inverse", "read_graph"]

N_TRIPLES = ".nt"
SUFFIXES = (".tsv", ".txt", N_TRIPLES)
INVERSE = "^"
HEADERS = (("head", "relation", "tail"), ("subject", "predicate", "object"), ("h", "r", "t"))
IN_ORDER = (0, 1, 2)
KNOWN_ONLY = ("valid", "dev")  # how names of files begin
MAX_NAME = 500  # signs of an entity or relation
NODE = r"(<[^<>\"{}|^`\x00-\x20]*>|_:[^\s<>\"]+)"
N_TRIPLE = re.compile(rf"\s*{NODE}\s*(<[^<>\s]*>)\s*(?:{NODE}|(\".*))\s*\.\s*(?:#.*)?")
ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})")

Triple = tuple[str, str, str]
Fact = tuple[str, str]  # (relation, the other entity)


@dataclass(frozen=True)
class Graph:
    """facts: of each entity, from both ends, to learn; answers: all that is so, held out or not."""

    facts: Mapping[str, list[Fact]]
    heldout: list[Triple]
    answers: Mapping[tuple[str, str], set[str]]


def inverse(triple: Triple) -> Triple:
    """The same fact from its tail; of an inverse one, from its head."""
    head, relation, tail = triple
    return tail, relation[1:] if relation.startswith(INVERSE) else INVERSE + relation, head


def read_graph(source: Source, heldout: float, seed: int, reject: Reject) -> Graph:
    """All files of a source. Raises DataError if nothing is left to learn or to ask.

    heldout: share of the triples that are held out where no file says which.
    """
    learned: dict[Triple, None] = {}
    asked: dict[Triple, tuple[Places, int | None]] = {}
    known: dict[Triple, None] = {}
    files = files_of(source, SUFFIXES)
    has_test = any(map(is_test, files))
    for item in files:
        places = Places.of(item, reject)
        for triple in _triples(item, places):
            if triple in learned or triple in asked:
                places.refuse("triple that is there already")
            elif is_test(item) or (not has_test and share_of(seed, *triple) < heldout):
                asked[triple] = places, places.line
            elif has_test and PurePath(item.name).name.lower().startswith(KNOWN_ONLY):
                known.setdefault(triple)
                places.tell("triple of a validation file: known, neither learned nor asked")
            else:
                learned[triple] = None
    facts: dict[str, list[Fact]] = {}
    for triple in learned:
        for head, relation, tail in (triple, inverse(triple)):
            facts.setdefault(head, []).append((relation, tail))
    questions = []
    relations = {relation for _, relation, _ in learned}
    for triple, (places, line) in asked.items():
        head, relation, tail = triple
        if head in facts and tail in facts and relation in relations:
            questions.append(triple)
        else:
            places.at(line).refuse(
                "held-out triple of an entity or relation that is nowhere learned"
            )
    check_sides(source, "triples", len(learned), len(questions))
    answers: dict[tuple[str, str], set[str]] = {}
    for triple in (*learned, *asked, *known):
        for head, relation, tail in (triple, inverse(triple)):
            answers.setdefault((head, relation), set()).add(tail)
    return Graph(facts, questions, answers)


def _triples(item: FileItem, places: Places) -> Iterator[Triple]:
    is_first = True
    order: tuple[int, ...] = IN_ORDER
    for line in lines_of(item, places):
        try:
            triple = _n_triple(line) if bare_suffix(item.name) == N_TRIPLES else _columns(line)
            header = _order_of(triple) if is_first and triple is not None else None
            is_first, order = False, header or order
            if header is not None and header != IN_ORDER:
                places.tell(f"columns in the order of the first row: {', '.join(triple or ())}")
            elif header is None and triple is not None:
                head, relation, tail = (triple[place] for place in order)
                yield _checked((head, relation, tail))
        except ValueError as error:
            is_first = False
            places.refuse(*error.args)


def _columns(line: str) -> Triple | None:
    columns = line.split("\t") if "\t" in line else line.split()
    if len(columns) != 3:
        hint = f"it has {len(columns)}: head, relation and tail stand between tabs"
        raise ValueError("line of other than three columns", hint)
    head, relation, tail = (column.strip() for column in columns)
    return head, relation, tail


def _order_of(triple: Triple) -> tuple[int, ...] | None:
    """Where head, relation and tail stand by a row that names them; None: it is none."""
    names = [name.lower() for name in triple]
    header = next((words for words in HEADERS if sorted(words) == sorted(names)), None)
    return None if header is None else tuple(map(names.index, header))


def _n_triple(line: str) -> Triple | None:
    """None: a comment, or nothing."""
    if not line.strip() or line.lstrip().startswith("#"):
        return None
    found = N_TRIPLE.fullmatch(line)
    if found is None:
        raise ValueError("line that is no N-Triple", "expected: <subject> <predicate> <object> .")
    head, relation, tail, literal = found.groups()
    if literal is not None:
        raise ValueError("triple whose object is a literal", "entities are <IRIs> or _:nodes")
    named = (
        ESCAPE.sub(_unescaped, node.removeprefix("<").removesuffix(">"))
        for node in (head, relation, tail)
    )
    first, second, third = named
    return first, second, third


def _unescaped(found: re.Match[str]) -> str:
    code = int(found[1] or found[2], 16)
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else "\ufffd"


def _checked(triple: Triple) -> Triple:
    """Raises ValueError with the reason why it is refused."""
    if not all(triple):
        raise ValueError("triple with an empty name")
    if any(len(name) > MAX_NAME for name in triple):
        raise ValueError(f"name of more than {MAX_NAME} signs")
    if any(not name.isprintable() for name in triple):
        raise ValueError("name with control signs")
    if triple[1].startswith(INVERSE):
        raise ValueError(
            f"relation that begins with {INVERSE}", "this marks one read from its tail"
        )
    return triple

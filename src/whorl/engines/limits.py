"""What an engine accepts, checked before a request waits for its place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import MISSING, dataclass, fields

from whorl.core.errors import EngineError
from whorl.core.ports import GenerateRequest
from whorl.core.scoring import Continuations
from whorl.engines.branches import MAX_LOGITS

__all__ = ["Limits", "Portion"]


@dataclass(frozen=True)
class Portion:
    """What is scored in one call. places: of its questions among those that were asked."""

    places: list[int]
    questions: list[Continuations]


@dataclass(frozen=True)
class Limits:
    """What an engine accepts. context_tokens: prompt and answer together."""

    max_running: int
    context_tokens: int
    vocab_size: int
    scored_together: int = 8  # sequences of one call of Stepper.score
    candidates_together: int = 1024  # the same where they follow one prefix
    candidates_beside: bool = False  # scored after a prefix between two steps of requests
    prefix_tokens_together: int = 1024  # of several questions' prefixes in one call

    def check(self, request: GenerateRequest, name: str, unable: frozenset[str]) -> None:
        """Raises EngineError if the engine of this name cannot answer the request."""
        if request.max_tokens < 1:
            raise EngineError("max_tokens is too small", found=request.max_tokens, expected=">= 1")
        if not request.prompt_ids:
            raise EngineError("the prompt is empty", expected="at least one id")
        self._check_ids(
            request.prompt_ids, "the prompt", len(request.prompt_ids) + request.max_tokens
        )
        if request.allowed_ids is not None:
            if not request.allowed_ids:
                raise EngineError("no id is allowed", expected="at least one, or no limit")
            self._check_ids(request.allowed_ids, "allowed_ids", 0)
        self._check_ids([number for number, _ in request.logit_bias], "logit_bias", 0)
        if refused := sorted(unable & _asked(request)):
            raise EngineError(f"the engine {name} cannot do this", found=", ".join(refused))

    def check_scored(self, question: Continuations) -> Continuations:
        """What is to be scored, and the prefix, as plain ids. Raises EngineError."""
        checked = [tuple(map(int, ids)) for ids in question.sequences]
        before = tuple(map(int, question.prefix))
        self._check_ids(before, "a prefix", len(before))
        longest = max(map(len, checked), default=0)
        seen = set().union(*checked)  # thousands of candidates are looked at as one
        if len(before) + longest > self.context_tokens or not self._knows(seen):
            for ids in checked:
                self._check_ids(ids, "a scored sequence", len(before) + len(ids))
        return Continuations(before, checked)

    def pieces(self, questions: Sequence[Continuations]) -> list[Portion]:
        """What is scored in one call each, shorter prefixes first: of a question with many
        candidates a part, or several questions whose prefixes are alike long."""
        found: list[Portion] = []
        for place in sorted(range(len(questions)), key=lambda n: len(questions[n].prefix)):
            prefix, sequences = questions[place]
            size = self.candidates_together if prefix else self.scored_together
            for start in range(0, len(sequences), size):
                part = Continuations(prefix, sequences[start : start + size])
                if prefix and start == 0 and found and self._has_room(found[-1], part):
                    found[-1].places.append(place)
                    found[-1].questions.append(part)
                else:
                    found.append(Portion([place], [part]))
        return found

    def _has_room(self, piece: Portion, part: Continuations) -> bool:
        num_tokens = len(part.prefix) * (1 + len(piece.questions))
        candidates = sum(len(each.sequences) for each in [*piece.questions, part])
        return (
            len(piece.questions[0].prefix) == len(part.prefix)
            and num_tokens <= self.prefix_tokens_together
            and num_tokens * self.vocab_size <= MAX_LOGITS
            and candidates <= self.candidates_together
        )

    def _knows(self, ids: Collection[int]) -> bool:
        return not ids or 0 <= min(ids) <= max(ids) < self.vocab_size

    def _check_ids(self, ids: Sequence[int], what: str, total_tokens: int) -> None:
        if total_tokens > self.context_tokens:
            raise EngineError(
                f"{what} is too long",
                found=f"{len(ids)} tokens, {total_tokens} with the answer",
                expected=f"at most {self.context_tokens}",
                do="shorten it or lower max_tokens",
            )
        if not self._knows(ids):
            raise EngineError(
                f"{what} has an id outside the vocabulary",
                found=f"{min(ids)} … {max(ids)}",
                expected=f"0 … {self.vocab_size - 1}",
            )


def _asked(request: GenerateRequest) -> set[str]:
    """Fields that are not at their default; "logprobs>1" too where several are asked for."""
    changed = {
        item.name
        for item in fields(request)
        if item.default is not MISSING and getattr(request, item.name) != item.default
    }
    return changed | ({"logprobs>1"} if (request.logprobs or 0) > 1 else set())

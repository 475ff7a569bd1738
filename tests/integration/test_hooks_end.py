"""A model is left as it was found: no hook, mode or attention function of ours stays behind."""

from __future__ import annotations

from typing import Any

import pytest
from inner_sessions import EXISTS, HEAD, PERPLEXITY, ZEROING, Inner
from torch import nn

ATTENTION = "  - {id: sink, claim: C., measure: {kind: attention.concentration, tokens: first}}\n"
HIDDEN = "  - {id: hidden, claim: C., measure: {kind: finite, site: block.mlp.hidden}}\n"
NO_SUCH_TOKEN = "  - {id: far, claim: C., measure: {kind: magnitude, tokens: {index: [40]}}}\n"


class Keep:
    """Keeps the models that were measured."""

    def __init__(self) -> None:
        self.models: list[nn.Module] = []

    def pytest_maprobe_execute_run(self, subject: Any) -> None:
        if subject.loaded.model not in self.models:
            self.models.append(subject.loaded.model)


def left_behind(model: nn.Module) -> list[object]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).values()]
    replaced = [name for name, module in model.named_modules() if "forward" in vars(module)]
    return [*hooks, *replaced]


@pytest.mark.parametrize(
    ("probes", "outcomes"),
    [
        (PERPLEXITY + EXISTS + ZEROING + ATTENTION + HIDDEN, {"passed": 5}),
        (HEAD + EXISTS.replace("gt: 0", "gt: 100") + ZEROING.replace("gt: 10", "gt: 1e9"), {"failed": 2}),
        (HEAD + NO_SUCH_TOKEN + ATTENTION, {"errors": 1, "passed": 1}),
        (HEAD + ZEROING.replace("massive}", "massive, set: mean}"), {"errors": 1}),
    ],
    ids=["all hold", "some fail", "a measurement breaks off", "an edit is refused"],
)
def test_nothing_is_left_on_the_model_after_a_session(inner: Inner, probes: str, outcomes: dict[str, int]) -> None:
    inner.write("a.probe.yaml", probes)
    keep = Keep()
    inner.run(model=inner.checkpoints.planted, plugins=(keep,)).assert_outcomes(**outcomes)
    (model,) = keep.models
    assert [] == left_behind(model)
    assert ("sdpa", False) == (model.config._attn_implementation, model.training)

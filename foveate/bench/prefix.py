"""How long the prefix of a policy is, with all visual tokens and pruned: what `foveate inspect --prefix` prints.

rows = prefix_lengths(load_policy("path/to/checkpoint"))
print(as_text(rows))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from foveate.bench.trace import observations
from foveate.policy import Policy, TraceOptions
from foveate.pruning import LightVLA, make_pruner
from foveate.pruning.base import TokenPruner
from foveate.pruning.lightvla import LightVLAPruner
from foveate.types import Observation, TokenLayout
from foveate.util.words import percent


@dataclass(frozen=True)
class PrefixLength:
    """Tokens of one inference."""

    method: str
    """`none`, `lightvla`, or `checkpoint`: the pruner that the policy came with."""
    embedded: int
    """Tokens that are embedded, padding of the prompt and absent cameras among them."""
    real: int
    """Those of them that are no padding."""
    tokens: int
    """Tokens that the backbone sees."""
    visual: Mapping[str, int]
    """View -> patches among them."""

    @property
    def saved(self) -> float:
        """Share of the real tokens that the backbone does not see."""
        return 1 - self.tokens / self.real


def prefix_lengths(policy: Policy, observation: Observation | None = None) -> list[PrefixLength]:
    """A row without pruning, one with LightVLA as it is, and one with the policy's own pruner if it has another.

    Args:
        observation: None: noise as pictures, and a made-up instruction.
    """
    observation = observation or observations(policy, 1)[0]
    own = policy.pruner
    try:
        plain, layout = _measure(policy, "none", None, observation)
        rows = [plain, _measure(policy, "lightvla", make_pruner(LightVLA()), observation)[0]]
        is_default = isinstance(own, LightVLAPruner) and _settled(own.config, layout) == _settled(LightVLA(), layout)
        if own is not None and not is_default:
            rows.append(_measure(policy, "checkpoint", own, observation)[0])
    finally:
        policy.pruner = own
    return rows


def _measure(
    policy: Policy, method: str, pruner: TokenPruner | None, observation: Observation
) -> tuple[PrefixLength, TokenLayout]:
    policy.pruner = pruner
    trace = policy.infer(observation, evidence=TraceOptions(), session="prefix").trace
    policy.reset("prefix")
    assert trace is not None and trace.keep is not None
    keep, lengths = trace.keep["keep_mask"], trace.seq_lens
    visual = {view: int(keep[part].sum()) for view, part in trace.layout.view_slices.items()}
    embedded, real, tokens = (lengths[f"{name}_seq_len"] for name in ("padded", "pre", "post"))
    return PrefixLength(method, embedded, real, tokens, visual), trace.layout


def _settled(config: LightVLA, layout: TokenLayout) -> LightVLA:
    """With what it leaves to the sequence set."""
    return replace(config, scope=config.scope_in(layout), queries=config.queries_in(layout))


def as_text(rows: Sequence[PrefixLength]) -> str:
    """The table for people."""
    lines = [f"prefix: {rows[0].embedded} tokens embedded, {rows[0].real} of them real"]
    lines.append(f"  {'pruner':<12} {'tokens':>6}  {'fewer':>14}  visual tokens per view")
    for row in rows:
        fewer = f"{row.real - row.tokens} ({percent(row.saved, 2)})" if row.tokens < row.real else "-"
        lines.append(f"  {row.method:<12} {row.tokens:>6}  {fewer:>14}  {' + '.join(map(str, row.visual.values()))}")
    return "\n".join(lines)

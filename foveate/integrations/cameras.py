"""Other people's names of cameras, where a robot mapping does not know them."""

from __future__ import annotations

from collections.abc import Mapping

from foveate.policy import PolicySpec


def names_of(spec: PolicySpec, usual: Mapping[str, str], given: Mapping[str, str] | None) -> dict[str, str]:
    """Their name of a camera -> the policy's; a camera that is left out keeps its name.

    Args:
        usual: what a harness calls its cameras; counts where the policy does not know the name itself.
        given: by the user; always counts.
    """
    known = {name for names in spec.cameras.values() for name in names}
    return {theirs: ours for theirs, ours in usual.items() if theirs not in known} | dict(given or {})

import pytest

from foveate.bench.prefix import as_text, prefix_lengths
from foveate.cli.main import main
from foveate.policy import load_policy


def test_the_table_counts_what_the_backbone_sees(capsys):
    policy = load_policy("metaworld_tiny_lightvla")
    none, lightvla = prefix_lengths(policy)
    assert (none.method, none.embedded, none.visual) == ("none", 160, {"corner": 64, "gripperPOV": 64})
    assert none.tokens == none.real and none.saved == 0
    assert lightvla.tokens == none.tokens - 128 + sum(lightvla.visual.values()) and lightvla.visual["corner"] < 64
    assert lightvla.saved == pytest.approx(1 - lightvla.tokens / none.tokens)
    assert type(policy.pruner).__name__ == "LightVLAPruner"  # as it was loaded
    assert main(["inspect", "metaworld_tiny_lightvla", "--prefix"]) == 0
    assert as_text([none, lightvla]) in capsys.readouterr().out


def test_a_policys_own_pruner_has_a_row():
    rows = prefix_lengths(load_policy("metaworld_tiny", pruner={"name": "stride", "keep_tokens": 8}))
    assert [row.method for row in rows] == ["none", "lightvla", "checkpoint"]
    assert rows[-1].visual == {"corner": 8, "gripperPOV": 8} and rows[-1].tokens == rows[0].tokens - 112

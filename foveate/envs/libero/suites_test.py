import json

import pytest

from foveate.envs.libero.suites import INCOMPLETE, PLAIN, SUITES, base_of, choose_prompt, perturbed, resolve
from foveate.errors import FoveateError
from foveate.testing.golden import golden_dir


def test_suites_and_tasks():
    assert resolve("libero_90") == [f"libero_90/{i}" for i in range(90)]
    assert resolve("libero_spatial_swap/3") == ["libero_spatial_swap/3"]
    assert resolve("libero_goal/open_the_middle_drawer_of_the_cabinet") == ["libero_goal/0"]
    assert resolve("libero_goal_lan/open the middle drawer of the cabinet") == ["libero_goal_lan/0"]
    assert base_of("libero_10_swap") == "libero_10"
    assert base_of("libero_object_object") == "libero_object"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("libero_gaol", "did you mean 'libero_goal'"),
        ("libero_goal/10", "libero_goal/0 to libero_goal/9"),
        ("libero_goal/open_the_middle_drawr_of_the_cabinet", "did you mean 'open_the_middle_drawer_of_the_cabinet'"),
        ("libero_spatial_env", "lacks its task definitions .* lan, task, swap, object"),
        ("libero_10_object_ood/1", "lacks its task definitions"),
    ],
)
def test_names_that_are_none_and_suites_that_lack_files(name, message):
    with pytest.raises(FoveateError, match=message):
        resolve(name)


def test_perturbations():
    assert perturbed("libero_spatial", ("swap", "lan")) == ["libero_spatial_swap", "libero_spatial_lan"]
    assert perturbed("libero_goal/3,libero_10", ("task",)) == ["libero_goal_task/3", "libero_10_task"]
    for changes, message in ((("swp",), "did you mean 'swap'"), (("env",), "lacks its task definitions")):
        with pytest.raises(FoveateError, match=message):
            perturbed("libero_spatial", changes)
    with pytest.raises(FoveateError, match="expected a suite among"):
        perturbed("libero_90", ("lan",))


def test_prompts_follow_the_rule():
    languages = json.loads((golden_dir("libero") / "languages.json").read_text())
    plain = {(suite, row["name"]): row["bddl_language"] for suite, rows in languages.items() for row in rows}
    for suite, rows in languages.items():
        if base_of(suite) in languages:
            for row in rows:
                there = plain.get((base_of(suite), row["name"]))
                assert choose_prompt(row["task_language"], row["bddl_language"], there) == row["prompt"]


def test_what_the_package_registers():
    """Every suite that we name runs as a whole, and none that we refuse does."""
    rows = json.loads((golden_dir("libero", "suites.json") / "suites.json").read_text())["suites"]
    complete = {row["suite"] for row in rows if row["tasks"] == row["runnable_tasks"]}
    assert set(SUITES) <= complete
    assert not {f"{plain}_{ending}" for plain in PLAIN for ending in INCOMPLETE} & complete

"""A policy of foveate's, pruned or not, behind lerobot's policy interface, under the type `foveate`.

    pip install ./integrations/lerobot_policy_foveate        # lerobot finds plug-ins by the names of distributions
    lerobot-eval --policy.type=foveate --policy.checkpoint=CHECKPOINT --policy.pruner=lightvla --env.type=libero ...

lerobot looks for config, policy and processors in one module by these names: docs/integrations.md says what travels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from foveate.errors import FoveateError
from foveate.integrations.cameras import names_of
from foveate.policy import load_policy
from foveate.types import Observation

try:
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.pretrained import PreTrainedPolicy
    from lerobot.processor import AddBatchDimensionProcessorStep, PolicyAction, PolicyProcessorPipeline
    from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
    from lerobot.utils.constants import (
        OBS_IMAGE,
        OBS_IMAGES,
        OBS_STATE,
        POLICY_POSTPROCESSOR_DEFAULT_NAME,
        POLICY_PREPROCESSOR_DEFAULT_NAME,
    )
except ModuleNotFoundError as error:
    raise FoveateError(f"lerobot is not installed ({error}); docs/integrations.md says how to set it up") from error

CAMERAS = {"image2": "wrist_image"}
"""The cameras' names in lerobot's LIBERO -> the robot mappings'."""


@PreTrainedConfig.register_subclass("foveate")
@dataclass
class FoveateConfig(PreTrainedConfig):
    """What `--policy.*` sets.

    Args:
        checkpoint: Checkpoint folder of any family that foveate knows, or the name of a policy that ships with it.
        pruner: Pruning method; None: as the checkpoint was trained, `none`: all tokens.
        pruner_options: Of the method, such as {keep_ratio: 0.25}.
        load: Further options of `foveate.load_policy`, such as {dtype: bfloat16, robot: libero}.
        cameras: lerobot's name of a camera, without `observation.images.` -> the policy's.
        n_action_steps: Actions of a chunk that are executed before the policy looks again.
    """

    checkpoint: str = ""
    pruner: str | None = None
    pruner_options: dict[str, Any] = field(default_factory=dict)
    load: dict[str, Any] = field(default_factory=dict)
    cameras: dict[str, str] = field(default_factory=dict)
    n_action_steps: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_action_steps < 1:
            raise FoveateError(f"policy.n_action_steps: expected at least 1, got {self.n_action_steps}")
        if self.pruner_options and self.pruner is None:
            raise FoveateError("policy.pruner_options: name the method too, with policy.pruner")

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> None:
        return None

    @property
    def reward_delta_indices(self) -> None:
        return None

    def validate_features(self) -> None:
        """The robot mapping of the checkpoint decides; what it misses in an observation is named there."""

    def get_optimizer_preset(self) -> Any:
        raise FoveateError("this policy is trained by `foveate train policy`, not by lerobot")

    get_scheduler_preset = get_optimizer_preset


class FoveatePolicy(PreTrainedPolicy):
    """Observations in lerobot's form to actions in the robot's units; the checkpoint normalises by itself."""

    config_class = FoveateConfig
    name = "foveate"

    def __init__(self, config: FoveateConfig, **_: Any) -> None:
        """
        Raises:
            FoveateError: the checkpoint is missing, damaged, or does not fit its options.
        """
        super().__init__(config)
        if not config.checkpoint:
            raise FoveateError("policy.checkpoint: name a checkpoint folder, or a policy that ships with foveate")
        pruner = {} if config.pruner is None else {"pruner": {"name": config.pruner, **config.pruner_options}}
        self.policy = load_policy(config.checkpoint, device=config.device or "cpu", **pruner, **config.load)
        self.cameras = names_of(self.policy.spec, CAMERAS, config.cameras)
        self.reset()

    def reset(self) -> None:
        """Forget the chunk that is being executed, and what a pruner remembers of the episode."""
        self._actions: deque[Tensor] = deque()
        self.policy.reset()

    def select_action(self, batch: Mapping[str, Any], **kwargs: Any) -> Tensor:
        """The next action, float32 [B, action_dim]; infers where the last chunk is used up."""
        if not self._actions:
            chunk = self.predict_action_chunk(batch, **kwargs)
            self._actions.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        return self._actions.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: Mapping[str, Any], noise: Tensor | None = None, **_: Any) -> Tensor:
        """Action chunks, float32 [B, action_horizon, action_dim], on the host.

        Args:
            batch: `observation.images.*` float [B, 3, H, W] in [0, 1], `observation.state` [B, S], `task` B texts.
            noise: float32 [B, *noise_shape]; None draws it from torch's generator.
        Raises:
            FoveateError: a camera that the policy needs is missing, or the state has another length.
        """
        observations = self.observations(batch)
        chunks = self.policy.infer_batch(
            observations,
            None if noise is None else noise.cpu().numpy(),
            sessions=[str(row) for row in range(len(observations))],
        )
        return torch.from_numpy(np.stack([chunk.actions for chunk in chunks]))

    def observations(self, batch: Mapping[str, Any]) -> list[Observation]:
        """lerobot's batch, row by row as foveate takes it; pictures become the bytes again that they were made from."""
        images = {}
        for key, values in batch.items():
            if key == OBS_IMAGE or key.startswith(f"{OBS_IMAGES}."):
                name = key.removeprefix("observation.").removeprefix("images.")
                pixels = (values * 255).round().clamp(0, 255).to(torch.uint8)
                images[self.cameras.get(name, name)] = pixels.movedim(-3, -1).contiguous().cpu().numpy()
        states, tasks = batch[OBS_STATE].cpu().numpy(), batch.get("task", "")
        tasks = [tasks] * len(states) if isinstance(tasks, str) else tasks
        return [
            Observation({name: pictures[row] for name, pictures in images.items()}, state, task)
            for row, (state, task) in enumerate(zip(states, tasks, strict=True))
        ]

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any] | None]:
        raise FoveateError("this policy is trained by `foveate train policy`, not by lerobot")

    def get_optim_params(self) -> dict[str, Any]:
        raise FoveateError("this policy is trained by `foveate train policy`, not by lerobot")

    def _save_pretrained(self, save_directory: Any, **_: Any) -> None:
        raise FoveateError(f"the weights stay where they are, in {self.config.checkpoint}; nothing is saved by lerobot")


def make_foveate_pre_post_processors(
    config: FoveateConfig, dataset_stats: Any = None
) -> tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]:
    """Pipelines that only add a batch dimension: sizes and statistics are the checkpoint's own affair."""
    before = PolicyProcessorPipeline[dict[str, Any], dict[str, Any]](
        steps=[AddBatchDimensionProcessorStep()], name=POLICY_PREPROCESSOR_DEFAULT_NAME
    )
    after = PolicyProcessorPipeline[PolicyAction, PolicyAction](
        steps=[],
        name=POLICY_POSTPROCESSOR_DEFAULT_NAME,
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after

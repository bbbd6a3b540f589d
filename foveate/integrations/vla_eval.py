"""A model server for vla-eval (allenai/vla-evaluation-harness): its benchmarks play foveate's policies.

    python -m foveate.integrations.vla_eval --args.policy CHECKPOINT --args.pruner lightvla --address 0.0.0.0:8000
    vla-eval run --config configs/benchmarks/libero/spatial.yaml

docs/integrations.md says what travels.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from foveate.errors import FoveateError
from foveate.integrations.cameras import names_of
from foveate.policy import load_policy
from foveate.types import Observation
from foveate.util.noise import action_noise, stack_noise

try:
    from vla_eval.model_servers.base import SessionContext
    from vla_eval.model_servers.predict import PredictModelServer
    from vla_eval.model_servers.serve import run_server
    from vla_eval.specs import (
        GRIPPER_CLOSE_NEG,
        GRIPPER_CLOSE_POS,
        LANGUAGE,
        POSITION_DELTA,
        RAW,
        ROTATION_AA,
        STATE_EEF_POS_AA_GRIP,
        DimSpec,
    )
except ModuleNotFoundError as error:
    raise FoveateError(f'vla-eval is not installed ({error}); run: pip install "foveate[vla-eval]"') from error

CAMERAS = {"wrist": "wrist_image"}
"""The benchmarks' names of cameras -> the robot mappings'."""
LIBERO_STATE = ("eef_position", "eef_axis_angle", "gripper_qpos")


class FoveateModelServer(PredictModelServer):
    """One policy behind the harness's WebSocket protocol."""

    def __init__(
        self,
        policy: str,
        pruner: str | dict[str, Any] | None = None,
        device: str = "cpu",
        load: dict[str, Any] | None = None,
        cameras: dict[str, str] | None = None,
        seed: int = 0,
        *,
        chunk_size: int = 5,
        **kwargs: Any,
    ) -> None:
        """
        Args:
            policy: Checkpoint folder, or the name of a policy that ships with foveate.
            pruner: Pruning method, by name or as a mapping with `name` and options; None: as the checkpoint says.
            device: Torch device of the policy.
            load: Further options of `foveate.load_policy`, such as {"dtype": "bfloat16", "robot": "libero"}.
            cameras: The benchmark's name of a camera -> the policy's, beside those that the robot mapping knows.
            seed: Of the noise that inferences start from: the same episode draws the same noise, however it is batched.
            chunk_size: Actions of a chunk that are executed before the policy looks again.
        """
        super().__init__(chunk_size=chunk_size, **kwargs)
        options = {} if pruner is None else {"pruner": pruner}
        self.policy = load_policy(policy, device=device, **options, **(load or {}))
        self.seed = seed
        self.cameras = names_of(self.policy.spec, CAMERAS, cameras)
        self._episodes: dict[str, tuple[int, int]] = {}

    def get_observation_params(self) -> dict[str, Any]:
        """What a benchmark is asked to send; keys that it does not have are left aside by the harness."""
        params: dict[str, Any] = {"send_state": True, "send_wrist_image": len(self.policy.spec.views) > 1}
        if self.policy.spec.conventions.get("quaternion") == "sign_kept":
            # Else the harness turns quaternions with w < 0, into states that no policy of LIBERO's was trained on.
            params["quat_no_antipodal"] = True
        return params

    def get_action_spec(self) -> dict[str, DimSpec]:
        said = self.policy.spec.conventions
        if (said.get("action_space"), said.get("delta")) != ("eef_pose+gripper", True):
            return {"actions": RAW}
        closes = {"positive_closes": GRIPPER_CLOSE_POS, "positive_opens": GRIPPER_CLOSE_NEG}
        return {
            "position": POSITION_DELTA,
            "rotation": ROTATION_AA,
            "gripper": closes.get(str(said.get("gripper_sign")), RAW),
        }

    def get_observation_spec(self) -> dict[str, DimSpec]:
        names = tuple(name for name, _ in self.policy.spec.state)
        return {"state": STATE_EEF_POS_AA_GRIP if names == LIBERO_STATE else RAW, "language": LANGUAGE}

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        task = config.get("task", {})
        self._episodes[ctx.session_id] = (zlib.crc32(str(task.get("name", "")).encode()), task.get("episode_idx", 0))
        self.policy.reset(ctx.session_id)
        await super().on_episode_start(config, ctx)

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:
        self._episodes.pop(ctx.session_id, None)
        self.policy.reset(ctx.session_id)
        await super().on_episode_end(result, ctx)

    def predict_batch(self, obs_batch: list[dict[str, Any]], ctx_batch: list[SessionContext]) -> list[dict[str, Any]]:
        """An action chunk float32 [action_horizon, action_dim] for each observation.

        Raises:
            FoveateError: a camera that the policy needs is missing, or the state has another length.
            ValueError: there is no state, or a picture is no uint8 [H, W, 3].
        """
        noise = [self._noise(ctx) for ctx in ctx_batch]
        sessions = [ctx.session_id for ctx in ctx_batch]
        observations = [self.observation(obs) for obs in obs_batch]
        chunks = self.policy.infer_batch(observations, stack_noise(noise), sessions=sessions)
        return [{"actions": chunk.actions} for chunk in chunks]

    def observation(self, obs: Mapping[str, Any]) -> Observation:
        """What the harness sends (`images`, `states` or `state`, `task_description`), as foveate takes it."""
        images = {self.cameras.get(name, name): picture for name, picture in obs.get("images", {}).items()}
        return Observation(images, obs.get("states", obs.get("state")), obs.get("task_description", ""))

    def _noise(self, ctx: SessionContext) -> Any:
        task, episode = self._episodes.get(ctx.session_id, (0, 0))
        return action_noise(self.policy.spec.noise_shape, self.seed, task, episode, ctx.step)


if __name__ == "__main__":
    run_server(FoveateModelServer)

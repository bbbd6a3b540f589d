"""A model for lmms-eval: any of its own that runs a transformers model, with image tokens pruned.

    lmms-eval --model foveate --tasks mme --batch_size 8 \\
        --model_args base=qwen2_5_vl,pretrained=CHECKPOINT,pruner=dart,pruner.keep_ratio=0.25

`base` is lmms-eval's name of the model, whose prompts, processor and answers stay its own. lmms-eval finds this module
by the entry point in foveate's pyproject.toml. docs/integrations.md says more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from foveate.errors import FoveateError
from foveate.pruning import PrunerConfig, make_config
from foveate.pruning.generate import prune

try:
    from lmms_eval.api.model import lmms
    from lmms_eval.models.model_utils.gen_metrics import log_metrics
    from lmms_eval.models.registry_v2 import ModelManifest
    from lmms_eval.utils import simple_parse_args_string
except ModuleNotFoundError as error:
    raise FoveateError(
        f"lmms-eval is not installed ({error}); scripts/check_lmms_eval.sh sets it up in an environment of its own"
    ) from error

MANIFEST = ModelManifest("foveate", chat_class_path=f"{__name__}.Foveate")


class Pruned:
    """What stands before a model class of lmms-eval, so that its prompts are pruned."""

    pruner: ClassVar[PrunerConfig]
    answering: bool = False
    """A base may answer one kind of request by another."""

    def generate_until(self, requests: list[Any]) -> list[Any]:
        return self._pruned(super().generate_until, requests)  # type: ignore[misc]  # of the class behind this one

    def generate_until_multi_round(self, requests: list[Any]) -> list[Any]:
        return self._pruned(super().generate_until_multi_round, requests)  # type: ignore[misc]

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        return self._pruned(super().loglikelihood, requests)  # type: ignore[misc]

    def _pruned(self, answer: Callable[[list[Any]], list[Any]], requests: list[Any]) -> list[Any]:
        """Answers under the pruner; tokens per prompt join lmms-eval's throughput, as `avg_image_tokens...`."""
        if self.answering:
            return answer(requests)
        self.answering = True
        try:
            with prune(self.model, self.pruner) as told:  # type: ignore[attr-defined]
                answers = answer(requests)
        finally:
            self.answering = False
        if told.prompts:
            tokens = {"image_tokens": told.read / told.prompts, "image_tokens_kept": told.kept / told.prompts}
            log_metrics(total_elapsed_time=0.0, total_gen_tokens=0, avg_speed=0.0, additional_metrics=tokens)
        return answers


class Foveate(lmms):
    """`--model foveate`: makes a model of the class that `base` names, pruned."""

    is_simple = False

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        """
        Args:
            arg_string: `--model_args`: base, pruner and pruner.OPTION; all others are the base's own.
            additional_config: batch size and device.
        Raises:
            FoveateError: an unknown method or option, or a base that runs no transformers model.
        """
        from lmms_eval.models import get_model  # it is loading this module when the entry point is read

        given = simple_parse_args_string(arg_string)
        given |= {name: value for name, value in (additional_config or {}).items() if value is not None}
        options = {name: given.pop(name) for name in [*given] if name.startswith("pruner.")}
        method = {"name": given.pop("pruner", "none")}
        pruner = make_config(method | {name.removeprefix("pruner."): value for name, value in options.items()})
        if "base" not in given:
            raise FoveateError("base: name one of lmms-eval's own models to prune, as base=qwen2_5_vl")
        base = get_model(name := given.pop("base"))
        model = type(f"Foveate{base.__name__}", (Pruned, base), {"pruner": pruner})(**given)
        if not isinstance(getattr(model, "model", None), nn.Module):
            raise FoveateError(
                f"base={name}: lmms-eval runs it elsewhere than in transformers, where tokens are pruned; choose "
                "another, as base=qwen2_5_vl"
            )
        return model

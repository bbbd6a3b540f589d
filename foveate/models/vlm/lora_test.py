from __future__ import annotations

import pytest

from foveate.models.vlm.load import Lora, add_lora, load_vlm, save_vlm
from foveate.models.vlm.model import VLM
from foveate.testing.vlm import KINDS, samples, tiny_vlm

pytest.importorskip("peft")


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_takes_adapters_on_its_language_model_alone(kind):
    plain = tiny_vlm(kind)
    some = samples(3)
    expected = [a.loss_nats for a in plain.answer(some, "FULL")]
    vlm = VLM(add_lora(plain.model, Lora(rank=2)), plain.family, plain.prompts, plain.budget)
    learned = [name for name, p in vlm.model.named_parameters() if p.requires_grad]
    # Two layers of seven matrices, each with an A and a B.
    assert len(learned) == 2 * 7 * 2 and not any("vis" in name for name in learned)
    assert [a.loss_nats for a in vlm.answer(some, "FULL", reuse=vlm.text_pass(some))] == pytest.approx(
        expected, abs=1e-5
    )
    vlm.loss(some, "FULL").mean().backward()
    assert sum(float(p.grad.abs().sum()) for n, p in vlm.model.named_parameters() if "lora_B" in n) > 0


def test_adapters_alone_learn_and_come_back(tmp_path):
    import torch

    save_vlm(tiny_vlm(), tmp_path / "model")
    vlm = load_vlm(tmp_path / "model", lora=Lora(rank=4))
    some = samples(3)
    start = [a.loss_nats for a in vlm.answer(some, "FULL")]
    assert start == pytest.approx([a.loss_nats for a in tiny_vlm().answer(some, "FULL")], abs=1e-5)
    learned = {name for name, p in vlm.model.named_parameters() if p.requires_grad}
    assert learned and all("lora_" in name and "visual" not in name for name in learned)
    optimizer = torch.optim.Adam([p for p in vlm.model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        vlm.loss(some, "FULL", stop=True).mean().backward()
        optimizer.step()
    after = [a.loss_nats for a in vlm.answer(some, "FULL")]
    assert sum(after) < sum(start) - 0.1
    vlm.model.save_pretrained(tmp_path / "adapter")
    again = load_vlm(tmp_path / "model", lora=Lora(path=str(tmp_path / "adapter")))
    assert [a.loss_nats for a in again.answer(some, "FULL")] == pytest.approx(after, abs=1e-5)
    assert add_lora(tiny_vlm().model, Lora(targets=("q_proj",))).peft_config

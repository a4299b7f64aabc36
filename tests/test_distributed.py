"""Two processes under torchrun (gloo): rank and world size from the environment, gradients averaged, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_iterator import make_dataset

WORKER = """
import json, sys, torch, torch.distributed as dist
from dali_dr import ReinforcedIterator, losses
dist.init_process_group("gloo")
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 20))
model = torch.nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), 0.1)
loader = ReinforcedIterator(sys.argv[1], batch_size=4, device="cpu", num_threads=1, seed=5, last_batch="fill", with_index=True)
seen, norms = [], []
for epoch in range(2):
    for (batch,) in loader:
        loss = losses.kl_divergence(model(batch["data"]), batch["soft_ids"], batch["soft_probs"])
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        seen.append(batch["index"].tolist())
        norms.append(float(model.module[2].weight.norm()))
with open(f"{sys.argv[2]}/{dist.get_rank()}.json", "w") as file:
    json.dump({"seen": seen, "norms": norms, "state": loader.state_dict()}, file)
dist.destroy_process_group()
"""


def test_two_processes_train_together(tmp_path: Path, jpeg_bytes: list[bytes]) -> None:
    if not torch.distributed.is_available():
        pytest.skip("this torch has no torch.distributed")
    dataset = make_dataset(tmp_path / "set", jpeg_bytes)
    before = sorted(p.name for p in (tmp_path / "set").iterdir())
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(tmp_path / "set"), str(tmp_path)],
        check=True,
        env=environment,
        timeout=240,
        stderr=subprocess.DEVNULL,
    )
    one, two = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert one["norms"] == two["norms"]  # the replicas stay equal
    assert one["state"] == two["state"]
    for epoch in (0, 1):
        steps = range(epoch * len(one["seen"]) // 2, (epoch + 1) * len(one["seen"]) // 2)
        seen = [n for rank in (one, two) for s in steps for n in rank["seen"][s]]
        assert sorted(seen) == list(range(len(dataset)))  # 8 samples, two ranks of four: disjoint and complete
    assert sorted(p.name for p in (tmp_path / "set").iterdir()) == before  # no state files

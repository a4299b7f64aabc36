"""The examples for clusters: scripts that bash takes, commands that our parser and Ray's take, a manifest that KubeRay takes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, encode_jpeg, picture, write_files
from ray_nodes import ENVIRONMENT, START_SECONDS

import dali_dr
from dali_dr.cli import make_parser

CLUSTER = REPOSITORY / "examples" / "cluster"
SCRIPTS = sorted(path.name for path in CLUSTER.glob("*.sh"))
HOST = "127.0.0.1"


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_takes_the_scripts(script: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / script], check=True)
    text = (CLUSTER / script).read_text()
    assert "set -euo pipefail" in text and f"examples/cluster/{script}" in text
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", CLUSTER / script], check=True)


def run_script(script: str, folder: Path, **slurm: str) -> list[list[str]]:
    """The commands that a script comes to where Slurm and all that it starts only say what they were called with."""
    said = folder / "said"
    for name in ("srun", "dali-dr", "ray"):
        say = f"import json, sys; open({str(said)!r}, 'a').write(json.dumps([{name!r}, *sys.argv[1:]]) + '\\n')"
        (folder / name).write_text(f"#!{sys.executable}\n{say}\n")
    (folder / "scontrol").write_text(f'#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && printf "{HOST}\\nother\\n"\n')
    for path in folder.iterdir():
        path.chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "123456", **slurm}
    subprocess.run(["bash", CLUSTER / script, "/data/in", "s3://b/out", "resnet50"], check=True, env=environment)
    return [json.loads(line) for line in said.read_text().splitlines()]


def test_the_ray_script_on_slurm(tmp_path: Path) -> None:
    slurm = {"SLURM_JOB_NUM_NODES": "4", "SLURM_JOB_NODELIST": "n[1-4]", "SLURM_CPUS_PER_TASK": "64"}
    ((srun, *words),) = run_script("slurm_ray.sh", tmp_path, **slurm)
    start, command = words.index("ray"), words.index("--")
    assert srun == "srun" and "--cpus-per-task=64" in words[:start] and words[start + 1] == "symmetric-run"
    assert words[words.index("--min-nodes") + 1] == words[words.index("--nodes") + 1] == "4"
    symmetric = pytest.importorskip("ray.scripts.symmetric_run")
    context = symmetric.symmetric_run.make_context("_", words[start + 2 : command], resilient_parsing=True)
    assert context.params["min_nodes"] == 4 and symmetric.curate_and_validate_ray_start_args(words[start + 2 : command])
    options = reinforcing(words[command + 1 :])
    assert options.engine == "ray" and options.device == "gpu" and options.part is None
    assert options.address == context.params["address"] and options.address.startswith(f"{HOST}:")


def test_the_array_script_on_slurm(tmp_path: Path) -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8", "SLURM_CPUS_PER_TASK": "6"}
    ((_, cpus, *words),) = run_script("slurm_array.sh", tmp_path, **slurm)
    options = reinforcing(words)
    assert cpus == "--cpus-per-task=6"
    assert options.part == "3/8" and options.threads == 6 and options.engine == "local"


@pytest.mark.parametrize(
    ("array", "said", "parts"),
    [
        ([1, 2, 3], {}, ["1/3", "2/3", "3/3"]),
        ([0, 1, 2], {}, ["1/3", "2/3", "3/3"]),
        ([4, 6, 8], {}, ["1/3", "2/3", "3/3"]),
        ([7, 12], {"PARTS": "64"}, ["7/64", "12/64"]),
        ([0, 63], {"PARTS": "64", "FIRST": "0"}, ["1/64", "64/64"]),
    ],
)
def test_the_array_script_from_any_number(
    tmp_path: Path, array: list[int], said: dict[str, str], parts: list[str]
) -> None:
    """Slurm's variables as sbatch's manual has them; again for parts that failed."""
    slurm = {
        "SLURM_ARRAY_TASK_COUNT": str(len(array)),
        "SLURM_ARRAY_TASK_MIN": str(array[0]),
        "SLURM_ARRAY_TASK_STEP": str(array[1] - array[0]),
    }
    found = []
    for number in array:
        (tmp_path / str(number)).mkdir()
        ((_, _, *words),) = run_script(
            "slurm_array.sh", tmp_path / str(number), SLURM_ARRAY_TASK_ID=str(number), **slurm, **said
        )
        found.append(reinforcing(words).part)
    assert found == parts


def reinforcing(command: list[str]) -> Any:
    """The options of a `dali-dr reinforce …`."""
    assert command[:2] == ["dali-dr", "reinforce"]
    return make_parser().parse_args(command[1:])


def test_the_manifest_for_kuberay() -> None:
    yaml = pytest.importorskip("yaml")
    job = yaml.safe_load((CLUSTER / "kubernetes_rayjob.yaml").read_text())
    assert job["apiVersion"] == "ray.io/v1" and job["kind"] == "RayJob" and job["metadata"]["name"]
    spec = job["spec"]
    assert spec.keys() <= {
        *("entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"),
        *("submissionMode", "suspend", "runtimeEnvYAML", "activeDeadlineSeconds", "metadata"),
    }
    cluster = spec["rayClusterSpec"]
    assert cluster.keys() == {
        *("rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs")
    }
    assert cluster["enableInTreeAutoscaling"] is True and isinstance(cluster["rayVersion"], str)
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"  # no worker beside the driver, whose memory is the driver's
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert {"DALI_DR_WORK"} == {one["name"] for one in container["env"]}
    options = reinforcing(shlex.split(spec["entrypoint"]))
    assert options.engine == "ray" and options.address == "auto" and options.device == "gpu"
    assert 0 == workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"] == options.workers
    (container,) = workers["template"]["spec"]["containers"]
    assert int(container["resources"]["requests"]["cpu"]) == options.cpus_per_worker
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1" and options.gpus_per_worker == 1
    tolerated = {one["key"] for one in workers["template"]["spec"]["tolerations"]}
    assert "nvidia.com/gpu" in tolerated and any("spot" in key for key in tolerated)


def test_every_file_is_in_the_readme() -> None:
    text = (CLUSTER / "README.md").read_text()
    for path in CLUSTER.iterdir():
        assert path.name == "README.md" or f"({path.name})" in text


@pytest.mark.slow
def test_symmetric_run(tmp_path: Path) -> None:
    """In a name space of its own, since it ends by ending all of Ray that it sees."""
    pytest.importorskip("ray")
    shared = Path("/tmp/ray")
    shared.mkdir(exist_ok=True)
    space = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "-c"]
    try:
        subprocess.run(
            [*space, f"mount -t tmpfs tmpfs {shared}"], check=True, capture_output=True, timeout=START_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no name space of its own here: {error}")
    images = write_files(tmp_path / "in", {f"c{n % 3}/{n}.jpg": encode_jpeg(picture(50, 64, n)) for n in range(6)})
    (tmp_path / "go").touch()
    address = f"{HOST}:26379"
    driver = [
        sys.executable,
        REPOSITORY / "tests" / "ray_driver.py",
        images,
        tmp_path / "out",
        address,
        tmp_path / "go",
    ]
    start = ["--num-cpus", "1", "--include-dashboard", "false", "--object-store-memory", str(80 << 20)]
    command = shlex.join(map(str, ["ray", "symmetric-run", "--address", address, *start, "--", *driver]))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(REPOSITORY)}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*space, f"mount -t tmpfs tmpfs {shared} && exec {command}"],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(dali_dr.Dataset(tmp_path / "out")) == 6

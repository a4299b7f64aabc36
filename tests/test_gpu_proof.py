"""The harness of the GPU proof: a step that breaks costs only itself, and what must be seen is seen. No GPU is needed."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, write_files

BENCH = REPOSITORY / "bench"
sys.path.insert(0, str(BENCH))
import data_sets  # noqa: E402
import decode_stress  # noqa: E402
import device_stage  # noqa: E402
import gpu_proof  # noqa: E402
import kernel_report  # noqa: E402
import loaders  # noqa: E402
import proof_step  # noqa: E402


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, jpeg_bytes: list[bytes]) -> Path:
    folder = tmp_path_factory.mktemp("proof")
    photos = write_files(folder / "photos", {f"{i % 2}/{i}.jpg": data for i, data in enumerate(jpeg_bytes) if i != 5})
    (folder / "data").mkdir()
    loaders.prepare(photos, folder / "data", loaders.MIXING_NAMES, views=4)
    return folder / "data"


def test_a_command_that_hangs_is_ended_with_all_that_it_started() -> None:
    begin = time.monotonic()
    outcome, seconds, lines = proof_step.run_limited(["sh", "-c", "echo begun; sleep 60 & sleep 60"], 0.5)
    assert (outcome, lines) == ("cut off after 0 s", ["begun"]) and seconds < 10 and time.monotonic() - begin < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_nothing_behind(number: signal.Signals, tmp_path: Path) -> None:
    own = tmp_path / "pids"
    command = ["sh", "-c", f"sleep 61 & echo $! > {own}; sleep 62"]
    code = f"import proof_step as p; p.interrupt_on_signals(); print(p.run_limited({command!r}, 60)[0])"
    child = subprocess.Popen([sys.executable, "-c", code], cwd=BENCH, stdout=subprocess.PIPE, text=True)
    while not own.is_file() or not own.read_text().strip():
        time.sleep(0.05)
    child.send_signal(number)
    assert child.communicate(timeout=20)[0] == "interrupted\n"
    state = Path(f"/proc/{own.read_text().strip()}/stat")  # gone, or a zombie that nobody waits for
    assert not state.exists() or state.read_text().split()[2] == "Z"


@pytest.mark.parametrize(
    ("command", "outcome"),
    [
        ("exit 0", "passed"),
        ("exit 3", "failed with 3"),
        ("kill -SEGV $$", "killed by signal 11"),
    ],
)
def test_how_a_command_ended_is_said(command: str, outcome: str) -> None:
    assert proof_step.run_limited(["sh", "-c", command], 20)[0] == outcome
    assert proof_step.run_limited(["/nowhere/program"], 20)[0].startswith("cannot be run: ")


def test_figures_of_a_step_that_crashes_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = "import json, os, sys; json.dump(dict(rate=7), open(sys.argv[1], 'w')); os.kill(os.getpid(), 11)"
    crash = gpu_proof.Step("crash", (sys.executable, "-c", write, "{json}"), 20)
    fine = gpu_proof.Step("fine", (sys.executable, "-c", "print('well')"), 20)
    monkeypatch.setattr(gpu_proof, "STEPS", (crash, fine))
    monkeypatch.setattr(gpu_proof.loaders, "prepare", lambda *_, **__: {"images": 0})
    monkeypatch.setattr(sys, "argv", ["gpu_proof.py", "--json", str(tmp_path / "out.json"), "--device", "cpu"])
    assert gpu_proof.main() == 1
    steps = json.loads((tmp_path / "out.json").read_text())["steps"]
    assert steps["crash"]["outcome"] == "killed by signal 11" and steps["crash"]["figures"] == {"rate": 7}
    assert steps["fine"]["outcome"] == "passed"


def test_where_regions_crash_whole_images_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (sys.executable, "-c", "import sys; print('roi', sys.argv[1]); sys.exit(1)", "{roi}")
    for code, roi, names in (
        ("import os; os.kill(os.getpid(), 11)", "roi off", {"loaders", "whole", "after"}),
        ("", "roi on", {"loaders", "after"}),
    ):
        first = gpu_proof.Step("loaders", (sys.executable, "-c", code), 20)
        whole = gpu_proof.Step("whole", (sys.executable, "-c", ""), 20, instead_of="loaders")
        monkeypatch.setattr(gpu_proof, "STEPS", (first, whole, gpu_proof.Step("after", shown, 20)))
        monkeypatch.setattr(gpu_proof.loaders, "prepare", lambda *_, **__: {"images": 0})
        monkeypatch.setattr(sys, "argv", ["gpu_proof.py", "--json", str(tmp_path / "out.json")])
        assert gpu_proof.main() == 1
        steps = json.loads((tmp_path / "out.json").read_text())["steps"]
        assert set(steps) == names and steps["after"]["output"] == [roi]


def test_steps_without_time_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_proof.loaders, "prepare", lambda *_, **__: {"images": 0})
    monkeypatch.setattr(sys, "argv", ["gpu_proof.py", "--json", str(tmp_path / "out.json"), "--seconds", "1"])
    assert gpu_proof.main() == 1  # for nothing was shown
    steps = json.loads((tmp_path / "out.json").read_text())["steps"]
    assert set(steps) == {s.name for s in gpu_proof.STEPS if not s.instead_of} and all(
        s["outcome"].startswith("left out") for s in steps.values()
    )


def test_every_step_names_a_script_and_loaders_that_exist() -> None:
    for step in gpu_proof.STEPS:
        scripts = [Path(part) for part in step.command if part.endswith(".py") and Path(part).is_absolute()]
        assert all(path.is_file() for path in scripts)
        if "--names" in step.command:
            names = step.command[step.command.index("--names") + 1 :]
            assert {n for n in names if not n.startswith("-") and "_" in n} & set(loaders.LOADERS)
    assert sum(step.least for step in gpu_proof.STEPS) < 330
    assert {piece.program for piece in device_stage.pieces()} == {
        "device_test",
        *(f"device_test_{count}" for count in device_stage.THREADS),
    }


@pytest.mark.parametrize("corrupt", [None, 4])
def test_stress_sees_one_wrong_byte_of_one_sample_of_one_iteration(
    data: Path, corrupt: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = argparse.Namespace(device="cpu", threads=2, batch_size=2, iterations=6)
    feeds = decode_stress.make_feeds(data, 2)
    real, calls = decode_stress.tensors, [0]

    def tensors(outputs: Any) -> Any:
        made = [t.clone() for t in real(outputs)]
        calls[0] += 1
        if corrupt is not None and calls[0] == len(feeds) + corrupt:  # the first calls take what is right
            made[1][1, 0, 0, 0] ^= 5
        return made

    monkeypatch.setattr(decode_stress, "tensors", tensors)
    row = decode_stress.stress(feeds, 0.65, True, options, {})
    wrong = int(corrupt is not None)
    assert (row["iterations_that_differ"], row["samples_that_differ"], row["iterations"]) == (wrong, wrong, 6)
    assert (row["largest_difference"] > 0) == bool(wrong)


def test_batches_of_the_stress_differ(data: Path) -> None:
    """The same bytes over and over would be overwritten by themselves, and nobody would see it."""
    first, second, third = decode_stress.make_feeds(data, 2)
    for a, b in ((first, second), (second, third), (third, first)):
        assert any(x.tobytes() != y.tobytes() for x, y in zip(a[0], b[0], strict=True))


@pytest.mark.parametrize("name", ["gpu_loaders", "decoder_gap"])
def test_scripts_run_on_the_cpu(name: str, data: Path, tmp_path: Path) -> None:
    more = {"gpu_loaders": ["--names", "ours_rrc_ra_re", "decode_roi"], "decoder_gap": []}[name]
    command = [sys.executable, "-W", "ignore", str(BENCH / f"{name}.py"), "--data", str(data), "--device", "cpu", *more]
    outcome, _, lines = proof_step.run_limited([*command, "--json", str(tmp_path / "out.json")], 120)
    assert outcome == "passed", lines
    figures = json.loads((tmp_path / "out.json").read_text())
    if name == "gpu_loaders":
        assert set(figures["rates"]) == {"ours_rrc_ra_re", "decode_roi"} and min(figures["rates"].values()) > 0
    else:  # on the CPU both decoders are the same
        assert all(row["max_levels"] == 0 and row["views"] > 0 for row in figures.values())


def shell(*arguments: str, store: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PROOF_STORE": str(store), "PROOF_OUT": str(store / "out"), "PYTHON": sys.executable}
    environment |= settings
    command = [str(BENCH / "gpu_proof.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def test_missing_and_damaged_parts_are_named(tmp_path: Path) -> None:
    carried = write_files(tmp_path / "call-2", {"part-01": b"b"})
    hashes = "\n".join(
        subprocess.run(["sha256sum"], input=b, capture_output=True).stdout.decode().split()[0] + f"  part-0{i}"
        for i, b in enumerate((b"a", b"b"))
    )
    (carried / "parts.sha256").write_text(hashes + "\n")
    done = shell("unpack", str(carried), store=tmp_path / "store")
    assert done.returncode == 1 and "part-00" in done.stderr and "run stage device with call-1" in done.stderr
    (tmp_path / "store" / "part-00").write_bytes(b"x")
    done = shell("unpack", store=tmp_path / "store")
    assert done.returncode == 1 and "part-00: FAILED" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (["device", "--device"], {}, "--device is gpu or cpu"),
        (["device", "/nowhere"], {}, "/nowhere is no folder"),
        (["dali"], {"PROOF_SECONDS": "soon"}, "PROOF_SECONDS is soon"),
        (["dali"], {"PROOF_PHOTOS": "/nowhere"}, "PROOF_PHOTOS names /nowhere"),
        (["dali"], {"PROOF_OUT": "/proc/nowhere"}, "cannot be written into /proc/nowhere"),
    ],
)
def test_misuse_is_said_before_anything_is_done(
    arguments: list[str], settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    done = shell(*arguments, store=tmp_path / "store", **settings)
    assert done.returncode == 2 and message in done.stderr


def test_skipped_tests_have_shown_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_skipped.py").write_text("import pytest\n\n\n@pytest.mark.skip\ndef test(): ...\n")
    command = (sys.executable, "-m", "pytest", "-q", str(tmp_path / "test_skipped.py"))
    monkeypatch.setattr(gpu_proof, "STEPS", (gpu_proof.Step("tests", command, 60),))
    monkeypatch.setattr(gpu_proof.loaders, "prepare", lambda *_, **__: {"images": 0})
    monkeypatch.setattr(sys, "argv", ["gpu_proof.py", "--json", str(tmp_path / "out.json")])
    assert gpu_proof.main() == 1
    outcome = json.loads((tmp_path / "out.json").read_text())["steps"]["tests"]["outcome"]
    assert outcome.startswith("nothing run: 1 skipped")


def test_only_regular_files_are_replaced(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no regular file"):
        proof_step.write_json(Path("/dev/null"), {})
    assert not Path("/dev/null").is_file()


def test_photos_may_lie_flat(tmp_path: Path, jpeg_bytes: list[bytes]) -> None:
    flat = write_files(tmp_path / "flat", {f"IMG_{i}.JPEG": data for i, data in enumerate(jpeg_bytes[:3])})
    assert data_sets.folder_images(flat) == [(f"IMG_{i}", data, 0) for i, data in enumerate(jpeg_bytes[:3])]
    with pytest.raises(SystemExit, match="is no folder"):
        data_sets.folder_images(tmp_path / "nowhere")


def test_unknown_stage_is_refused(tmp_path: Path) -> None:
    done = shell("devise", store=tmp_path / "store")
    assert done.returncode == 2 and "what is stage devise" in done.stderr


def test_loops_of_a_listing_are_found_by_their_source() -> None:
    """A loop within a loop, as nvdisasm prints them: the inner one's instructions are its own."""
    text = ["DR_BLOCK void BlockReplay<Block>::GreySum() {", "  outer;", "  sum += w;", "}"]
    listing = """
	.section	.text.ReplayInShared,"ax",@progbits
	//## File "/x/block/histogram.h", line 2
        /*0000*/                   MOV R1, R2 ;
.L_outer:
        /*0010*/                   LDG.E.U8 R3, desc[UR4][R2.64] ;
.L_inner:
	//## File "/x/block/histogram.h", line 3
        /*0020*/                   LDS R5, [R6] ;
        /*0030*/                   IADD3 R3, R3, R5, RZ ;
        /*0040*/              @!P0 BRA `(.L_inner) ;
	//## File "/x/block/histogram.h", line 2
        /*0050*/               @P1 BRA `(.L_outer) ;
        /*0060*/                   EXIT ;
"""
    found = kernel_report.loops(kernel_report.parse(listing)["ReplayInShared"])
    assert sorted((len(loop.own), loop.innermost) for loop in found) == [(2, False), (3, True)]
    source = [("histogram", number, line) for number, line in enumerate(text, 1)]
    source.append(("layout", 1, "constexpr int32_t kResizeRows = 4;"))
    hot = kernel_report.Hot("contrast", "GreySum", r"sum \+= ", 1.0)
    assert kernel_report.measure(hot, source, found) == {"instructions": 3.0, "loads": 1.0, "local": 0}

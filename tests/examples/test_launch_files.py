"""Files of launchers: configs of Accelerate read by Accelerate, and the batch script run by bash."""

import os
import subprocess
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType

from house import REPO, classes, modules
from vjepa_hf.training.arguments import parse_arguments

CONFIGS = REPO / "examples" / "accelerate"
EXPECTED = {
    "cpu.yaml": (DistributedType.NO, 1, 1),
    "one_gpu.yaml": (DistributedType.NO, 1, 1),
    "multi_gpu.yaml": (DistributedType.MULTI_GPU, 1, 8),
    "multi_node.yaml": (DistributedType.MULTI_GPU, 2, 16),
    "fsdp.yaml": (DistributedType.FSDP, 1, 8),
}


def test_every_accelerate_config_is_tested():
    assert {path.name for path in CONFIGS.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_config_correctly(name):
    config = load_config_from_file(str(CONFIGS / name))
    assert (config.distributed_type, config.num_machines, config.num_processes) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_launcher_accepts_the_config(name):
    command = ["--config_file", str(CONFIGS / name), "examples/pretrain.py"]
    args, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    assert args.num_processes == EXPECTED[name][2]
    assert args.use_cpu == (name == "cpu.yaml")
    assert args.use_fsdp == (name == "fsdp.yaml")
    assert args.mixed_precision == ("no" if name == "cpu.yaml" else "bf16")


def test_the_reader_of_accelerate_catches_a_violation(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text((CONFIGS / "cpu.yaml").read_text() + "no_such_key: 1\n")
    with pytest.raises(ValueError, match="no_such_key"):
        load_config_from_file(str(broken))


def test_fsdp_2_wraps_existing_layers():
    config = load_config_from_file(str(CONFIGS / "fsdp.yaml")).fsdp_config
    assert config["fsdp_version"] == 2
    layers = config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    assert set(layers) <= {node.name for node in classes(modules()["model.modeling_vjepa"])}


def test_make_passes_options_to_the_script():
    command = ["make", "-n", "pretrain", "VENV=nowhere", "ARGS=--max_steps 100"]
    planned = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in planned.splitlines() if "launch" in line)
    words = line.split()
    assert words[-3:] == ["examples/pretrain.py", "--max_steps", "100"]
    assert parse_arguments(words[-2:], REPO / "examples" / "configs" / "tiny_cpu.yaml").optimization.max_steps == 100


def syntax_error(script: Path) -> str:
    return subprocess.run(["bash", "-n", script], capture_output=True, text=True).stderr


@pytest.mark.parametrize("script", ["examples/slurm/pretrain.sbatch", ".ci/run"])
def test_shell_scripts_parse_and_stop_at_the_first_error(script):
    assert syntax_error(REPO / script) == ""
    assert "\nset -euo pipefail\n" in (REPO / script).read_text()


def test_shell_syntax_catches_a_violation(tmp_path):
    script = tmp_path / "broken.sh"
    script.write_text("if true; then echo\n")
    assert syntax_error(script)


@pytest.fixture
def fake_slurm(tmp_path):
    """A PATH whose srun runs its command once, as node 3 of 4, and whose accelerate prints its arguments."""
    for name, body in {
        "scontrol": "printf 'node-a\\nnode-b\\n'",
        "srun": 'shift; SLURM_NODEID=3 exec "$@"',
        "accelerate": "printf '%s\\n' \"$@\"",
    }.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {
        "PATH": path,
        "SLURM_JOB_NODELIST": "node-[a-d]",
        "SLURM_NNODES": "4",
        "SLURM_JOB_ID": "71234",
    }


def submitted_arguments(environment, *arguments) -> list[str]:
    command = ["bash", "examples/slurm/pretrain.sbatch", *map(str, arguments)]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )


def test_batch_script_launches_every_node_and_accepts_paths_with_spaces(fake_slurm, tmp_path):
    arguments = submitted_arguments(fake_slurm, tmp_path / "a run", "--videos", "my videos")
    value = {name: arguments[arguments.index(name) + 1] for name in arguments if name.startswith("--")}
    assert value["--machine_rank"] == "3"
    assert value["--num_processes"] == "32"
    assert value["--main_process_ip"] == "node-a"
    assert value["--videos"] == "my videos"
    assert value["--output_dir"] == str(tmp_path / "a run")
    assert "--resume" not in arguments and "--overwrite_output_dir" not in arguments
    launch_command_parser().parse_args(arguments)


def test_batch_script_resumes_a_run_with_checkpoints_and_restarts_one_without(fake_slurm, tmp_path):
    (tmp_path / "checkpoints" / "unfinished_step_00000003").mkdir(parents=True)
    (tmp_path / "arguments.yaml").touch()
    assert submitted_arguments(fake_slurm, tmp_path)[-2] == "--overwrite_output_dir"
    (tmp_path / "checkpoints" / "set_aside_0_step_00000003").mkdir()
    assert {"--resume", "--overwrite_output_dir"}.isdisjoint(submitted_arguments(fake_slurm, tmp_path))
    (tmp_path / "checkpoints" / "step_00000003").mkdir()
    assert submitted_arguments(fake_slurm, tmp_path)[-2] == "--resume"

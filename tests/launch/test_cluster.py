"""What clusters start: launch/slurm.sbatch and launch/kubernetes/, with the variables that they would set."""

from __future__ import annotations

import json
import os
import re
import runpy
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.jobs import free_port
from tests.launch.conftest import LAUNCH, RECIPE, Checkout

HERE, ELSEWHERE = "127.0.0.1", "192.0.2.10"
NODE_0 = "--worker_num={all} --local_worker_num={local} --node_rank=0 --master_addr=127.0.0.1 "
NODE_1 = "--worker_num={all} --local_worker_num={local} --node_rank=1 --master_addr=192.0.2.10 "


def documents(name: str) -> dict[str, Any]:
    """Return the documents of a file of launch/kubernetes/ by their kind."""
    text = (LAUNCH / "kubernetes" / name).read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def fill_in(words: list[str], checkout: Checkout, tmp_path: Path) -> list[str]:
    """Put this checkout in the place of the image's folders, and the tests' recipe in that of the user's."""
    (tmp_path / "ascend" / "ascend-toolkit").mkdir(parents=True, exist_ok=True)
    (tmp_path / "ascend" / "ascend-toolkit" / "set_env.sh").write_text("export FROM_CANN=1\n")
    places = {
        "/job/code": str(checkout.root),
        "/usr/local/Ascend": str(tmp_path / "ascend"),
        "REPLACE-with-your-recipe.yaml": str(checkout.root / RECIPE),
    }
    for place, filled in places.items():
        words = [word.replace(place, filled) for word in words]
    return words


def run_container(
    container: dict[str, Any], checkout: Checkout, tmp_path: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a container's command with --dry-run; settings that the tests' recipe does not know are left out."""
    words = fill_in([*container["command"], *container["args"]], checkout, tmp_path)
    words = [word for word in words if not re.match(r"(device|checkpoint\..*)=", word)]
    given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    environment = checkout.environment(**{**given, **variables})
    return subprocess.run([*words, "--dry-run"], env=environment, cwd=tmp_path, capture_output=True, text=True)


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """A folder for stand-ins of a cluster's commands."""
    folder = tmp_path / "commands"
    folder.mkdir()
    return folder


def stand_in(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


# Slurm


def of_slurm(checkout: Checkout, commands: Path, first: str) -> dict[str, str]:
    """Return the variables of a job of three nodes, with a stand-in for what names them."""
    stand_in(commands, "scontrol", f'[[ "$*" == "show hostnames a-[1-3]" ]] && printf "{first}\\nb\\nc\\n"')
    environment = checkout.environment(
        SLURM_JOB_NODELIST="a-[1-3]",
        SLURM_JOB_NUM_NODES="3",
        SLURM_JOB_ID="123456",
        SLURM_SUBMIT_DIR=str(checkout.root),
    )
    return {**environment, "PATH": f"{commands}{os.pathsep}{environment['PATH']}"}


@pytest.mark.parametrize(("node", "first", "expected"), [(0, HERE, NODE_0), (1, ELSEWHERE, NODE_1)])
def test_slurm(checkout: Checkout, commands: Path, node: int, first: str, expected: str) -> None:
    """srun starts the rest of the line on each node, with the number of the node."""
    stand_in(commands, "srun", f'[[ $1 == --kill-on-bad-exit=1 ]] && shift && SLURM_NODEID={node} exec "$@"')
    environment = of_slurm(checkout, commands, first)
    arguments = ("--config", RECIPE, "name=trial", "--dry-run")
    done = checkout.run("slurm.sbatch", *arguments, environment={**environment, "RANKS": "4"})
    assert done.returncode == 0, done.stderr
    assert expected.format(all=12, local=4) + "--master_port=23456 " in done.stdout
    assert done.stdout.endswith(f"python -m train --config {RECIPE} name=trial\n")
    checked = checkout.run("slurm.sbatch", *arguments, environment={**environment, "SCRIPT": "preflight.sh"})
    assert expected.format(all=24, local=8) in checked.stdout
    assert f"python -m train.preflight --config {RECIPE} name=trial\n" in checked.stdout


def test_the_networks_variables_reach_the_nodes(checkout: Checkout, commands: Path) -> None:
    """Those that the script names, once they are no comments any more."""
    stand_in(commands, "srun", "env")
    script = checkout.root / "launch" / "slurm.sbatch"
    script.write_text(script.read_text().replace("# export HCCL_", "export HCCL_"))
    done = checkout.run("slurm.sbatch", environment=of_slurm(checkout, commands, HERE))
    assert {"HCCL_SOCKET_IFNAME=eth0", "HCCL_IF_BASE_PORT=60000"} <= set(done.stdout.splitlines()), done.stderr


def test_the_slurm_script_asks_for_one_task_a_node() -> None:
    text = (LAUNCH / "slurm.sbatch").read_text()
    directives = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    assert {"--nodes=2", "--ntasks-per-node=1", "--signal=TERM@120"} <= set(directives)
    first_command = text.index("\nset -euo pipefail")
    assert text.rindex("#SBATCH") < first_command  # Slurm reads none after it


# Kubernetes alone


@pytest.mark.parametrize(("node", "master", "expected"), [(0, HERE, NODE_0), (1, ELSEWHERE, NODE_1)])
def test_kubernetes_on_cpus(
    checkout: Checkout, commands: Path, tmp_path: Path, node: int, master: str, expected: str
) -> None:
    stand_in(commands, "getent", f"[[ $* == 'hosts {master}' ]]")
    (container,) = documents("job-cpu.yaml")["Job"]["spec"]["template"]["spec"]["containers"]
    path = f"{commands}{os.pathsep}{checkout.environment()['PATH']}"
    port = str(free_port())  # the job's own may be taken by whatever else runs on this machine
    variables = {"MS_NODE_RANK": str(node), "MS_SCHED_HOST": master, "MS_SCHED_PORT": port, "PATH": path}
    done = run_container(container, checkout, tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert expected.format(all=4, local=2) + f"--master_port={port} " in done.stdout
    assert done.stdout.endswith("name=digits resume=auto\n")


def test_the_parts_of_the_job_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(LAUNCH)
    final_codes = runpy.run_path(str(LAUNCH / "job.py"))["FINAL_CODES"]  # after which --max-restarts does not go on
    found = documents("job-cpu.yaml")
    service, job = found["Service"], found["Job"]
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    variables = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert variables["MS_SCHED_HOST"] == f"{name}-0.{service['metadata']['name']}"
    assert spec["completionMode"] == "Indexed" and spec["completions"] == spec["parallelism"]
    assert int(variables["MS_WORKER_NUM"]) == spec["completions"] * int(variables["MS_LOCAL_WORKER"])
    assert all(isinstance(value, str | None) for value in variables.values())  # Kubernetes takes no numbers here
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"] and pod["restartPolicy"] == "Never"
    failures = [code for code in final_codes if 0 < code < 128]  # a pod that was stopped may go on elsewhere
    assert rule["onExitCodes"]["values"] == failures
    check_pod(pod)


def check_pod(pod: dict[str, Any]) -> None:
    """Every mounted volume is declared, no volume for nothing, and the image is one that a Dockerfile here makes."""
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        dockerfile = {"resnet:cpu": "Dockerfile", "resnet:ascend": "Dockerfile.ascend"}[container["image"]]
        assert f" -t {container['image']} ." in (LAUNCH / dockerfile).read_text()
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["volumes"]
        if len(volume) > 1 and "persistentVolumeClaim" in volume
    ]
    assert claims and all(claim.startswith("REPLACE") for claim in claims)


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.ascend"])
def test_a_dockerfile_copies_what_is_there_to_where_the_jobs_look(name: str) -> None:
    """No image can be built here: what can be read off the file is checked."""
    text = re.sub(r"\\\n", " ", (LAUNCH / name).read_text())
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [word for word, _ in steps[:2]] == ["ARG", "FROM"] and {word for word, _ in steps} <= {
        *("ARG", "FROM", "RUN", "COPY", "ENV", "WORKDIR", "CMD")
    }
    copied = dict(rest.split() for word, rest in steps if word == "COPY")
    assert all((LAUNCH.parent / source).exists() for source in copied)
    assert {source for source, to in copied.items() if to == f"/job/code/{source}"} >= {"schedules", "models", "train"}
    command = json.loads(next(rest for word, rest in steps if word == "CMD"))
    assert re.search(r"/job/code/launch/(\w+\.sh)", " ".join(command))


# MindCluster


def operator_variables(job: dict[str, Any], replica: str, index: int, address: str) -> dict[str, str]:
    """Return what Ascend Operator sets in a pod of a MindSpore job ("Environment Variable Description", table 2).

    Where the Scheduler has devices of its own, it counts as node 0 and the Workers from 1.
    """
    replicas = job["spec"]["replicaSpecs"]
    (container,) = replicas[replica]["template"]["spec"]["containers"]
    devices = container["resources"]["requests"]["huawei.com/Ascend910"]
    (port,) = (port["containerPort"] for port in container["ports"] if port["name"] == "ascendjob-port")
    return {
        "MS_ROLE": "MS_SCHED" if replica == "Scheduler" else "MS_WORKER",
        "MS_SERVER_NUM": "0",
        "MS_WORKER_NUM": str(devices * sum(spec["replicas"] for spec in replicas.values())),
        "MS_LOCAL_WORKER": str(devices),
        "MS_NODE_RANK": str(index + (replica == "Worker")),
        "MS_SCHED_HOST": address,
        "MS_SCHED_PORT": str(port),
    }


@pytest.mark.parametrize(
    ("replica", "address", "expected"), [("Scheduler", HERE, NODE_0), ("Worker", ELSEWHERE, NODE_1)]
)
def test_ascendjob(checkout: Checkout, tmp_path: Path, replica: str, address: str, expected: str) -> None:
    job = documents("ascendjob.yaml")["AscendJob"]
    (container,) = job["spec"]["replicaSpecs"][replica]["template"]["spec"]["containers"]
    variables = operator_variables(job, replica, 0, address)
    done = run_container(container, checkout, tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert expected.format(all=16, local=8) + "--master_port=2222 " in done.stdout
    for variable in ("MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT"):
        assert f"-u {variable} " in done.stdout  # msrun sets them for each of its processes


def test_the_parts_of_the_ascendjob_fit() -> None:
    job = documents("ascendjob.yaml")["AscendJob"]
    spec = job["spec"]
    replicas = spec["replicaSpecs"]
    assert (job["apiVersion"], job["metadata"]["labels"]["framework"]) == ("mindxdl.gitee.com/v1", "mindspore")
    assert set(replicas) == {"Scheduler", "Worker"} and replicas["Scheduler"]["replicas"] == 1
    assert spec["runPolicy"]["schedulingPolicy"]["minAvailable"] == sum(r["replicas"] for r in replicas.values())
    labels = [job["metadata"]["labels"], *(r["template"]["metadata"]["labels"] for r in replicas.values())]
    assert len({label["ring-controller.atlas"] for label in labels}) == 1
    pod = replicas["Worker"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["name"] == "ascend"
    assert container["resources"]["requests"] == container["resources"]["limits"]
    (resource,) = container["resources"]["requests"]
    assert f"metadata.annotations['{resource}']" in str(container["env"])
    (rule,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule["labelSelector"]["matchExpressions"][0]["values"] == [job["metadata"]["name"]]
    assert not pod.get("hostNetwork")
    check_pod(pod)


# Options and variables


CLUSTER = {
    "MS_WORKER_NUM": "4",
    "MS_LOCAL_WORKER": "2",
    "MS_NODE_RANK": "1",
    "MS_SCHED_HOST": ELSEWHERE,
    "MS_SCHED_PORT": "2222",
}


def dry_run(checkout: Checkout, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return checkout.run(script, "--dry-run", *arguments, environment=checkout.environment(**variables))


def test_options_win_over_variables(checkout: Checkout) -> None:
    options = f"--config {RECIPE} --nodes 3 --node-rank 2 --ranks 1 --master 192.0.2.20 --port 3333".split()
    done = dry_run(checkout, "node.sh", *options, **{**CLUSTER, "MS_WORKER_NUM": "no number"})
    words = "--worker_num=3 --local_worker_num=1 --node_rank=2 --master_addr=192.0.2.20 --master_port=3333 "
    assert words in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"MS_LOCAL_WORKER": "9" * 5000}, "must be a whole number of at least 1, with 9 digits at most"),
        ({"MS_SCHED_PORT": "9" * 5000}, "must be a port from 1024 to 65535"),
        ({"MS_LOCAL_WORKER": "all"}, "variable MS_LOCAL_WORKER: 'all' must be a whole number of at least 1"),
        ({"MS_SCHED_PORT": "80"}, "variable MS_SCHED_PORT: '80' must be a port from 1024 to 65535"),
        ({"MS_WORKER_NUM": "5"}, "variable MS_WORKER_NUM: 5 ranks in all do not fill nodes of 2 each"),
        ({"MS_WORKER_NUM": "1"}, "variable MS_WORKER_NUM: 1 ranks in all do not fill nodes of 2 each"),
        ({"MS_NODE_RANK": "2"}, "--node-rank: 2 must be from 0 to 1"),
        ({"MS_SCHED_HOST": ""}, "required: --master"),
        ({"MS_SCHED_HOST": "a..b"}, "--master a..b: no valid name of a host"),
    ],
)
def test_variables_that_do_not_fit(checkout: Checkout, variables: dict[str, str], words: str) -> None:
    done = dry_run(checkout, "node.sh", "--config", RECIPE, **{**CLUSTER, **variables})
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert words in done.stderr


def test_this_machine_does_not_ask_the_cluster(checkout: Checkout) -> None:
    done = dry_run(checkout, "local.sh", "--ranks", "3", "--config", RECIPE, **CLUSTER)
    assert "--worker_num=3 --local_worker_num=3 --master_addr=127.0.0.1 " in done.stdout


def test_preflight_of_this_machine_and_of_a_cluster(checkout: Checkout) -> None:
    done = dry_run(checkout, "preflight.sh", "--ranks", "2")
    assert "--worker_num=2 --local_worker_num=2 --master_addr=127.0.0.1 --master_port=" in done.stdout, done.stderr
    assert done.stdout.endswith("python -m train.preflight\n")
    done = dry_run(checkout, "preflight.sh", "--ranks", "2", "--free-gib", "0.5", "--timeout", "600")
    assert done.stdout.endswith("python -m train.preflight --free-gib=0.5 --timeout=600.0\n"), done.stderr
    done = dry_run(checkout, "preflight.sh", **CLUSTER)
    words = "--worker_num=4 --local_worker_num=2 --node_rank=1 --master_addr=192.0.2.10 --master_port=2222 "
    assert words in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "required: --ranks"),
        ("--ranks 2 name=trial", "name=trial is a setting over a recipe's; give --config RECIPE, too"),
        ("--ranks 2 --nodes 2", "required: --node-rank, --master"),
        ("--ranks 2 --free-gib 1GiB", "--free-gib: '1GiB' must be a number of at least 0"),
        ("--ranks 2 --timeout nan", "--timeout: 'nan' must be a number of at least 0"),
        (f"--ranks 2 --config {RECIPE} nmae=trial", "^error: unknown key nmae"),
    ],
)
def test_mistakes_of_preflight(checkout: Checkout, arguments: str, words: str) -> None:
    done = checkout.run("preflight.sh", *arguments.split(), environment=checkout.environment())
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert re.search(words, done.stderr)


@pytest.mark.msrun
def test_a_job_inside_a_pod(checkout: Checkout) -> None:
    """A real one, of a single pod: the operator's variables, MS_ROLE above all, would make msrun's processes others."""
    variables = {"MS_WORKER_NUM": "2", "MS_LOCAL_WORKER": "2", "MS_NODE_RANK": "0", "MS_ROLE": "MS_SCHED"}
    variables |= {"MS_SCHED_HOST": socket.gethostbyname("localhost"), "MS_SCHED_PORT": str(free_port())}
    arguments = ("--config", RECIPE, "name=trial")
    done = checkout.run("node.sh", *arguments, environment=checkout.environment(**variables, MS_SERVER_NUM="0"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ready: ")
    assert checkout.processes() == []

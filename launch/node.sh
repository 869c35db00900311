#!/usr/bin/env bash
# Trains on several machines: this starts the ranks of one of them.
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    cat <<'HELP'
usage: launch/node.sh --nodes N --node-rank K --master ADDRESS --ranks R --config RECIPE [--port P]
                      [--[no-]bind-core] [--dry-run] [key=value ...]

Runs the R ranks of node K of a job of N nodes, N*R ranks in all. Start it on every node, within ten minutes, with the
same arguments but for --node-rank.

  --nodes N         number of nodes
  --node-rank K     which one this is, 0 to N-1; it runs the ranks K*R to K*R+R-1
  --master ADDRESS  address of node 0, as the other nodes see it
  --ranks R         ranks on this node, the same number on every node; on Ascend one device each
  --config RECIPE   the run's YAML file
  --port P          free port of node 0 (1024-65535; 8118 if none is given)
  --bind-core       let msrun bind each rank to processor cores, on Ascend near its device (launch/ASCEND.md)
  --no-bind-core    on a CPU do not bind each rank to its part of the cores, by its number on
                    the machine; bound, two jobs beside each other share cores (launch/README.md)
  --dry-run         check everything and print the msrun command on stdout, but start nothing
  key=value         settings over the recipe's, for example name=trial

Where a cluster sets them (MindCluster, slurm.sbatch, kubernetes/job-cpu.yaml), these variables stand in for options
that are not given: MS_LOCAL_WORKER for --ranks, MS_WORKER_NUM (all ranks) for --nodes, MS_NODE_RANK, MS_SCHED_HOST
for --master and MS_SCHED_PORT.

Variables of this shell reach every rank of this node. On hosts with several networks set HCCL_SOCKET_IFNAME or the node's
own HCCL_IF_IP, and HCCL_IF_BASE_PORT where its ports are taken (launch/ASCEND.md).

Rank 0's lines appear on node 0; the logs of this node's ranks are in runs/<name>/logs/node-K/.
Exit codes are those of launch/local.sh.
HELP
    exit
fi

start_job node "$@"

#!/usr/bin/env bash
# A run on the nodes of a Slurm allocation: Ray on all of them, the driver on the first.
#
#   sbatch clusters/slurm.sh CONFIG out=/shared/results [key=value ...]
#
# Submit it from a shell in which `ray` and `python` are those of the environment that the project is
# installed in. Home, that environment and `out` must be the same on all nodes.
#
# Exit status: that of `harness run`; 1 also when Ray did not start on every node.

#SBATCH --job-name=prompt-grid
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
# Started again after a node failed, the run goes on with what is not committed.
#SBATCH --requeue
# `ray symmetric-run` ends with `ray stop`, which ends every Ray of this user on the node.
#SBATCH --exclusive

set -euo pipefail

refuse() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

[[ -n ${SLURM_JOB_ID:-} ]] || refuse "not in a Slurm job; submit it: sbatch clusters/slurm.sh CONFIG out=/shared/results"
command -v ray > /dev/null || refuse "ray is not on the PATH; submit from the environment that the project is installed in"
[[ $# -gt 0 && -f $1 ]] || refuse "no configuration file '${1:-}'; expected: sbatch clusters/slurm.sh CONFIG out=/shared/results"
out=
for argument in "$@"; do
  case $argument in
    out=*) out=${argument#out=} ;;
    cluster.address=*) refuse "cluster.address is set by this script" ;;
  esac
done
[[ $out == /* || $out == *://* ]] || refuse "out='$out'; give an absolute path that all nodes share, or a storage URI"

# Made once and kept in the user's home; `get-auth-token` prints the token, which does not belong in a log.
unset RAY_AUTH_TOKEN RAY_AUTH_TOKEN_PATH
(umask 077 && ray get-auth-token --generate > /dev/null)
chmod 600 "$HOME/.ray/auth_token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token"
# Ray reports usage to its makers unless told not to.
export RAY_USAGE_STATS_ENABLED=0
# Replicas on all nodes share one copy of a hub model.
export HF_HOME="${HF_HOME:-$HOME/.cache/huggingface}"
# Seconds to wait for the other nodes; Ray's default of 30 is short for a cold file system.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

# The batch script runs on the first node. A host name may resolve to the loopback there, so take the address.
read -r head_ip _ <<< "$(hostname -I)"
port=$((20000 + SLURM_JOB_ID % 10000))

# `ray symmetric-run` exits with 0 when Ray did not start. The driver's own status, left behind in a file,
# tells a finished run from one that never began.
export HARNESS_STATUS_FILE="${SLURM_SUBMIT_DIR:-$PWD}/prompt-grid-$SLURM_JOB_ID.status"
rm -f "$HARNESS_STATUS_FILE"
# At the time limit Slurm sends SIGTERM to all of the step; this shell outlives the driver to note its status.
# shellcheck disable=SC2016  # expanded by the inner shell
driver='trap : TERM; status=0; python -m harness run "$@" || status=$?
printf "%s\n" "$status" > "$HARNESS_STATUS_FILE"; exit "$status"'

srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
  ray symmetric-run --address "$head_ip:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="${SLURM_CPUS_PER_TASK:-1}" -- \
  bash -c "$driver" harness "$@" cluster.address="$head_ip:$port" || true

if [[ ! -s $HARNESS_STATUS_FILE ]]; then
  printf 'error: the driver did not run to an end; the log above says what Ray or Slurm did\n' >&2
  exit 1
fi
status=$(< "$HARNESS_STATUS_FILE")
rm -f "$HARNESS_STATUS_FILE"
exit "$status"

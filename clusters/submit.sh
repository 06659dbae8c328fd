#!/usr/bin/env bash
# Submit a run as a Ray job, follow its log, and exit with its status.
#
#   clusters/submit.sh [--address http://HEAD:8265] CONFIG out=/shared/results [key=value ...] [--fresh]
#
# The address may also be in RAY_ADDRESS (or RAY_API_SERVER_ADDRESS). The current directory travels to the
# cluster as the job's working directory, without what .gitignore, .rayignore and runtime_env.yaml leave out.
#
# Exit status: that of `harness run`; 2 also for what is refused here; 143 when the job was stopped; 1 when it
# failed in another way or its end is unknown.
set -euo pipefail

refuse() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

usage='usage: clusters/submit.sh [--address http://HEAD:8265] CONFIG out=/shared/results [key=value ...]'
address=${RAY_API_SERVER_ADDRESS:-${RAY_ADDRESS:-}}
case ${1:-} in
  --address)
    address=${2:-}
    shift
    [[ $# -eq 0 ]] || shift
    ;;
  --address=*)
    address=${1#*=}
    shift
    ;;
esac

command -v ray > /dev/null || refuse "ray is not on the PATH; activate the environment that the project is installed in"
[[ -n $address ]] || refuse "no cluster address; set RAY_ADDRESS=http://HEAD:8265 or give --address http://HEAD:8265"
case $address in
  auto | local | ray://*)
    refuse "'$address' is no address for jobs; expected the head's dashboard, such as http://HEAD:8265"
    ;;
esac

[[ $# -gt 0 ]] || refuse "no configuration file; $usage"
config=$1
shift
[[ -f $config ]] || refuse "no configuration file '$config'; $usage"
here=$(pwd -P)
found=$(realpath -- "$config")
[[ $found == "$here"/* ]] ||
  refuse "'$config' is outside of '$here', which is all that travels with the job; copy it here, or call from its project"
config=${found#"$here"/}

out=
for argument in "$@"; do
  case $argument in
    out=*) out=${argument#out=} ;;
    cluster.address=*) refuse "cluster.address is set by this script: a job runs on the cluster it is submitted to" ;;
  esac
done
[[ -n $out ]] || refuse "no out=...; give a folder that all nodes share, such as out=/shared/results, or a storage URI"
[[ $out == /* || $out == *://* ]] ||
  refuse "out=$out is relative, but a job runs in an unpacked copy of this folder; give an absolute path that all nodes share, or a storage URI"

id="harness-$(date -u +%Y%m%dT%H%M%SZ)-$$"
trap 'printf "the job goes on; stop it with: ray job stop --address %s %s\n" "$address" "$id" >&2; exit 130' INT

status=0
ray job submit --address "$address" --submission-id "$id" --working-dir . \
  --runtime-env "$(dirname "${BASH_SOURCE[0]}")/runtime_env.yaml" -- \
  python -m harness run "$config" cluster.address=auto "$@" || status=$?

# `ray job submit` exits with 0 for a stopped job too, and with 1 for every failure.
report=$(ray job status --address "$address" "$id" 2>&1) || true
case $report in
  *"Job '$id' succeeded"*) exit 0 ;;
  *"Job '$id' was stopped"*)
    printf 'the job was stopped; committed work is kept. Submit it again to go on\n' >&2
    exit 143
    ;;
  *"failed with exit code "*)
    code=${report#*failed with exit code }
    code=${code%%[!0-9]*}
    exit "${code:-1}"
    ;;
  *"Job '$id' failed"*) exit 1 ;;
esac
printf 'the end of the job is unknown; ask with: ray job status --address %s %s\n' "$address" "$id" >&2
exit "$((status == 0 ? 1 : status))"

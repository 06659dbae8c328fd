# shellcheck shell=bash
# The environment of every node that `ray up` starts; aws.yaml, gcp.yaml and on_premises.yaml copy it
# there and source it. A failing last command would end Ray's own commands on the node.

export PATH="$HOME/venv/bin:$PATH"

# Without the token nothing on the cluster answers: no job, no actor, no dashboard page.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.config/prompt-grid/auth_token"

# Replicas on all nodes share one copy of a hub model.
export HF_HOME=/shared/huggingface

# `ray job stop` sends SIGKILL 3 s after SIGTERM by default; the driver may need longer to close a run.
export RAY_JOB_STOP_WAIT_TIME_S=30

# Ray reports usage to its makers unless told not to.
export RAY_USAGE_STATS_ENABLED=0

# HF_TOKEN and other secrets, NAME=value per line, readable by this user alone.
if [ -r "$HOME/.config/prompt-grid/secrets.env" ]; then
  set -a
  # shellcheck source=/dev/null
  . "$HOME/.config/prompt-grid/secrets.env"
  set +a
fi

#!/bin/bash
#SBATCH --job-name=repalign
#SBATCH --ntasks=4                 # workers
#SBATCH --cpus-per-task=4
#SBATCH --mem-per-cpu=4G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.log
## #SBATCH --gpus-per-task=1       # one GPU a worker

# Records a network on the workers of one job. What is finished stays: submit it again, and it
# goes on. Arguments go to `repalign record`:
#     sbatch slurm.sh resnet50 --stimuli my_session.toml --layers layer4
set -euo pipefail

: "${SHARED:?set SHARED to a folder that all nodes see}"
export REPALIGN_CACHE=$SHARED/stores
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}

address=$SHARED/scheduler-$SLURM_JOB_ID.json
dask scheduler --scheduler-file "$address" --port 0 --no-dashboard &
started=$!
trap 'kill $started 2>/dev/null || true; rm -f "$address"' EXIT

srun dask worker --scheduler-file "$address" --no-dashboard --no-nanny --nworkers 1 \
    --nthreads "$OMP_NUM_THREADS" --memory-limit 0 --death-timeout 120 \
    --local-directory "${TMPDIR:-/tmp}" &
started="$started $!" # a worker that comes late would wait for a scheduler that has gone

until [ -s "$address" ]; do sleep 1; done
repalign record "$@" --to "$REPALIGN_CACHE" \
    --scheduler "$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$address")"

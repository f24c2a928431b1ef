#!/bin/bash
#PBS -N repalign
#PBS -l select=4:ncpus=4:mem=16gb
#PBS -l walltime=04:00:00
#PBS -j oe
## #PBS -l select=4:ncpus=4:ngpus=1:mem=16gb    # one GPU a worker

# Records a network on the workers of one job, one a chunk of `select`. What is finished stays:
# submit it again, and it goes on. qsub passes no arguments, so name them in ARGUMENTS:
#     qsub -v SHARED=/shared/me,ARGUMENTS="resnet50 --stimuli my_session.toml --layers layer4" pbs.sh
set -euo pipefail
cd "${PBS_O_WORKDIR:-.}"

: "${SHARED:?set SHARED to a folder that all nodes see}" "${ARGUMENTS:?}"
export REPALIGN_CACHE=$SHARED/stores
export OMP_NUM_THREADS=${NCPUS:-1}

address=$SHARED/scheduler-$PBS_JOBID.json
dask scheduler --scheduler-file "$address" --port 0 --no-dashboard &
started=$!
trap 'kill $started 2>/dev/null || true; rm -f "$address"' EXIT

# pbsdsh starts a bare shell on each chunk: programs are given by their whole path.
pbsdsh -- "$(command -v dask)" worker --scheduler-file "$address" --no-dashboard --no-nanny \
    --nworkers 1 --nthreads "$OMP_NUM_THREADS" --memory-limit 0 --death-timeout 120 \
    --local-directory "${TMPDIR:-/tmp}" &
started="$started $!" # a worker that comes late would wait for a scheduler that has gone

until [ -s "$address" ]; do sleep 1; done
# shellcheck disable=SC2086
repalign record $ARGUMENTS --to "$REPALIGN_CACHE" \
    --scheduler "$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["address"])' "$address")"

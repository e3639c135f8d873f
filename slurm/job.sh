#!/usr/bin/env bash
# The body of every Slurm job: starts the ranks on all nodes, and decides what becomes of the job when they end.
# The .sbatch files beside it, and what `dstrain submit` writes, hold directives and hand over to it.
#
#   bash slurm/job.sh RECIPE [section.key=value ...]        # inside a job, on its first node
#
# From the environment:
#   DSTRAIN_LAUNCHER   deepspeed (default): one task a node, which starts that node's ranks; srun: one task a rank
#   RANKS_PER_NODE     default: the job's GPUs on a node, or 1 on the CPU
#   DSTRAIN_CONTAINER  command before every Python, such as: apptainer exec --nv image.sif
#   DSTRAIN_GIVE_UP    failures in a row, without a newer checkpoint in between, after which to give up (default: 3)
#   DSTRAIN_CHAIN      yes: this job is one of several (an array with %1, slurm/train_chain.sbatch): at its time limit
#                      it ends and the next goes on; when the run is done, the others are taken out of the queue
#   DSTRAIN_SWEEP      section.key=VALUE,VALUE,...: a job of an array takes the value of its number, from 0
#
# The ranks' exit code decides: 0 done. 75 (left on request, saved): the job puts itself back into the queue, unless
# Slurm has done so or somebody cancelled it. 2 (a mistake in the recipe): it ends. Anything else is a failure: back into
# the queue, until DSTRAIN_GIVE_UP. A job that starts again goes on from the run's newest checkpoint.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/common.sh
. "$here/../launch/common.sh"

left=75 users_mistake=2
node_answers_within_s=30
slurm_notices_within_s=900  # SlurmdTimeout is 300 s by default

main() {
    check_arguments "$@"
    job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}  # a plain number could mean the whole array
    job=${job:-$SLURM_JOB_ID}
    restarts=${SLURM_RESTART_COUNT:-0}
    asked_at_limit=no
    told_to_end=no
    requeued=no
    step=
    # From the beginning: a shell that dies of a signal puts no job back into the queue.
    trap 'asked_at_limit=yes; [ -z "$step" ] || kill -USR1 "$step" 2> /dev/null || true' USR1
    trap 'told_to_end=yes; [ -z "$step" ] || kill -USR1 "$step" 2> /dev/null || true' TERM
    choose_python
    take_value_of_the_sweep
    keep_what_a_restart_may_not_repeat
    read_recipe
    choose_ranks
    choose_meeting_point
    say "${#nodes[@]} nodes x $ranks ranks by $launcher: ${nodes[*]}"

    leave_if_asked
    start_ranks &
    step=$!
    if [ "$asked_at_limit$told_to_end" != nono ]; then  # between the traps and the line above
        kill -USR1 "$step" 2> /dev/null || true
    fi
    wait_for_ranks
    if [ "$code" -eq 0 ]; then
        finish
    elif [ "$code" -eq "$left" ]; then
        leave
    elif [ "$code" -eq "$users_mistake" ]; then
        say "a mistake that a restart would only repeat (its line stands above): the job ends"
        cancel_rest_of_chain
    else
        fail
    fi
    exit "$code"
}

check_arguments() {
    if [ $# -eq 0 ]; then
        refuse "usage: sbatch slurm/train.sbatch RECIPE [section.key=value ...]"
    fi
    if [ -z "${SLURM_JOB_ID:-}" ]; then
        refuse "slurm/job.sh runs inside a Slurm job only: sbatch slurm/train.sbatch RECIPE"
    fi
    arguments=("$@")
    launcher=${DSTRAIN_LAUNCHER:-deepspeed}
    case $launcher in
        deepspeed | srun) ;;
        *) refuse "DSTRAIN_LAUNCHER=$launcher: no such launcher; say deepspeed (a task a node) or srun (a task a rank)" ;;
    esac
    give_up_after=${DSTRAIN_GIVE_UP:-3}
    if ! [[ $give_up_after =~ ^[1-9][0-9]{0,5}$ ]]; then
        refuse "DSTRAIN_GIVE_UP=$give_up_after: not a number of failures; say for example 3"
    fi
}

# In a container it is the container's python3, or else .venv's.
choose_python() {
    if [ -n "${DSTRAIN_CONTAINER:-}" ]; then
        read -r -a python <<< "$DSTRAIN_CONTAINER python3"
    else
        use_venv
        python=("$venv/bin/python")
    fi
    export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
}

take_value_of_the_sweep() {
    local name text values value
    if [ -z "${DSTRAIN_SWEEP:-}" ]; then
        return
    fi
    name=${DSTRAIN_SWEEP%%=*}
    text=${DSTRAIN_SWEEP#*=}
    IFS=, read -r -a values <<< "$text"
    if [ "$name" = "$DSTRAIN_SWEEP" ] || [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
        refuse "$DSTRAIN_SWEEP: a sweep is section.key=VALUE,VALUE,... in a job array: see slurm/sweep.sbatch"
    fi
    if [ "${SLURM_ARRAY_TASK_COUNT:-0}" -ne "${#values[@]}" ] || [ "$SLURM_ARRAY_TASK_ID" -ge "${#values[@]}" ]; then
        refuse "$DSTRAIN_SWEEP has ${#values[@]} values, and the array ${SLURM_ARRAY_TASK_COUNT:-0} jobs (this one is \
number $SLURM_ARRAY_TASK_ID): sbatch --array=0-$((${#values[@]} - 1)) fits"
    fi
    value=${values[SLURM_ARRAY_TASK_ID]}
    arguments+=("$name=$value")
    run_suffix=-${name##*.}-$value
}

# --fresh means the first start: a job that comes back goes on.
keep_what_a_restart_may_not_repeat() {
    local argument kept=()
    if [ "$restarts" -eq 0 ]; then
        return
    fi
    for argument in "${arguments[@]}"; do
        case $argument in
            --fresh | --yes) ;;
            *) kept+=("$argument") ;;
        esac
    done
    arguments=("${kept[@]}")
}

# A mistake in the recipe ends the job here, before any node is asked for anything. Its environment section is exported,
# so that the launcher has it, too.
read_recipe() {
    local code=0
    run_folder=$("${python[@]}" -m dstrain.cluster.run_path "${arguments[@]}") || code=$?
    if [ "$code" -eq 0 ] && [ -n "${run_suffix:-}" ]; then
        arguments+=("run.name=$(basename "$run_folder")$run_suffix")
        run_folder=$("${python[@]}" -m dstrain.cluster.run_path "${arguments[@]}") || code=$?
    fi
    [ "$code" -ne 0 ] || take_environment "${python[@]}" -- "${arguments[@]}" || code=$?
    leave_if_asked
    if [ "$code" -eq "$users_mistake" ]; then
        cancel_rest_of_chain
        exit "$code"
    elif [ "$code" -ne 0 ]; then  # the machine's: a disk that is not mounted yet, Python killed
        if [ "$restarts" -lt "$give_up_after" ]; then
            go_on_later "the recipe could not be read (exit code $code)"
        else
            say "gives up: the recipe could not be read in $((restarts + 1)) starts (exit code $code)"
            cancel_rest_of_chain
        fi
        exit "$code"
    fi
    notes=$run_folder/slurm
    mkdir -p "$notes"
    newest_at_start=$(newest)
}

# Before there are ranks.
leave_if_asked() {
    if [ "$asked_at_limit$told_to_end" != nono ]; then
        code=$left
        go_on_later "asked to leave before any rank was started"
        exit "$code"
    fi
}

choose_ranks() {
    local gpus=${SLURM_GPUS_ON_NODE:-0} tasks=${SLURM_NTASKS_PER_NODE:-1}
    tasks=${tasks%%[!0-9]*}
    ranks=${RANKS_PER_NODE:-$((gpus > 0 ? gpus : 1))}
    if ! [[ $ranks =~ ^[1-9][0-9]*$ ]]; then
        refuse "RANKS_PER_NODE=$ranks: not a number of ranks; say for example 8, or leave it out"
    fi
    cpus=${SLURM_CPUS_ON_NODE:-1}
    if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then
        cpus=$((SLURM_CPUS_PER_TASK * ${tasks:-1}))
    fi
    share=$((cpus / ranks > 0 ? cpus / ranks : 1))
    if [ "$gpus" -eq 0 ] && [ "${DS_ACCELERATOR:-cpu}" = cpu ]; then
        export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$share}  # the job's cores, which may be fewer than the node's
        use_cpu "$ranks"
    fi
    export PYTHONUNBUFFERED=1
}

# The ranks meet at the first node, at a port of this job and this start: what an earlier start left behind is not met.
choose_meeting_point() {
    local listed
    listed=$(slurm scontrol show hostnames "$SLURM_JOB_NODELIST")
    mapfile -t nodes <<< "$listed"
    export MASTER_ADDR=${nodes[0]}
    MASTER_PORT=$(port_for "$SLURM_JOB_ID start $restarts")
    export MASTER_PORT
    hostfile=$(realpath "$notes")/hostfile-$SLURM_JOB_ID
    printf "%s slots=$ranks\n" "${nodes[@]}" > "$hostfile"
}

# The first rank that ends takes the others along: they have this long to end by themselves, as they do when all save
# and leave. USR1 reaches the ranks through srun. Slurm's own TERM reaches them directly, and is kept from srun, which
# would end them at once.
start_ranks() {
    local shape=(--nodes="${#nodes[@]}" --kill-on-bad-exit=0 --wait=120 --mpi=none)
    trap '' TERM
    trap - USR1
    if [ "$launcher" = srun ]; then
        exec srun "${shape[@]}" --ntasks=$((${#nodes[@]} * ranks)) --ntasks-per-node="$ranks" --cpus-per-task="$share" \
            "${python[@]}" "$root/launch/train.py" "${arguments[@]}"
    fi
    # $SLURM_NODEID is each task's own, so it is read there.
    # shellcheck disable=SC2016
    exec srun "${shape[@]}" --ntasks="${#nodes[@]}" --ntasks-per-node=1 --cpus-per-task="$cpus" --cpu-bind=none \
        bash -c 'hostfile=$1 train=$2 python=("${@:4:$3}"); shift $((3 + $3))
            exec "${python[@]}" "${train%/*}/run_deepspeed.py" --quiet --hostfile "$hostfile" --no_ssh \
                --node_rank "$SLURM_NODEID" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" "$train" "$@"' \
        node "$hostfile" "$root/launch/train.py" "${#python[@]}" "${python[@]}" "${arguments[@]}"
}

# A signal ends a `wait`, not the ranks.
wait_for_ranks() {
    local looked=no
    code=0
    while true; do
        code=0
        wait "$step" || code=$?
        if ! kill -0 "$step" 2> /dev/null; then
            break
        fi
        if [ "$told_to_end$looked" = yesno ]; then
            looked=yes
            ask_slurm
            if [ "$state" = at-limit ]; then  # Slurm does not bring back what came to its limit
                requeue "the time limit has come"
            fi
        fi
    done
    wait "$step" 2> /dev/null || code=$?  # where a signal came at that very moment, the step's own code
}

finish() {
    say "the run is done"
    rm -f "$notes/failures"
    cancel_rest_of_chain
}

leave() {
    if [ "$asked_at_limit" = yes ] && [ "$(newest)" = "$newest_at_start" ]; then
        count_failure
        if [ "$failures" -ge "$give_up_after" ]; then
            give_up "came to its time limit $failures times without a newer checkpoint: ask for more time (--time)"
            return
        fi
    fi
    go_on_later "saved and left on request"
}

fail() {
    wait_for_lost_nodes
    ask_slurm
    if [ "$state" = requeued ] || [ "$state" = cancelled ]; then  # its ranks were ended, and did not fail
        go_on_later "ended with exit code $code"
        return
    fi
    count_failure
    if [ "$failures" -ge "$give_up_after" ]; then
        give_up "failed $failures times in a row without a newer checkpoint, the last time with exit code $code"
    else
        go_on_later "failed with exit code $code ($failures of $give_up_after in a row without a newer checkpoint)"
    fi
}

give_up() {
    say "gives up: $run_folder $1. See why: dstrain postmortem $run_folder"
    cancel_rest_of_chain
}

go_on_later() {
    ask_slurm
    if [ "$state" = cancelled ]; then
        say "$1; cancelled, so it does not come back. To go on: submit it again"
    elif [ "$state" = requeued ] || [ "$requeued" = yes ]; then
        say "$1; Slurm has it in the queue again"
    elif [ "${DSTRAIN_CHAIN:-no}" = yes ] && [ "$code" -eq "$left" ]; then
        say "$1; the next job of the chain goes on"
    else
        requeue "$1"
    fi
}

requeue() {
    if slurm scontrol requeue "$job"; then
        requeued=yes
        say "$1; back in the queue"
    elif [ "${DSTRAIN_CHAIN:-no}" = yes ]; then
        say "$1; \`scontrol requeue $job\` failed (its reason stands above): the next job of the chain goes on"
    else
        say "$1; \`scontrol requeue $job\` failed (its reason stands above): submit it again to go on"
    fi
}

# Where Slurm has this job: running (its end is ours to decide), requeued by Slurm, at-limit, or cancelled. While a job
# comes to its end, its state says COMPLETING whatever the reason; Restarts and Reason say more.
ask_slurm() {
    local shown
    state=running
    if ! shown=$(slurm scontrol --oneliner show job "$job"); then
        return
    fi
    if [[ $shown =~ (^| )Restarts=([0-9]+) ]] && [ "${BASH_REMATCH[2]}" -gt "$restarts" ]; then
        state=requeued
    elif [[ $shown =~ (^| )JobState=RUNNING( |$) ]]; then
        state=running
    elif [[ $shown =~ (^| )(JobState=TIMEOUT|Reason=TimeLimit)( |$) ]]; then
        state=at-limit
    elif [[ $shown =~ (^| )JobState=(PENDING|REQUEUED|REQUEUE_HOLD) ]]; then
        state=requeued
    else
        state=cancelled
    fi
}

# A node that is gone makes the ranks fail before Slurm knows of it. A restart would meet the same node again: Slurm is
# given the time to notice, take the node out and bring the job back on others.
wait_for_lost_nodes() {
    local deadline=$((SECONDS + slurm_notices_within_s)) lost
    while lost=$(silent_nodes) && [ -n "$lost" ] && [ "$SECONDS" -lt "$deadline" ]; do
        say "no answer from $lost: waiting for Slurm to notice"
        wait_a_little 15
        ask_slurm
        if [ "$state" != running ]; then
            return
        fi
    done
}

# Nodes on which not even `true` can be started.
silent_nodes() {
    local node found=()
    declare -A asked=()
    for node in "${nodes[@]}"; do
        timeout "$node_answers_within_s" srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" --mpi=none \
            true > /dev/null 2>&1 < /dev/null &
        asked[$node]=$!
    done
    for node in "${nodes[@]}"; do
        wait "${asked[$node]}" || found+=("$node")
    done
    echo "${found[*]}"
}

# In the background, so that a signal is heard at once.
wait_a_little() {
    sleep "$1" &
    wait $! || true
}

# Of this job, counted from the last one after which there was a newer checkpoint; beside the run, so that it outlives
# a restart. The chain's jobs count together.
count_failure() {
    local whose=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID} job_before='' checkpoint_before='' now
    failures=0
    now=$(newest)
    if [ -f "$notes/failures" ]; then
        read -r job_before failures checkpoint_before < "$notes/failures" || true
    fi
    if [ "$job_before" != "$whose" ] || [ "$checkpoint_before" != "$now" ] || ! [[ $failures =~ ^[0-9]+$ ]]; then
        failures=0
    fi
    failures=$((failures + 1))
    echo "$whose $failures $now" > "$notes/failures"
}

newest() {
    cat "$run_folder/checkpoints/latest" 2> /dev/null || echo none
}

cancel_rest_of_chain() {
    if [ "${DSTRAIN_CHAIN:-no}" = yes ] && [ -n "${SLURM_ARRAY_JOB_ID:-}" ]; then
        slurm scancel --state=PENDING "$SLURM_ARRAY_JOB_ID" || true
    fi
}

# The controller may be away for a moment.
slurm() {
    local attempt
    for attempt in 1 2 3 4 5; do
        if "$@"; then
            return
        fi
        if [ "$attempt" -lt 5 ]; then
            wait_a_little "${DSTRAIN_SLURM_RETRY_S:-5}"
        fi
    done
    return 1
}

say() {
    printf 'job %s, start %s, %(%F %T)T: %s\n' "$job" $((restarts + 1)) -1 "$1"
}

refuse() {
    echo "$1" >&2
    cancel_rest_of_chain
    exit "$users_mistake"
}

main "$@"
